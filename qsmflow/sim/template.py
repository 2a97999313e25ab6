"""The average adult brain in MNI space, from which every digital head starts.

The maps are those of the ICBM 2009a nonlinear symmetric template (Fonov et al. 2011,
10.1016/j.neuroimage.2010.07.033), which nilearn ships with its package.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from nilearn.datasets import (
    load_mni152_brain_mask,
    load_mni152_gm_template,
    load_mni152_template,
    load_mni152_wm_template,
)
from scipy import ndimage
from torch import Tensor

from qsmflow.sim.shapes import column, sample

#: mm between the samples of the distance to the brain's hull, and the box they fill.
HULL_SPACING = 2.0
HULL_BOX = ((-110.0, -150.0, -210.0), (110.0, 130.0, 130.0))
#: Sulci up to twice this wide are bridged by the hull, mm.
HULL_CLOSING = 5.0


@dataclass(frozen=True)
class Lattice:
    """Images on one regular lattice along the axes of MNI space.

    Parameters
    ----------
    values : Tensor
        (channel, x, y, z).
    origin : tuple of float
        Where the first sample lies, mm.
    spacing : float
        mm.
    """

    values: Tensor
    origin: tuple[float, float, float]
    spacing: float

    def __call__(self, points: Tensor) -> Tensor:
        """Values (channel, ...) at points (3, ...) in mm; the outermost samples go on for ever.

        Examples
        --------
        >>> lattice = Lattice(torch.arange(8.0).reshape(1, 2, 2, 2), (0, 0, 0), 2.0)
        >>> lattice(torch.tensor([1.0, 0.0, 2.0])).item()
        3.0
        """
        return sample(self.values, (points - column(self.origin, points)) / self.spacing)

    def points(self) -> Tensor:
        """Where the samples lie: (3, x, y, z) in mm."""
        axes = [
            start + self.spacing * torch.arange(size, device=self.values.device)
            for start, size in zip(self.origin, self.values.shape[1:], strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def to(self, device) -> "Lattice":
        """The same lattice on another device."""
        return replace(self, values=self.values.to(device))


@dataclass(frozen=True)
class Template:
    """The average brain in MNI space.

    Parameters
    ----------
    tissues : Lattice
        Channels: share of grey matter, white matter and fluid, 0 to 1 and zero outside the brain; T1-weighted
        intensity, 0 to 1.
    hull : Lattice
        One channel: signed distance in mm to the brain's outer surface with sulci bridged, negative inside;
        the brain stem ends at z = −72.
    """

    tissues: Lattice
    hull: Lattice

    def to(self, device) -> "Template":
        """The same template on another device."""
        moved = [Lattice(x.values.to(device), x.origin, x.spacing) for x in (self.tissues, self.hull)]
        return Template(*moved)


def load_template(device: torch.device | str = "cpu") -> Template:
    """Read the template, once a process and device.

    Parameters
    ----------
    device : torch.device or str
        Where it is needed.

    Returns
    -------
    Template

    Examples
    --------
    >>> template = load_template()
    >>> commissure = torch.zeros(3, 1, 1, 1)
    >>> template.tissues(commissure).shape, bool(template.hull(commissure) < -10)
    (torch.Size([4, 1, 1, 1]), True)
    """
    return _load_template(torch.device(device))


@lru_cache(maxsize=2)
def _load_template(device: torch.device) -> Template:
    if device.type != "cpu":
        return load_template().to(device)
    loaders = (load_mni152_gm_template, load_mni152_wm_template, load_mni152_brain_mask, load_mni152_template)
    images = [loader(resolution=1) for loader in loaders]
    grey, white, brain, t1 = (image.get_fdata(dtype=np.float32) for image in images)
    fluid = np.clip(brain - grey - white, 0, 1)
    values = torch.from_numpy(np.stack([grey, white, fluid, t1])).contiguous()
    origin = tuple(float(x) for x in images[0].affine[:3, 3])
    return Template(Lattice(values, origin, 1.0), _hull(brain > 0.5, origin))


def _hull(brain: np.ndarray, origin: Sequence[float]) -> Lattice:
    """Signed distance to the brain, closed over its sulci and a little smoothed."""
    lower, upper = np.array(HULL_BOX)
    shape = np.round((upper - lower) / HULL_SPACING).astype(int) + 1
    inside = ndimage.affine_transform(
        brain.astype(np.float32), [HULL_SPACING] * 3, lower - np.array(origin), output_shape=shape, order=1
    )
    outside = ndimage.distance_transform_edt(inside < 0.5, sampling=HULL_SPACING)
    closed = ndimage.distance_transform_edt(outside < HULL_CLOSING, sampling=HULL_SPACING) > HULL_CLOSING
    closed |= inside >= 0.5
    beyond, within = (ndimage.distance_transform_edt(x, sampling=HULL_SPACING) for x in (~closed, closed))
    # The surface runs half a sample beyond the last one inside.
    distance = ndimage.gaussian_filter(beyond - within + HULL_SPACING / 2 * np.where(closed, 1, -1), 1)
    return Lattice(torch.from_numpy(distance.astype(np.float32))[None], tuple(lower.tolist()), HULL_SPACING)
