"""How much of a map is an artefact of motion, as a network sees it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsmflow.nets.blocks import LEAK, double_convolution, folded

#: Severity that is taken for none: the logarithm of smaller ones would be of noise.
LEAST = 0.05
_HIDDEN = 64


class SeverityGauge(nn.Module):
    """Estimates the severity of motion: the norm of its artefacts over that of the map.

    Double convolutions and pooling, then mean and standard deviation of the features within the mask. So it
    takes a map of any size, and the patches that it learns from look to it like maps.

    Parameters
    ----------
    channels : tuple of int
        On each level, from fine to coarse; each but the last halves the edges.
    fold : int
        See :class:`qsmflow.nets.unet.UNetSettings`.

    Examples
    --------
    >>> gauge = SeverityGauge((2, 4), fold=2)
    >>> gauge(torch.rand(3, 1, 8, 8, 8), mask=torch.ones(3, 1, 8, 8, 8)).shape
    torch.Size([3])
    """

    def __init__(self, channels: tuple[int, ...], *, fold: int):
        super().__init__()
        self.fold = fold
        before = (fold**3, *channels[:-1])
        self.encoders = nn.ModuleList(map(double_convolution, before, channels))
        self.judge = nn.Sequential(
            nn.Linear(2 * channels[-1], _HIDDEN), nn.LeakyReLU(LEAK), nn.Linear(_HIDDEN, 1)
        )

    def forward(self, image: Tensor, *, mask: Tensor) -> Tensor:
        """Logarithms of severities, see :func:`log_severity`.

        Parameters
        ----------
        image : Tensor
            (b, 1, x, y, z), near one; edges are multiples of the U-Net's stride.
        mask : Tensor
            The same shape, ones and zeros.

        Returns
        -------
        Tensor
            (b,), float32.
        """
        features = folded(image, self.fold)
        for level, encode in enumerate(self.encoders):
            features = encode(F.max_pool3d(features, kernel_size=2) if level else features)
        features = features.float()
        weight = F.adaptive_avg_pool3d(mask, features.shape[2:])
        weight = weight / weight.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1e-6)
        mean = (features * weight).sum(dim=(2, 3, 4), keepdim=True)
        variance = ((features - mean).square() * weight).sum(dim=(2, 3, 4))
        spread = variance.clamp(min=1e-8).sqrt()
        return self.judge(torch.cat([mean.flatten(1), spread], dim=1))[:, 0].float()


def log_severity(severity: Tensor) -> Tensor:
    """What a gauge gives for a severity.

    Examples
    --------
    >>> [round(value, 3) for value in severity_of(log_severity(torch.tensor([0.0, 0.3]))).tolist()]
    [0.0, 0.3]
    """
    return (severity.square() + LEAST**2).log() / 2


def severity_of(logarithm: Tensor) -> Tensor:
    """Severity from what a gauge gives: not below zero."""
    return ((2 * logarithm).exp() - LEAST**2).clamp(min=0).sqrt()
