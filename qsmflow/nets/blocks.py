"""What networks on volumes are built of: double convolutions, and voxels folded into channels."""

from torch import Tensor, nn

#: Slope of the rectifiers below zero. Where little can be learned at first, plain ones all die.
LEAK = 0.1


def double_convolution(before: int, after: int) -> nn.Sequential:
    """Two 3×3×3 convolutions, each with a rectifier."""
    return nn.Sequential(
        nn.Conv3d(before, after, kernel_size=3, padding=1),
        nn.LeakyReLU(LEAK, inplace=True),
        nn.Conv3d(after, after, kernel_size=3, padding=1),
        nn.LeakyReLU(LEAK, inplace=True),
    )


def folded(image: Tensor, edge: int) -> Tensor:
    """Blocks of voxels as channels: (b, c, x, y, z) to (b, c·edge³, x / edge, y / edge, z / edge)."""
    if edge == 1:
        return image
    for axis in (2, 4, 6):
        image = image.unflatten(axis, (-1, edge))
    return image.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def unfolded(image: Tensor, edge: int) -> Tensor:
    """What :func:`folded` undoes."""
    if edge == 1:
        return image
    image = image.unflatten(1, (-1, edge, edge, edge)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    for axis in (2, 3, 4):
        image = image.flatten(axis, axis + 1)
    return image
