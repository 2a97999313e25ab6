"""Real Fourier transforms on good sizes, and finite differences."""

import math
from collections.abc import Sequence

import torch
from scipy.fft import next_fast_len
from torch import Tensor


def good_size(shape: Sequence[int], *, padding: Sequence[int] = (0, 0, 0)) -> tuple[int, ...]:
    """Smallest even grid with fast transforms that holds an image and its padding.

    Parameters
    ----------
    shape : sequence of int
        Image size in voxels.
    padding : sequence of int
        Voxels of zeros wanted along each axis, both sides together.

    Returns
    -------
    tuple of int
        Sizes with the factors 2, 3, 5 only, all even (the real transform halves the last one).

    Examples
    --------
    >>> good_size((101, 64, 41), padding=(0, 0, 10))
    (108, 64, 54)
    """
    return tuple(
        2 * next_fast_len((size + extra + 1) // 2, real=True)
        for size, extra in zip(shape, padding, strict=True)
    )


def voxels_along(length: float, *, voxel_size: Sequence[float]) -> list[int]:
    """Fewest voxels along each axis that are as long as a length.

    Voxel sizes from the header of an image carry rounding errors, which must not decide over a voxel.

    Parameters
    ----------
    length : float
        mm.
    voxel_size : sequence of float
        Voxel edge lengths in mm.

    Returns
    -------
    list of int
        One number an axis.

    Examples
    --------
    >>> voxels_along(10, voxel_size=(5, 4.9999999, 3))
    [2, 2, 4]
    """
    return [math.ceil(length / float(edge) - 1e-3) for edge in voxel_size]


def frequencies(shape: Sequence[int], *, voxel_size: Sequence[float], device=None) -> tuple[Tensor, ...]:
    """Spatial frequencies of a real transform, one broadcastable tensor an axis.

    Parameters
    ----------
    shape : sequence of int
        Size of the real image.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    device : torch.device, optional
        Where the result lives.

    Returns
    -------
    tuple of Tensor
        kx, ky, kz in 1/mm with shapes (nx, 1, 1), (1, ny, 1), (1, 1, nz // 2 + 1); float64.

    Examples
    --------
    >>> kx, ky, kz = frequencies((4, 4, 4), voxel_size=(1, 1, 2))
    >>> kz.flatten().tolist()
    [0.0, 0.125, 0.25]
    """
    last = len(shape) - 1
    axes = []
    for axis, (size, edge) in enumerate(zip(shape, voxel_size, strict=True)):
        make = torch.fft.rfftfreq if axis == last else torch.fft.fftfreq
        values = make(size, d=float(edge), dtype=torch.float64, device=device)
        axes.append(values.reshape([-1 if a == axis else 1 for a in range(len(shape))]))
    return tuple(axes)


def spherical_mean_kernel(
    shape: Sequence[int],
    *,
    voxel_size: Sequence[float],
    radius: float,
    device=None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean over the voxels within a radius, in the Fourier domain.

    Parameters
    ----------
    shape : sequence of int
        Grid size in voxels.
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    radius : float
        mm.
    device, dtype
        Of the result.

    Returns
    -------
    Tensor
        (nx, ny, nz // 2 + 1), dimensionless, one at k = 0, laid out for ``torch.fft.rfftn``.

    Examples
    --------
    >>> kernel = spherical_mean_kernel((8, 8, 8), voxel_size=(1, 1, 2), radius=1)
    >>> ball = torch.fft.irfftn(kernel, s=(8, 8, 8))
    >>> [round(abs(float(ball[index])), 4) for index in [(0, 0, 0), (7, 0, 0), (0, 0, 1)]]
    [0.2, 0.2, 0.0]
    """
    # The ball is even along each axis, so its transform is a sum of products of cosines, and only the
    # few voxels of one octant take part.
    cosines, squared = [], torch.zeros((1, 1, 1), dtype=torch.float64, device=device)
    for axis, (size, edge) in enumerate(zip(shape, voxel_size, strict=True)):
        steps = torch.arange(min(int(radius / edge) + 1, size // 2) + 1, dtype=torch.float64, device=device)
        last = size // 2 + 1 if axis == 2 else size
        turns = torch.arange(last, dtype=torch.float64, device=device)[:, None] * (steps / size)
        twice = torch.where((steps == 0) | (2 * steps == size), 1.0, 2.0)
        cosines.append(twice * torch.cos(2 * torch.pi * turns))
        squared = squared + (steps * edge).square().reshape([-1 if a == axis else 1 for a in range(3)])
    ball = (squared <= radius**2).to(torch.float64)
    n_voxels = torch.einsum("xyz,x,y,z->", ball, *(cosine[0] for cosine in cosines))
    along_yz = torch.einsum("xyz,jy,kz->xjk", ball / n_voxels, *cosines[1:])
    return torch.tensordot(cosines[0].to(dtype), along_yz.to(dtype), dims=1)


def gradient(image: Tensor, *, voxel_size: Sequence[float], out: Tensor | None = None) -> Tensor:
    """Forward differences over voxel size, zero behind the last voxel.

    Parameters
    ----------
    image : Tensor
        (x, y, z).
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    out : Tensor, optional
        (3, x, y, z), written to and returned when given.

    Returns
    -------
    Tensor
        (3, x, y, z), units of the image per mm.

    Examples
    --------
    >>> ramp = torch.arange(4.0).reshape(4, 1, 1).expand(4, 2, 2)
    >>> gradient(ramp, voxel_size=(2, 1, 1))[0, :, 0, 0].tolist()
    [0.5, 0.5, 0.5, 0.0]
    """
    if out is None:
        out = image.new_empty((3, *image.shape))
    for axis, edge in enumerate(voxel_size):
        size = image.shape[axis]
        inner = out[axis].narrow(axis, 0, size - 1)
        torch.sub(image.narrow(axis, 1, size - 1), image.narrow(axis, 0, size - 1), out=inner)
        inner.div_(float(edge))
        out[axis].select(axis, size - 1).zero_()
    return out


def gradient_adjoint(field: Tensor, *, voxel_size: Sequence[float], out: Tensor | None = None) -> Tensor:
    """Adjoint of :func:`gradient` (minus the divergence by backward differences).

    Parameters
    ----------
    field : Tensor
        (3, x, y, z).
    voxel_size : sequence of float
        Voxel edge lengths in mm.
    out : Tensor, optional
        (x, y, z), written to and returned when given.

    Returns
    -------
    Tensor
        (x, y, z), units of the field per mm.

    Examples
    --------
    >>> x, y = torch.randn(5, 4, 3), torch.randn(3, 5, 4, 3)
    >>> a = (gradient(x, voxel_size=(1, 2, 3)) * y).sum()
    >>> b = (x * gradient_adjoint(y, voxel_size=(1, 2, 3))).sum()
    >>> bool(torch.isclose(a, b, atol=1e-4))
    True
    """
    out = field.new_zeros(field.shape[1:]) if out is None else out.zero_()
    for axis, edge in enumerate(voxel_size):
        size = field.shape[axis + 1]
        inner = field[axis].narrow(axis, 0, size - 1)
        out.narrow(axis, 1, size - 1).add_(inner, alpha=1 / float(edge))
        out.narrow(axis, 0, size - 1).sub_(inner, alpha=1 / float(edge))
    return out
