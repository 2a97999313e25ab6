"""The measures of the tables: those of :mod:`qsmflow.core.metrics`, with headings and definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from qsmflow.core.metrics import DATA_RANGE, SIGMA, scores


@dataclass(frozen=True)
class Measure:
    """How a measure is shown.

    Parameters
    ----------
    heading : str
        Name with the unit.
    digits : int
        Decimals on the screen.
    rises : bool
        Whether a better map has more of it.
    definition : str
        A sentence.
    """

    heading: str
    digits: int
    rises: bool
    definition: str


#: By key of :func:`qsmflow.core.metrics.scores`.
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "rmse": Measure("RMSE (ppm)", 4, False, "RMSE: √(mean (x − y)²) over the mask."),
        "nrmse": Measure("NRMSE (%)", 1, False, "NRMSE: 100·‖x − y‖/‖y‖ in the mask, both demeaned there."),
        "psnr": Measure(
            "PSNR (dB)", 2, True, f"PSNR: 20·log10(range/RMSE) with a fixed range of {DATA_RANGE:g} ppm."
        ),
        "ssim": Measure(
            "SSIM",
            4,
            True,
            f"SSIM: Wang et al. 2004, 10.1109/TIP.2003.819861, in 3-D, Gaussian window of {SIGMA:g} voxels, "
            f"range {DATA_RANGE:g} ppm, demeaned, zero outside the mask, mean over the mask.",
        ),
        "hfen": Measure(
            "HFEN (%)",
            1,
            False,
            f"HFEN: 100·‖LoG(x − y)‖/‖LoG(y)‖ in the mask, Laplacian of a Gaussian of {SIGMA:g} voxels.",
        ),
        "xsim": Measure("XSIM", 3, True, "XSIM: Milovic et al. 2025, 10.1002/mrm.30271, mean over the mask."),
    }
)
#: By key: the definition, to be printed below a table.
DEFINITIONS: Mapping[str, str] = MappingProxyType({key: one.definition for key, one in MEASURES.items()})


def measured(value: Tensor, truth: Tensor, *, mask: Tensor, voxel_size: Sequence[float]) -> dict[str, float]:
    """Every measure of a map, after both maps lost their mean in the mask.

    A susceptibility is known up to a constant, so that no measure may depend on one.

    Parameters
    ----------
    value, truth : Tensor
        (x, y, z) in ppm.
    mask : Tensor
        (x, y, z), bool.
    voxel_size : sequence of float
        mm.

    Returns
    -------
    dict of str to float
        By key of :data:`MEASURES`.

    Examples
    --------
    >>> import torch
    >>> truth = torch.linspace(-0.1, 0.1, 512).reshape(8, 8, 8)
    >>> found = measured(truth + 5, truth, mask=torch.ones(8, 8, 8) > 0, voxel_size=(1, 1, 1))
    >>> round(found["rmse"], 5), round(found["ssim"], 5)
    (0.0, 1.0)
    """
    value, truth = (demeaned(image, mask) for image in (value, truth))
    return scores(value, truth, mask=mask, voxel_size=voxel_size)


def demeaned(image: Tensor, mask: Tensor) -> Tensor:
    """A map less its mean in a mask."""
    return image - image[mask].double().mean().to(image.dtype)
