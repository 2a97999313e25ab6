"""Rigid registration of two images of one head, and images on another grid.

Affines and matrices are those of NIfTI: (4, 4), in mm, x to the right, y to the front, z to the top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

#: From NIfTI's axes (right, anterior, superior) to those of ITK (left, posterior, superior), and back.
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])

#: The pyramid, coarse to fine: voxels along an axis that become one, and Gaussian in mean voxel edges.
SHRINK, SMOOTHING = (4, 2, 1), (4.0, 2.0, 0.5)

#: Voxels of a level, inside the masks or not, that are compared at most; they are drawn at random.
SAMPLES = 500_000

#: Fewest voxels along an axis of a level.
SMALLEST_LEVEL = 8

#: Quantiles in the mask at which values are clipped: veins and streaks would outweigh all else.
CLIPPED = (0.01, 0.99)

#: First and last step, mm.
FIRST_STEP, LAST_STEP = 1.0, 1e-4

#: Seed of the voxels that are compared.
SEED = 1

INTERPOLATORS = {"bspline": sitk.sitkBSpline, "linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}


@dataclass(frozen=True)
class Registration:
    """How an image lies to another.

    Attributes
    ----------
    matrix : numpy.ndarray
        (4, 4), float64, rigid: from a point of the moving image to the same point of the object in the
        fixed one, both in scanner coordinates, mm. ``matrix @ moving_affine`` is an affine with which the
        moving image, untouched, lies on the fixed one.
    metric : float
        Correlation at the end, 0 to 1, of both images clipped and smoothed by half a voxel.
    converged : bool
        Whether the last level ended before its iterations did.
    """

    matrix: np.ndarray
    metric: float
    converged: bool


def register(
    moving: Tensor,
    fixed: Tensor,
    *,
    moving_mask: Tensor,
    fixed_mask: Tensor,
    moving_affine: np.ndarray,
    fixed_affine: np.ndarray,
    max_iterations: int = 200,
    threads: int = 1,
) -> Registration:
    """Find the rigid motion between two images of the same contrast.

    Maximises the squared correlation over the voxels of both masks by regular steps along the gradient,
    from coarse to fine in three levels. It starts where the masks' centres of gravity coincide, so
    shifts of any length are found, and turns of some 30 degrees. Values are clipped at the 1st and 99th
    percentiles in the mask, and what lies outside it does not count. With one thread the result is the
    same every time; with more, sums are added in another order.

    Parameters
    ----------
    moving, fixed : Tensor
        (x, y, z), any unit, each on a grid of its own.
    moving_mask, fixed_mask : Tensor
        (x, y, z) of their images, bool, the object that is rigid.
    moving_affine, fixed_affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm; oblique, left-handed and anisotropic ones are fine.
    max_iterations : int
        Most iterations of a level.
    threads : int
        Threads to use.

    Returns
    -------
    Registration
        The motion that takes the moving image to the fixed one.

    Raises
    ------
    ValueError
        If a mask is empty or not of its image's shape, an image is constant or not finite in its mask, an
        affine is not one, or the masks do not overlap once their centres do.

    Examples
    --------
    >>> x, y, z = torch.meshgrid(*(torch.arange(16.0) - 7.5,) * 3, indexing="ij")
    >>> fixed, affine = x * torch.exp(-(x**2 + 2 * y**2 + 3 * z**2) / 50), np.eye(4)
    >>> mask, shifted = x**2 + y**2 + z**2 < 50, np.eye(4)
    >>> shifted[0, 3] = 2
    >>> found = register(
    ...     fixed, fixed, moving_mask=mask, fixed_mask=mask, moving_affine=shifted, fixed_affine=affine
    ... )
    >>> abs(found.matrix[:3, 3].round(3)).tolist(), found.converged
    ([2.0, 0.0, 0.0], True)
    """
    moving_image, moving_inside = _compared(moving, moving_mask, moving_affine, name="moving")
    fixed_image, fixed_inside = _compared(fixed, fixed_mask, fixed_affine, name="fixed")
    start = mask_centre(fixed_mask, fixed_affine)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(start.tolist())
    transform.SetTranslation((mask_centre(moving_mask, moving_affine) - start).tolist())
    method = _method(fixed_image, max_iterations=max_iterations, threads=threads)
    method.SetMetricFixedMask(fixed_inside)
    method.SetMetricMovingMask(moving_inside)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed_image, moving_image)
    if not method.GetMetricNumberOfValidPoints():
        raise ValueError(
            "the images cannot be registered: no voxel lies in both masks once their centres meet"
        )
    converged = method.GetOptimizerIteration() < max_iterations
    correlation = float(np.sqrt(max(-method.GetMetricValue(), 0.0)))
    return Registration(np.linalg.inv(_scanner_matrix(transform)), correlation, converged)


def resample(
    image: Tensor,
    *,
    affine: np.ndarray,
    matrix: np.ndarray,
    like_shape: Sequence[int],
    like_affine: np.ndarray,
    interpolation: str = "bspline",
    threads: int = 1,
) -> Tensor:
    """An image, moved, on the grid of another.

    Parameters
    ----------
    image : Tensor
        (x, y, z), any unit; may be bool or of whole numbers.
    affine : numpy.ndarray
        (4, 4), its voxels to scanner coordinates in mm.
    matrix : numpy.ndarray
        (4, 4), where a point of the image goes, in scanner coordinates: that of a `Registration` whose
        moving image this is, or the identity.
    like_shape : sequence of int
        Voxels of the grid.
    like_affine : numpy.ndarray
        (4, 4), the grid's voxels to scanner coordinates in mm.
    interpolation : {"bspline", "linear", "nearest"}
        Cubic B-splines are the most exact for maps, but overshoot at edges. Nearest is for labels and masks.
    threads : int
        Threads to use.

    Returns
    -------
    Tensor
        Of ``like_shape``, 0 where the grid reaches out of the image. Nearest keeps the type of the image;
        the others give float32, or float64 if that is what they get.

    Raises
    ------
    ValueError
        If the image is not finite somewhere, the matrix or an affine is not one, or the interpolation is
        unknown.

    Examples
    --------
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 1
    >>> line = torch.arange(1.0, 5.0).reshape(4, 1, 1)
    >>> grid = {"affine": np.eye(4), "like_shape": (4, 1, 1), "like_affine": np.eye(4)}
    >>> resample(line, matrix=shift, **grid, interpolation="linear").flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    if interpolation not in INTERPOLATORS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATORS)}, got {interpolation!r}")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("the image to resample is not finite everywhere; set such voxels to a number first")
    dtype = image.dtype if interpolation == "nearest" or image.dtype == torch.float64 else torch.float32
    values = image.detach().to(torch.uint8 if dtype == torch.bool else dtype).cpu().numpy()
    # ITK asks where each voxel of the grid comes from. Asked in voxels, it needs neither origin nor axes, for
    # which it would allow no shear.
    source = np.linalg.inv(checked_affine(matrix, name="matrix") @ checked_affine(affine, name="affine"))
    pull = source @ checked_affine(like_affine, name="affine of the grid")
    filled = sitk.ResampleImageFilter()
    filled.SetNumberOfThreads(threads)
    filled.SetSize([int(size) for size in like_shape])
    filled.SetTransform(affine_transform(pull))
    filled.SetInterpolator(INTERPOLATORS[interpolation])
    found = filled.Execute(sitk.GetImageFromArray(values.transpose(2, 1, 0)))
    moved = np.ascontiguousarray(sitk.GetArrayFromImage(found).transpose(2, 1, 0))
    return torch.from_numpy(moved).to(image.device, dtype)


