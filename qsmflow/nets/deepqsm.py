"""DeepQSM: susceptibility from the local field by a fully convolutional network that knows the dipole.

The U-Net of DeepQSM (Bollmann et al. 2019, 10.1016/j.neuroimage.2019.03.060) had to learn one dipole
kernel. Here U-Nets take turns with a step that fits the map to the measured field by the kernel of the
scan, as in unrolled networks (Aggarwal et al. 2019, 10.1109/TMI.2018.2865356), so voxel size and direction
of B0 are computed and what is learned is what the field does not tell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsmflow.nets.unet import UNet, UNetSettings

#: How much faster than weights the logarithm of µ is learned: steps of an optimiser are as large for all.
_DAMPING_PACE = 10.0


@dataclass(frozen=True)
class DeepQSMSettings:
    """Size of a :class:`DeepQSM`.

    Parameters
    ----------
    stages : int
        U-Nets, each followed by a fit to the field.
    channels, fold, scale
        Of each U-Net, see :class:`qsmflow.nets.unet.UNetSettings`.
    damping : float
        Where training starts with µ of :func:`DeepQSM.fit`.
    """

    stages: int = 3
    channels: tuple[int, ...] = (32, 64, 128)
    fold: int = 2
    scale: float = 10.0
    damping: float = 0.05

    @property
    def stride(self) -> int:
        """What the edges of an image must be a multiple of."""
        return self.unet.stride

    @property
    def maps(self) -> int:
        """Images that come from the last convolution of each U-Net."""
        return self.unet.maps

    @property
    def unet(self) -> UNetSettings:
        """Of each U-Net, which sees the map, what it leaves of the field, and the mask."""
        return UNetSettings(in_channels=3, channels=self.channels, fold=self.fold, scale=self.scale)


class DeepQSM(nn.Module):
    """Fit to the field, then U-Net and fit in turns.

    Parameters
    ----------
    settings : DeepQSMSettings

    Examples
    --------
    >>> from qsmflow.core.dipole import dipole_kernel
    >>> network = DeepQSM(DeepQSMSettings(stages=1, channels=(2, 4)))
    >>> kernel = dipole_kernel((24, 24, 24), voxel_size=(1, 1, 1), b0_direction=(0, 0, 1))
    >>> field, mask = torch.rand(1, 1, 16, 16, 16), torch.ones(1, 1, 16, 16, 16)
    >>> network(field, mask=mask, kernel=kernel[None]).shape
    torch.Size([1, 1, 16, 16, 16])
    """

    def __init__(self, settings: DeepQSMSettings):
        super().__init__()
        self.settings = settings
        self.refiners = nn.ModuleList(UNet(settings.unet) for _ in range(settings.stages))
        damping = torch.full((settings.stages + 1,), settings.damping)
        self.damping = nn.Parameter(damping.log() / _DAMPING_PACE)

    def forward(
        self,
        field: Tensor,
        *,
        mask: Tensor,
        kernel: Tensor,
        apply: Callable[[nn.Module, Tensor], Tensor] = lambda network, image: network(image),
    ) -> Tensor:
        """Susceptibility of a local field.

        Parameters
        ----------
        field : Tensor
            (b, 1, x, y, z), ppm; edges are multiples of ``settings.stride``.
        mask : Tensor
            (b, 1, x, y, z), one where the field is known and the sources lie, else zero.
        kernel : Tensor
            (b, gx, gy, gz // 2 + 1), as made by :func:`qsmflow.core.dipole.dipole_kernel` for a grid at
            least as large as the image; gz is even.
        apply : callable
            Applies a U-Net to an image, whole or in tiles.

        Returns
        -------
        Tensor
            (b, 1, x, y, z), ppm, zero outside the mask.
        """
        dampings = (_DAMPING_PACE * self.damping).exp()
        susceptibility = self.fit(torch.zeros_like(field), field, mask, kernel[:, None], dampings[0])
        for refiner, damping in zip(self.refiners, dampings[1:], strict=True):
            unexplained = _unexplained(susceptibility, field, mask, kernel[:, None])
            image = torch.cat([susceptibility, unexplained, mask / self.settings.scale], dim=1)
            refined = mask * apply(refiner, image)
            susceptibility = self.fit(refined, field, mask, kernel[:, None], damping)
        return susceptibility

    @staticmethod
    def fit(guess: Tensor, field: Tensor, mask: Tensor, kernel: Tensor, damping: Tensor) -> Tensor:
        """The map χ near a guess z that explains the field b: argmin ‖d ∗ χ − b‖² + µ‖χ − z‖².

        Where the field is unknown, that of the guess stands in, which leaves a division of spectra:
        χ = z + F⁻¹[D / (D² + µ) · F(M·(b − d ∗ z))].
        """
        unexplained = _unexplained(guess, field, mask, kernel)
        return guess + mask * _filtered(unexplained, kernel / (kernel.square() + damping))


def _unexplained(susceptibility: Tensor, field: Tensor, mask: Tensor, kernel: Tensor) -> Tensor:
    """What a map leaves of the field within the mask."""
    return mask * (field - _filtered(susceptibility, kernel))


def _filtered(image: Tensor, spectrum: Tensor) -> Tensor:
    """Image multiplied by a spectrum in the Fourier domain of the spectrum's grid."""
    grid = (*spectrum.shape[-3:-1], 2 * (spectrum.shape[-1] - 1))
    axes = (-3, -2, -1)
    filtered = torch.fft.irfftn(torch.fft.rfftn(image.float(), s=grid, dim=axes) * spectrum, s=grid, dim=axes)
    return filtered[tuple([..., *(slice(size) for size in image.shape[-3:])])]
