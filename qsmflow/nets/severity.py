"""How much of a map is an artefact of motion, as a network sees it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsmflow.nets.blocks import LEAK, double_convolution, folded

#: Severity that is taken for none: the logarithm of smaller ones would be of noise.
LEAST = 0.1
#: Severity below which an estimate may as well be of a map without motion: of twelve still heads that the
#: shipped gauge had not seen it found up to 0.30, of the same heads moving at least 0.41.
CERTAIN = 0.35
_HIDDEN = 64
#: Axes of a volume in a batch.
_SPACE = (2, 3, 4)
#: Least norm that a map is divided by, ppm, and largest value that is left then: what lies beside sinuses
#: would drown the rest.
_FAINT, _OUTLIER = 1e-3, 8.0
_LEAST_VARIANCE = 1e-4


class SeverityGauge(nn.Module):
    """Estimates the severity of motion: the norm of its artefacts over that of the map.

    Double convolutions and pooling; of the features on each level, mean and variance within the mask. So it
    takes a map of any size, and the patches that it learns from look to it like maps. As severity is a share,
    the map is divided by its norm, and logarithms of variances make ratios of them easy to learn.

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
        self.encoders = nn.ModuleList(map(double_convolution, (fold**3, *channels), channels))
        self.judge = nn.Sequential(
            nn.Linear(2 * sum(channels), _HIDDEN), nn.LeakyReLU(LEAK), nn.Linear(_HIDDEN, 1)
        )

    def forward(self, image: Tensor, *, mask: Tensor) -> Tensor:
        """Logarithms of severities, see :func:`log_severity`.

        Parameters
        ----------
        image : Tensor
            (b, 1, x, y, z), without its mean, zero outside the mask; edges are multiples of the U-Net's
            stride.
        mask : Tensor
            The same shape, ones and zeros.

        Returns
        -------
        Tensor
            (b,), float32.
        """
        variance = image.square().sum(_SPACE, keepdim=True) / mask.sum(_SPACE, keepdim=True).clamp(min=1)
        features = folded((image / variance.sqrt().clamp(min=_FAINT)).clamp(-_OUTLIER, _OUTLIER), self.fold)
        found = []
        for level, encode in enumerate(self.encoders):
            features = encode(F.max_pool3d(features, kernel_size=2) if level else features)
            found += _statistics(features.float(), mask)
        return self.judge(torch.cat(found, dim=1))[:, 0].float()


def _statistics(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each feature in the mask, and half the logarithm of its variance: (b, channels)."""
    weight = F.adaptive_avg_pool3d(mask, features.shape[2:])
    weight = weight / weight.sum(_SPACE, keepdim=True).clamp(min=1e-6)
    mean = (features * weight).sum(_SPACE, keepdim=True)
    variance = ((features - mean).square() * weight).sum(_SPACE)
    return mean.flatten(1), (variance + _LEAST_VARIANCE).log() / 2


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