def _method(fixed: sitk.Image, *, max_iterations: int, threads: int) -> sitk.ImageRegistrationMethod:
    """The search, but for the images, their masks and its start."""
    coarsest = max(min(fixed.GetSize()) // SMALLEST_LEVEL, 1)
    factors = [min(factor, coarsest) for factor in SHRINK]
    sampled = [min(1.0, SAMPLES * factor**3 / fixed.GetNumberOfPixels()) for factor in factors]
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(threads)
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(sampled, seed=SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([sigma * prod(fixed.GetSpacing()) ** (1 / 3) for sigma in SMOOTHING])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP,
        minStep=LAST_STEP,
        numberOfIterations=max_iterations,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _compared(image: Tensor, mask: Tensor, affine: np.ndarray, *, name: str) -> tuple[sitk.Image, sitk.Image]:
    """An image with its values clipped and continued outside its mask, and the mask, as ITK has them."""
    if image.shape != mask.shape:
        raise ValueError(
            f"the {name} image and its mask differ in shape: {tuple(image.shape)}, {tuple(mask.shape)}"
        )
    values, inside = image.detach().cpu().float().numpy(), mask.bool().cpu().numpy()
    if not inside.any():
        raise ValueError(f"the mask of the {name} image is empty")
    if not np.isfinite(values[inside]).all():
        raise ValueError(f"the {name} image is not finite in its mask")
    low, high = np.quantile(values[inside], CLIPPED)
    if low == high:
        raise ValueError(f"the {name} image is constant in its mask, so nothing shows how it lies")
    # Outside, each voxel takes the value of the nearest inside: smoothing then makes no edge of the mask's.
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    values = values[tuple(nearest)].clip(low, high)
    affine = checked_affine(affine, name=f"affine of the {name} image")
    return itk_image(values, affine), itk_image(inside.astype(np.uint8), affine)


def itk_image(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Array of (x, y, z) at its place in the scanner, as ITK has it."""
    image = sitk.GetImageFromArray(values.transpose(2, 1, 0))
    axes = (FLIP @ affine)[:3]
    spacing = np.linalg.norm(axes[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes[:, :3] / spacing).ravel().tolist())
    image.SetOrigin(axes[:, 3].tolist())
    return image


def mask_centre(mask: Tensor, affine: np.ndarray) -> np.ndarray:
    """Centre of gravity of a mask in ITK's coordinates."""
    voxel = mask.bool().nonzero().double().mean(dim=0).cpu().numpy()
    return (FLIP @ affine @ [*voxel, 1.0])[:3]


def _scanner_matrix(transform: sitk.Euler3DTransform) -> np.ndarray:
    """(4, 4) of a transform of ITK, in NIfTI's coordinates."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return FLIP @ matrix @ FLIP


def affine_transform(matrix: np.ndarray) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def checked_affine(matrix: np.ndarray, *, name: str) -> np.ndarray:
    """An affine in double precision."""
    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise ValueError(f"the {name} must be a (4, 4) matrix that is finite and can be inverted")
    return matrix
