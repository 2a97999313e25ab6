"""Labels of a template brought to a subject."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from qsmflow.core.registration import SEED, itk_image, mask_centre

#: Edge in mm of the voxels that are compared, and Gaussian in mm, from coarse to fine.
SHRINK, SMOOTHING = (4, 2, 1), (6.0, 3.0, 1.0)
RESOLUTION = 2.0
#: Voxels that are compared on the finest level, drawn at random.
SAMPLES = 20_000
#: Bins of the joint histogram.
BINS = 40
#: Distance of the control points of the warp, mm.
CONTROL_SPACING = 30.0
AFFINE_ITERATIONS, WARP_ITERATIONS = 150, 20


@dataclass(frozen=True)
class CarriedLabels:
    """Labels on the grid of a subject.

    Attributes
    ----------
    labels : Tensor
        (x, y, z), int64.
    information : float
        Mutual information of subject and template at the end, nats: how well they agree, comparable within
        a study only.
    """

    labels: Tensor
    information: float


def carry_labels(
    labels: np.ndarray,
    *,
    labels_affine: np.ndarray,
    template: Tensor,
    template_affine: np.ndarray,
    image: Tensor,
    mask: Tensor,
    affine: np.ndarray,
    threads: int = 1,
) -> CarriedLabels:
    """Register the brain of a template to that of a subject and bring the template's labels along.

    Twelve affine parameters, then cubic B-splines with control points some 30 mm apart, by Mattes' mutual
    information, so the contrasts may differ. Labels are resampled once, to the nearest. Small nuclei are
    hit only as well as a smooth warp can; look at the figure.

    Parameters
    ----------
    labels : ndarray
        (x, y, z), whole numbers, in the space of the template; its grid may be another.
    labels_affine, template_affine : ndarray
        (4, 4), voxel to template coordinates in mm.
    template : Tensor
        (x, y, z), image of the brain alone: zero outside of it.
    image, mask : Tensor
        (x, y, z), of the subject: magnitude and brain.
    affine : ndarray
        (4, 4), its voxels to scanner coordinates in mm.
    threads : int
        Threads to use; with one the result is the same every time.

    Returns
    -------
    CarriedLabels
        On the grid of the image.

    Raises
    ------
    ValueError
        If the template is empty or the mask is.

    References
    ----------
    Mattes et al. 2003, 10.1109/TMI.2003.809072.
    """
    template_mask = template > 0
    if not bool(template_mask.any()) or not bool(mask.any()):
        raise ValueError("template and mask must not be empty")
    fixed = _coarse(_brain(image, mask, affine))
    inside = sitk.Cast(
        _coarse(itk_image(mask.cpu().numpy().astype(np.float32), affine)) > 0.5, sitk.sitkUInt8
    )
    moving = _brain(template, template_mask, template_affine)
    start, centre = sitk.AffineTransform(3), mask_centre(mask, affine)
    start.SetCenter(centre.tolist())
    start.SetTranslation((mask_centre(template_mask, template_affine) - centre).tolist())
    aligned, _ = _registered(
        fixed, moving, inside, start, levels=3, iterations=AFFINE_ITERATIONS, threads=threads
    )
    lengths = [size * edge for size, edge in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    mesh = [max(1, round(length / CONTROL_SPACING)) for length in lengths]
    bend = sitk.BSplineTransformInitializer(fixed, mesh)
    warp, value = _registered(
        fixed, moving, inside, bend, levels=2, iterations=WARP_ITERATIONS, threads=threads, before=aligned
    )
    whole = sitk.CompositeTransform([aligned, warp])
    carried = sitk.Resample(
        itk_image(np.asarray(labels, dtype=np.int32), labels_affine),
        itk_image(np.zeros(tuple(image.shape), np.uint8), affine),
        whole,
        sitk.sitkNearestNeighbor,
        0,
    )
    values = np.ascontiguousarray(sitk.GetArrayFromImage(carried).transpose(2, 1, 0)).astype(np.int64)
    return CarriedLabels(torch.from_numpy(values), -value)


def _brain(image: Tensor, mask: Tensor, affine: np.ndarray) -> sitk.Image:
    """The brain alone at its place, clipped where a vein or a bright rim would take most of the bins."""
    inside = mask.bool().cpu().numpy()
    values = image.detach().cpu().float().numpy()
    low, high = np.quantile(values[inside], (0.01, 0.99))
    return itk_image(np.where(inside, values.clip(low, high), 0).astype(np.float32), affine)


def _coarse(image: sitk.Image) -> sitk.Image:
    """An image on voxels of at least the resolution that is compared."""
    factors = [max(1, int(RESOLUTION // edge)) for edge in image.GetSpacing()]
    return sitk.BinShrink(image, factors)


def _registered(
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_mask: sitk.Image,
    transform: sitk.Transform,
    *,
    levels: int,
    iterations: int,
    threads: int,
    before: sitk.Transform | None = None,
) -> tuple[sitk.Transform, float]:
    """The transform that makes two images agree on the finest levels, and the metric there."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(threads)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(fixed_mask)
    share = SAMPLES / fixed.GetNumberOfPixels()
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([min(1.0, share * n**3) for n in SHRINK[-levels:]], seed=SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(SHRINK[-levels:])
    method.SetSmoothingSigmasPerLevel(SMOOTHING[-levels:])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    if before is None:
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=2.0, minStep=1e-3, numberOfIterations=iterations, gradientMagnitudeTolerance=1e-8
        )
        method.SetOptimizerScalesFromPhysicalShift()
    else:
        method.SetMovingInitialTransform(before)
        method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-6, numberOfIterations=iterations)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return transform, method.GetMetricValue()
