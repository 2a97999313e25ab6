"""Networks applied piece by piece: in the precision that a processor is fast in, within a given memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor, nn

PRECISIONS = ("auto", "bfloat16", "float32")
#: Processors with one of these multiply matrices of bfloat16; others only pretend to.
_BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
#: Voxels from the border of a tile to the middle of where it overlaps with the next one.
HALO = 32
#: Weight of the border of a tile along an axis. What a tile lacks there another one has, which should decide.
_BORDER = 1e-12


def channels_last(image: Tensor) -> Tensor:
    """The same in the order of memory that convolutions are fastest in.

    Examples
    --------
    >>> channels_last(torch.zeros(1, 2, 3, 4)).stride()
    (24, 1, 8, 2)
    """
    order = _FORMATS.get(image.dim())
    return image if order is None else image.contiguous(memory_format=order)


def usable_precision(precision: str, *, device: torch.device) -> torch.dtype:
    """What convolutions are computed in.

    Parameters
    ----------
    precision : str
        ``"auto"`` (bfloat16 where the device has units for it, else float32), ``"bfloat16"`` or
        ``"float32"``.
    device : torch.device
        Where it is computed.

    Returns
    -------
    torch.dtype

    Raises
    ------
    ValueError
        If there is no such precision.

    Examples
    --------
    >>> usable_precision("float32", device=torch.device("cpu"))
    torch.float32
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            found = torch.cpu.get_capabilities()
            fast = device.type == "cpu" and any(found.get(unit, False) for unit in _BFLOAT16_UNITS)
        precision = "bfloat16" if fast else "float32"
    return getattr(torch, precision)


@dataclass(frozen=True)
class Tiles:
    """How a volume is cut.

    Parameters
    ----------
    shape : tuple of int
        Of the volume.
    tile : tuple of int
        Of a tile.
    halo : int
        Half of what neighbours share.

    Examples
    --------
    >>> Tiles((96, 96, 160), (96, 96, 96), halo=16).count
    2
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    halo: int = HALO

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return math.prod(
            1 + math.ceil((size - edge) / (edge - 2 * self.halo)) if size > edge else 1
            for size, edge in zip(self.shape, self.tile, strict=True)
        )

    @property
    def voxels(self) -> int:
        """Of one tile."""
        return math.prod(self.tile)


def cut(shape: Sequence[int], *, stride: int, max_voxels: float, halo: int = HALO) -> Tiles:
    """The tiles of at most so many voxels that cost least.

    Tiles begin at multiples of the stride, so that networks see the same pairs of voxels as in the whole.

    Parameters
    ----------
    shape : sequence of int
        Of the volume, multiples of the stride.
    stride : int
        Of the network, which the halo is a multiple of.
    max_voxels : float
        Of a tile.
    halo : int
        Half of what neighbours share.

    Returns
    -------
    Tiles
        If none is small enough, the smallest.

    Examples
    --------
    >>> cut((64, 64, 160), stride=8, max_voxels=64 * 64 * 100, halo=16).tile
    (64, 64, 96)
    """
    whole = Tiles(tuple(shape), tuple(shape), halo)
    if whole.voxels <= max_voxels:
        return whole
    least = 2 * halo + stride
    edges = [[size, *range(least, size, stride)] for size in shape]
    found = [Tiles(tuple(shape), tile, halo) for tile in product(*edges)]
    fitting = [tiles for tiles in found if tiles.voxels <= max_voxels]
    if not fitting:
        return min(found, key=lambda tiles: tiles.voxels)
    return min(fitting, key=lambda tiles: (tiles.count * tiles.voxels, tiles.count))


@dataclass
class Progress:
    """Counts the steps of a prediction.

    Parameters
    ----------
    total : int
        Steps in all.
    report : callable or None
        Told how many are done, and of how many.
    done : int
        Steps so far.

    Examples
    --------
    >>> progress = Progress(2, print)
    >>> progress.step()
    1 2
    """

    total: int
    report: Callable[[int, int], None] | None
    done: int = field(default=0)

    def step(self) -> None:
        """One more."""
        self.done += 1
        if self.report:
            self.report(self.done, self.total)


def run_network(network: nn.Module, image: Tensor, *, dtype: torch.dtype, progress: Progress) -> Tensor:
    """Apply a network to a batch of images with convolutions in a precision.

    Parameters
    ----------
    network : nn.Module
        (b, in, ...) to (b, out, ...).
    image : Tensor
        float32.
    dtype : torch.dtype
        float32 or bfloat16.
    progress : Progress
        Goes one step on.

    Returns
    -------
    Tensor
        float32.

    Examples
    --------
    >>> run_network(nn.Identity(), torch.ones(1, 1, 2), dtype=torch.float32, progress=Progress(1, None))
    tensor([[[1., 1.]]])
    """
    with torch.autocast(image.device.type, dtype=dtype, enabled=dtype != torch.float32):
        result = network(channels_last(image))
    progress.step()
    return result.float()


def run_tiled(
    network: nn.Module, image: Tensor, *, tiles: Tiles, dtype: torch.dtype, progress: Progress
) -> Tensor:
    """Apply a convolutional network to a volume tile by tile.

    Parameters
    ----------
    network : nn.Module
        (1, in, x, y, z) to (1, out, x, y, z).
    image : Tensor
        float32, of the shape of the tiles' volume.
    tiles : Tiles
        How to cut it; whole if there is one tile.
    dtype, progress
        As in :func:`run_network`, which goes one step a tile.

    Returns
    -------
    Tensor
        float32.

    Examples
    --------
    >>> image = torch.rand(1, 1, 8, 8, 24)
    >>> found = run_tiled(
    ...     nn.Identity(),
    ...     image,
    ...     tiles=Tiles((8, 8, 24), (8, 8, 16), halo=4),
    ...     dtype=torch.float32,
    ...     progress=Progress(2, None),
    ... )
    >>> torch.allclose(found, image)
    True
    """

    def run(part: Tensor) -> Tensor:
        return run_network(network, part, dtype=dtype, progress=progress)

    if tiles.count == 1:
        return run(image)
    # Loaded only where it is needed: it takes seconds.
    from monai.inferers import sliding_window_inference

    # MONAI rounds the distance between tiles down; half a voxel more keeps it what it should be.
    overlap = [
        0.0 if edge == size else (2 * tiles.halo - 0.5) / edge
        for edge, size in zip(tiles.tile, tiles.shape, strict=True)
    ]
    window = _window(tiles).to(image.device)
    return sliding_window_inference(image, tiles.tile, 1, run, overlap=overlap, roi_weight_map=window)


def _window(tiles: Tiles) -> Tensor:
    """Weight of each voxel of a tile: less towards borders where there are neighbours.

    MONAI's own Gaussian does not fall far enough: near the ends of a volume it counts all tiles alike.
    """
    window = torch.ones(tiles.tile)
    for axis, (edge, size) in enumerate(zip(tiles.tile, tiles.shape, strict=True)):
        if edge < size:
            place = torch.arange(edge) + 0.5
            depth = torch.minimum(place, edge - place).clamp(max=tiles.halo) / tiles.halo
            shape = [1, 1, 1]
            shape[axis] = edge
            window = window * (_BORDER ** (1 - depth)).reshape(shape)
    return window
