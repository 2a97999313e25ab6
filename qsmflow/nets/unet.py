"""3-D U-Net of double 3×3×3 convolutions (Çiçek et al. 2016, 10.1007/978-3-319-46723-8_49)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsmflow.nets.blocks import LEAK, double_convolution, folded, unfolded
from qsmflow.nets.severity import SeverityGauge

#: Edges of the cubes whose means a kernel takes in, voxels.
CUBES = (3, 5)
#: Axes of a volume in a batch.
_SPACE = (2, 3, 4)


@dataclass(frozen=True)
class UNetSettings:
    """Size of a :class:`UNet`.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the image.
    channels : tuple of int
        On each level, from fine to coarse; each level halves the edges.
    fold : int
        Edge of the blocks of voxels that are folded into channels before the first level, and unfolded after
        the last, as in FFDNet (Zhang et al. 2018, 10.1109/TIP.2018.2839891): 2 leaves an eighth of the voxels
        for the first level, which may have more channels then. 1 folds nothing.
    residual : bool
        Whether what is learned is added to the first ``out_channels`` of the input.
    scale : float
        The network computes on numbers this many times those that come in and go out: 10 brings ppm of
        tissue near one.
    reach : tuple of int
        Distances, in voxels along each axis, of the neighbours whose differences from a voxel are weighed
        and added to it, with those of the means around it and of zero. The network gives the weights then,
        as in kernel-predicting networks (Bako et al. 2017, 10.1145/3072959.3073708), and no voxel is far
        from what lies around it. Without any, it gives what is added itself.
    severity : tuple of int
        Channels of the :class:`qsmflow.nets.severity.SeverityGauge` that tells the network how much motion
        there is in the whole, which a part of it hardly shows; none: it is not told.

    Raises
    ------
    ValueError
        If neighbours are to be weighed where there is more than one map, or where nothing is added, or
        severity gauged in more than one map.

    Examples
    --------
    >>> UNetSettings(channels=(8, 16, 32), fold=2).stride
    8
    """

    in_channels: int = 1
    out_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 128, 192)
    fold: int = 2
    residual: bool = True
    scale: float = 10.0
    reach: tuple[int, ...] = ()
    severity: tuple[int, ...] = ()

    def __post_init__(self):
        if self.severity and self.in_channels != 1:
            raise ValueError("severity needs one in_channel")
        if self.reach and not (self.residual and self.out_channels == 1):
            raise ValueError("reach needs residual and one out_channel")

    @property
    def stride(self) -> int:
        """What the edges of an image must be a multiple of."""
        return self.fold * 2 ** (len(self.channels) - 1)

    @property
    def maps(self) -> int:
        """Images that come from the last convolution: those that are added, or their weights."""
        return 6 * len(self.reach) + len(CUBES) + 1 if self.reach else self.out_channels


class UNet(nn.Module):
    """Contracting path, expanding path, and skip connections that are concatenated.

    There is no normalisation: a map of susceptibility means what it says in ppm, and a tile of it must come
    out as it would within the whole. A fresh residual network changes nothing.

    Parameters
    ----------
    settings : UNetSettings

    Examples
    --------
    >>> network = UNet(UNetSettings(channels=(2, 4)))
    >>> image = torch.rand(1, 1, 8, 8, 8)
    >>> torch.equal(network(image), image)
    True
    """

    def __init__(self, settings: UNetSettings):
        super().__init__()
        self.settings = settings
        widths, block = settings.channels, settings.fold**3
        seen = settings.in_channels + bool(settings.severity)
        self.encoders = nn.ModuleList(map(double_convolution, (block * seen, *widths[:-1]), widths))
        self.upsamplers = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, kernel_size=2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.decoders = nn.ModuleList(double_convolution(2 * fine, fine) for fine in widths[:-1])
        self.head = nn.Conv3d(widths[0], block * settings.maps, kernel_size=1)
        if settings.severity:
            self.gauge = SeverityGauge(settings.severity, fold=settings.fold)
        for module in self.modules():
            # Without memory there is nothing to fill, and PyTorch would import its compiler to find that out.
            if isinstance(module, nn.Conv3d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, a=LEAK)
                nn.init.zeros_(module.bias)
        if settings.residual:
            nn.init.zeros_(self.head.weight)

    def forward(self, image: Tensor, *, severity: Tensor | None = None) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        image : Tensor
            (b, in, x, y, z); edges are multiples of ``settings.stride``.
        severity : Tensor, optional
            (b,) or a scalar; needed by a network with a gauge.

        Returns
        -------
        Tensor
            (b, out, x, y, z).
        """
        settings = self.settings
        seen = image * settings.scale
        if settings.severity:
            told = severity.to(image.dtype).reshape(-1, 1, 1, 1, 1).expand_as(image)
            seen = torch.cat([seen, told], dim=1)
        features = folded(seen, settings.fold)
        skipped = []
        for encode in self.encoders[:-1]:
            features = encode(features)  # (b, channels[level], x / 2^level, ...)
            skipped.append(features)
            features = F.max_pool3d(features, kernel_size=2)
        features = self.encoders[-1](features)
        for level in reversed(range(len(skipped))):
            features = self.upsamplers[level](features)
            features = self.decoders[level](torch.cat([skipped[level], features], dim=1))
        learned = self.head(features)
        unchanged = image[:, : settings.out_channels]
        # What is added may be rounded to bfloat16; what it is added to may not.
        if settings.reach:
            differences = _differences(unchanged, settings.reach)
            learned = _weighted(learned, differences, fold=settings.fold).to(image.dtype)
        else:
            learned = learned.to(image.dtype) / settings.scale
        learned = unfolded(learned, settings.fold)
        return unchanged + learned if settings.residual else learned


def _weighted(weights: Tensor, maps: Iterator[Tensor], *, fold: int) -> Tensor:
    """Sum of the maps, each (b, 1, x, y, z), times their folded weights (b, n·fold³, ...), folded."""
    total = 0
    for weight, image in zip(weights.split(fold**3, dim=1), maps, strict=True):
        total = total + weight * folded(image.to(weights.dtype), fold)
    return total


def _differences(image: Tensor, reach: tuple[int, ...]) -> Iterator[Tensor]:
    """What lies around each voxel of (b, 1, x, y, z), less its own value; zero lies beyond the edges."""
    yield -image
    for edge in CUBES:
        yield _cube_means(image, edge) - image
    for axis, step in product(_SPACE, reach):
        for neighbour in _neighbours(image, axis=axis, steps=(-step, step)):
            yield neighbour - image


def _cube_means(image: Tensor, edge: int) -> Tensor:
    """Means over the cube around each voxel, one axis after the other."""
    steps = range(-(edge // 2), edge // 2 + 1)
    for axis in _SPACE:
        image = sum(_neighbours(image, axis=axis, steps=steps)) / edge
    return image


def _neighbours(image: Tensor, *, axis: int, steps: Sequence[int]) -> list[Tensor]:
    """What lies so many voxels further along an axis of (b, 1, x, y, z)."""
    most = max(map(abs, steps))
    padded = F.pad(image, [most if axis == 4 - index // 2 else 0 for index in range(6)])
    return [padded.narrow(axis, most + step, image.shape[axis]) for step in steps]
