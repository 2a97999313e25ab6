"""The app's classic chain from echoes to susceptibility, on tensors, for making training data."""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from qsmflow.core.background.pdf import remove_background_pdf
from qsmflow.core.dipole import b0_direction
from qsmflow.core.echoes import fit_echoes
from qsmflow.core.inversion.medi import PRESETS, invert_medi
from qsmflow.core.masks import brain_mask, combine_masks, phase_quality_mask
from qsmflow.core.units import hertz_per_ppm, radian_per_hertz
from qsmflow.core.unwrap import unwrap_phase


@dataclass(frozen=True)
class Reconstruction:
    """What the chain makes of a scan, all maps (x, y, z).

    Parameters
    ----------
    susceptibility : Tensor
        ppm, zero outside the mask and without a mean in it.
    local_field : Tensor
        ppm of B0.
    noise : Tensor
        Standard deviation of the field, ppm.
    mask : Tensor
        bool.
    """

    susceptibility: Tensor
    local_field: Tensor
    noise: Tensor
    mask: Tensor


def reconstruct(
    signal: Tensor, *, echo_times: Sequence[float], affine: np.ndarray, field_strength: float
) -> Reconstruction:
    """Masks, echo fit, unwrapping, PDF and MEDI with the settings that the app has by default.

    Parameters
    ----------
    signal : Tensor
        (echo, x, y, z), complex.
    echo_times : sequence of float
        s.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    field_strength : float
        T.

    Returns
    -------
    Reconstruction
    """
    space = {"voxel_size": nib.affines.voxel_sizes(affine).tolist(), "b0_direction": b0_direction(affine)}
    magnitude = signal.abs().square().sum(0).sqrt()
    brain = brain_mask(magnitude, voxel_size=space["voxel_size"])
    fit = fit_echoes(signal, echo_times=echo_times, mask=brain)
    turn = radian_per_hertz(1 / fit.frequency_period)
    coherent = phase_quality_mask(fit.frequency * turn, magnitude=magnitude, mask=brain)
    mask = combine_masks(brain, coherent, voxel_size=space["voxel_size"]).mask
    unwrapped = unwrap_phase(fit.frequency * turn, weights=magnitude, mask=mask)
    local = remove_background_pdf(unwrapped.phase / turn, noise=fit.frequency_noise, mask=mask, **space)
    ppm = hertz_per_ppm(field_strength)
    field, noise = local.local_field / ppm, fit.frequency_noise / ppm
    found = invert_medi(
        field,
        noise=noise,
        magnitude=magnitude,
        mask=local.mask,
        settings=PRESETS["in-vivo"],
        radian_per_ppm=ppm * turn,
        **space,
    )
    inside = local.mask
    susceptibility = torch.where(inside, found.susceptibility - found.susceptibility[inside].mean(), 0)
    return Reconstruction(susceptibility, field, noise, inside)
