"""Phase unwrapping by graph cuts: the integer field of cycles of least energy.

PUMA lowers the energy by cuts, each of which moves a set of voxels by one cycle. The energy is convex
in the cycles, so a field that no set can lower is a global optimum, whatever field the descent began
with. Here it begins with a good guess: runs of voxels along the last axis, merged pairwise in the order
in which that saves most energy. Every pair of neighbours then carries a flow, 0 at first, except that the
few that are still more than half a cycle apart must carry some, which leaves excess of flow on one side of
them and lack on the other. Cuts carry excess to lack, or move a set of voxels where that is impossible.
Most excess and lack are neighbours, so each cut sees but a few voxels around them, and more only where
those did not suffice. When nothing is left over anywhere, the flow proves the optimum of the whole
volume (Kolmogorov and Shioura, Discrete Optimization 2009).
"""

import math
import mmap
from dataclasses import dataclass

import numpy as np
import torch
from ortools.graph.python.max_flow import SimpleMaxFlow
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from qsmflow.core.crop import bounding_box

#: Integer steps of a cycle, as a power of two, and of the largest weight. Max-flow counts in int64: a pair
#: takes at most a flow of 2³⁴, so that the sum over all pairs of 512³ voxels still fits.
CYCLE_BITS = 16
CYCLE = 1 << CYCLE_BITS
WEIGHT = 1 << 18

#: How far around leftover flow the first cut looks, in voxels; half as far again where that was too near.
REACH = 3


#: One empty plane at the end of each axis.
PADDING = ((0, 1),) * 3


@dataclass(frozen=True)
class Unwrapped:
    """An unwrapped phase and how it was found.

    Attributes
    ----------
    phase : Tensor
        (x, y, z) in rad: the wrapped phase plus whole cycles inside the mask, 0 outside.
    energy : float
        Σ w |Δphase| over the neighbour pairs in the mask, rad; the largest weight counts 1.
    n_iterations : int
        Graph cuts taken.
    converged : bool
        Whether the energy is proved to be the least possible.
    residual : float
        Share of the neighbour pairs that stay more than half a cycle apart.
    """

    phase: Tensor
    energy: float
    n_iterations: int
    converged: bool
    residual: float


def unwrap_phase(
    phase: Tensor, *, weights: Tensor | None = None, mask: Tensor | None = None, max_steps: int = 200
) -> Unwrapped:
    """Unwrap a phase by graph cuts (PUMA), k = argmin Σ w_ij |φ_i − φ_j + 2π (k_i − k_j)|.

    The sum runs over the pairs of face neighbours in the mask; w_ij is the product of both voxels'
    weights over the square of the largest. The exponent is 1: with noise and aliased gradients it left no
    more voxels wrong than the quadratic energy. Phases are rounded to 2π/65536 and weights to 1/262144
    for the search, and the energy so rounded is minimised exactly.

    Beyond the inputs the search holds about ten volumes of float32, and some 500 bytes for every voxel near
    steps that are left to be cut. Graph cuts run on the CPU wherever the phase is.

    Each connected component of the mask is unwrapped by itself. The energy does not know their offsets:
    the largest component is placed so that its weighted median lies within ±π, every other so that it
    meets the largest within ±π (in the median) where the two are nearest to each other.

    Parameters
    ----------
    phase : Tensor
        (x, y, z) in rad, any range. Values outside the mask are not looked at.
    weights : Tensor, optional
        (x, y, z), not negative, any unit: the magnitude, or one over the standard deviation of the
        phase. All voxels count the same unless given.
    mask : Tensor, optional
        (x, y, z), true where to unwrap; everywhere unless given.
    max_steps : int
        Most graph cuts.

    Returns
    -------
    Unwrapped
        Unwrapped phase with its energy and how the search ended.

    Raises
    ------
    ValueError
        If the phase is not 3-D, the shapes differ, the mask is empty, phase or weights are not finite
        inside the mask, a weight is negative, or all are zero.

    References
    ----------
    Bioucas-Dias and Valadão 2007, 10.1109/TIP.2006.888351; why no move left means an optimum: Murota
    2003, 10.1137/1.9780898718508.

    Examples
    --------
    >>> truth = torch.linspace(-8, 8, 12).expand(4, 4, 12)
    >>> found = unwrap_phase(torch.remainder(truth + torch.pi, 2 * torch.pi) - torch.pi)
    >>> torch.allclose(found.phase, truth, atol=1e-5), found.converged
    (True, True)
    """
    inside = _checked_mask(phase, weights=weights, mask=mask)
    box = bounding_box(torch.from_numpy(inside))
    inside = inside[box]
    wrapped = _values(phase, box, inside)
    # the extremes are NaN where any value is
    if not np.isfinite([wrapped.min(), wrapped.max()]).all():
        raise ValueError("the phase is not finite everywhere in the mask")
    precision = wrapped.dtype.type
    lattice = _lattice(inside, np.float32(inside) if weights is None else _values(weights, box, inside))
    level = _levels(wrapped)
    components = _merge_runs(level, lattice)
    n_iterations, converged = _descend(level, lattice, max_steps=max_steps)
    _settle(level, lattice, components)
    energy, residual = _score(level, lattice)
    found = level.reshape(lattice.shape)[:-1, :-1, :-1].astype(precision)
    found *= precision(1 / CYCLE)
    found -= wrapped * precision(1 / (2 * math.pi))
    # whole cycles but for the rounding of the levels
    np.rint(found, out=found)
    found *= precision(2 * math.pi)
    found += wrapped
    unwrapped = torch.zeros(phase.shape, dtype=phase.dtype)
    unwrapped[box] = torch.from_numpy(np.where(inside, found, precision(0)))
    return Unwrapped(unwrapped.to(phase.device), energy, n_iterations, converged, residual)


@dataclass(frozen=True)
class _Lattice:
    """The mask cut out and padded by one empty plane a side, so that every voxel has six neighbours.

    Voxels are counted through the padded box: the neighbours of voxel v are v ± stride, modulo the number
    of voxels, which is why one plane at the end of each axis does for both sides. A pair is named by its
    first voxel and its stride.

    Attributes
    ----------
    inside : ndarray
        (voxel,) the mask.
    weight : ndarray
        (voxel,) weights over the largest, 0 outside the mask.
    shape : tuple of int
        Shape of the padded box.
    """

    inside: np.ndarray
    weight: np.ndarray
    shape: tuple[int, int, int]

    @property
    def strides(self) -> tuple[int, int, int]:
        """Distance of neighbours along each axis."""
        return self.shape[1] * self.shape[2], self.shape[2], 1

    def pair_weights(self, first: np.ndarray, stride: int) -> np.ndarray:
        """Integer weights of pairs."""
        product = self.weight[first].astype(np.float64) * self.weight[first + stride]
        # a weight of 0 would leave the cycles of a voxel undetermined
        return np.maximum(np.rint(product * WEIGHT), 1).astype(np.int64)

    def slopes(self, level: np.ndarray, first: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Slope of the cost of pairs over the cycle below and above their difference."""
        difference = level[first].astype(np.int64) - level[first + stride]
        weight, cost = self.pair_weights(first, stride), np.abs(difference)
        return weight * (cost - np.abs(difference - CYCLE)), weight * (np.abs(difference + CYCLE) - cost)


@dataclass(frozen=True)
class _Links:
    """Links between regions: pairs of voxels that agree on the cycles between their regions.

    Attributes
    ----------
    first, second : ndarray
        (link,) regions.
    cycles : ndarray
        (link,) cycles to add to the second region for the link to hold.
    saving : ndarray
        (link,) energy saved by holding it rather than being a cycle off.
    """

    first: np.ndarray
    second: np.ndarray
    cycles: np.ndarray
    saving: np.ndarray


def _checked_mask(phase: Tensor, *, weights: Tensor | None, mask: Tensor | None) -> np.ndarray:
    """Return the mask as a boolean array once the shapes are known to fit."""
    if phase.ndim != 3:
        raise ValueError(f"the phase must be (x, y, z), got {phase.ndim} dimensions")
    for name, image in (("weights", weights), ("mask", mask)):
        if image is not None and image.shape != phase.shape:
            raise ValueError(f"{name} {tuple(image.shape)} and phase {tuple(phase.shape)} differ in shape")
    inside = np.ones(phase.shape, dtype=bool) if mask is None else mask.bool().cpu().numpy()
    if not inside.any():
        raise ValueError("the mask is empty")
    return inside


def _values(image: Tensor, box: tuple[slice, ...], inside: np.ndarray) -> np.ndarray:
    """Values of an image in the mask and 0 around it, in single precision unless they have double."""
    values = np.where(inside, image.detach().cpu().numpy()[box], 0)
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def _lattice(inside: np.ndarray, weights: np.ndarray) -> _Lattice:
    """Pad the mask and the weights, and scale the weights."""
    least, largest = weights.min(), weights.max()
    if not (least >= 0 and np.isfinite(largest)):
        raise ValueError("weights must be finite and not negative everywhere in the mask")
    if largest == 0:
        raise ValueError("all weights in the mask are zero")
    padded = np.pad(inside, PADDING)
    return _Lattice(padded.reshape(-1), np.pad(weights / largest, PADDING).reshape(-1), padded.shape)


def _levels(wrapped: np.ndarray) -> np.ndarray:
    """Round a phase to steps within half a cycle of 0, padded, (voxel,)."""
    turns = wrapped * wrapped.dtype.type(1 / (2 * math.pi))
    turns -= np.rint(turns)
    turns *= CYCLE
    return np.pad(np.rint(turns, out=turns).astype(np.int32), PADDING).reshape(-1)


def _merge_runs(level: np.ndarray, lattice: _Lattice) -> np.ndarray:
    """Unwrap by merging regions: each with the neighbour that it saves most energy to be merged with.

    The first regions are runs along the last axis without an ambiguous step. Adds whole cycles to the
    levels in place; returns the number of the connected component by voxel.
    """
    lines, inside = level.reshape(lattice.shape), lattice.inside.reshape(lattice.shape)
    difference = np.diff(lines, axis=2)
    cycles = difference + CYCLE // 2 >> CYCLE_BITS
    difference -= cycles << CYCLE_BITS
    smooth = np.abs(difference) < CYCLE // 4
    smooth &= inside[..., 1:] & inside[..., :-1]
    lines[..., 1:] -= np.cumsum(cycles, axis=2, dtype=np.int32) << CYCLE_BITS
    begins = inside.copy()
    begins[..., 1:] &= ~smooth
    region = np.cumsum(begins, dtype=np.int32) - 1
    del difference, cycles, smooth

    links = []
    for stride in lattice.strides[:2]:
        links.append(_links_along(level, region, lattice, slice(None, -stride), slice(stride, None)))
    second = np.flatnonzero(begins.reshape(-1)[1:] & lattice.inside[:-1]) + 1
    links.append(_links_along(level, region, lattice, second - 1, second))
    shift, component = _merge(_Links(*map(np.concatenate, zip(*links, strict=True))), int(region[-1]) + 1)
    level += shift[region] << CYCLE_BITS
    return component[region]


def _links_along(
    level: np.ndarray,
    region: np.ndarray,
    lattice: _Lattice,
    head: np.ndarray | slice,
    tail: np.ndarray | slice,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Links over pairs of voxels from different regions, those one after another that agree as one."""
    cycles = level[head] - level[tail]
    cycles += CYCLE // 2
    saving = (cycles & CYCLE - 1).astype(np.float32)
    cycles >>= CYCLE_BITS
    saving -= CYCLE // 2
    np.abs(saving, out=saving)
    saving -= CYCLE // 2
    saving *= lattice.weight[head] * np.float32(-2)
    saving *= lattice.weight[tail]
    first, second = region[head], region[tail]
    begins = lattice.inside[head] & lattice.inside[tail]
    saving *= begins  # so that the sums below may run on where no link is
    same = begins[:-1].copy()
    for of_both in (first, second, cycles):
        same &= of_both[1:] == of_both[:-1]
    begins[1:] &= ~same
    at = np.flatnonzero(begins)
    sums = np.add.reduceat(saving, at) if at.size else saving[at]
    return first[at], second[at], cycles[at], sums


def _merge(links: _Links, n_regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge regions along their best links until none is left between two (Borůvka's algorithm).

    Returns the cycles to add to each of the first regions, and the number of the component of each.
    """
    shift, member = np.zeros(n_regions, dtype=np.int32), np.arange(n_regions)
    while links.first.size:
        links = _bundled(links)
        n_links = links.first.size
        ascending = np.argsort(links.saving, kind="stable")
        rank = np.empty(n_links, dtype=np.int64)
        rank[ascending] = np.arange(n_links)
        best = np.full(n_regions, -1)
        np.maximum.at(best, links.first, rank)
        np.maximum.at(best, links.second, rank)
        joining = np.flatnonzero(best >= 0)
        link = ascending[best[joining]]
        from_first = links.first[link] == joining
        parent, cycles = np.arange(n_regions), np.zeros(n_regions, dtype=np.int32)
        parent[joining] = np.where(from_first, links.second[link], links.first[link])
        cycles[joining] = np.where(from_first, -links.cycles[link], links.cycles[link])
        # the best link of a merged region is that of two of its members: one of them leads
        leading = joining[(parent[parent[joining]] == joining) & (joining < parent[joining])]
        parent[leading], cycles[leading] = leading, 0
        while np.any(parent[parent] != parent):
            cycles += cycles[parent]
            parent = parent[parent]
        shift += cycles[member]
        member = parent[member]
        first, second = parent[links.first], parent[links.second]
        between = links.cycles + cycles[links.first] - cycles[links.second]
        left = first != second
        links = _Links(first[left], second[left], between[left], links.saving[left])
    return shift, np.unique(member, return_inverse=True)[1].astype(np.int32)


def _bundled(links: _Links) -> _Links:
    """Count links between the same regions that agree on the cycles as one."""
    turned = links.first > links.second
    first = np.where(turned, links.second, links.first)
    second = np.where(turned, links.first, links.second)
    cycles = np.where(turned, -links.cycles, links.cycles)
    order = np.lexsort((cycles, second, first))
    first, second, cycles = first[order], second[order], cycles[order]
    begins = np.ones(order.size, dtype=bool)
    begins[1:] = (np.diff(first) != 0) | (np.diff(second) != 0) | (np.diff(cycles) != 0)
    at = np.flatnonzero(begins)
    return _Links(first[at], second[at], cycles[at], np.add.reduceat(links.saving[order], at))


@dataclass(frozen=True)
class _Search:
    """What the descent changes in place.

    Attributes
    ----------
    level : ndarray
        (voxel,) unwrapped phase in steps.
    flow : ndarray
        (axis, voxel) flow from each voxel to the next along each axis.
    node : ndarray
        (voxel,) number of each voxel in the region that a cut looks at, −1 elsewhere.
    """

    level: np.ndarray
    flow: np.ndarray
    node: np.ndarray


@dataclass(frozen=True)
class _Leftover:
    """Flow that has nowhere to go.

    Attributes
    ----------
    voxels : ndarray
        (open,) where, in ascending order.
    excess : ndarray
        (open,) flow into each less the flow out of it, not 0.
    reach : ndarray
        (open,) how far around each the next cut looks, in voxels.
    """

    voxels: np.ndarray
    excess: np.ndarray
    reach: np.ndarray


def _descend(level: np.ndarray, lattice: _Lattice, *, max_steps: int) -> tuple[int, bool]:
    """Move sets of voxels up and down by a cycle until none lowers the energy, in place.

    Every pair carries a flow between the two slopes of its cost, 0 where they admit it, that is where the
    pair is no more than half a cycle apart. A set of voxels moves up if the pairs that leave it cannot
    carry the excess in it, and down if those that enter it cannot make up for the lack. Cuts look only at
    regions around what is left over. Nothing flows out of a region in a cut; what touches its border could
    do otherwise in the whole volume, and stays until the region has grown.

    Returns cuts taken, and whether nothing is left over, which proves the optimum.
    """
    # memory mapped for nobody is zero, and there only where it was written to: around the cuts
    flow = np.frombuffer(mmap.mmap(-1, 3 * 8 * level.size), dtype=np.int64).reshape(3, level.size)
    search = _Search(level, flow, np.full(level.size, -1, dtype=np.int32))
    left = _first_flow(search, lattice)
    for step in range(max_steps):
        if not left.voxels.size:
            return step, True
        left = _push(search, lattice, left)
    return max_steps, not left.voxels.size


def _first_flow(search: _Search, lattice: _Lattice) -> _Leftover:
    """Let the pairs that are more than half a cycle apart carry the least that they must."""
    ends, changes = [], []
    for axis, stride in enumerate(lattice.strides):
        apart = np.abs(search.level[:-stride] - search.level[stride:]) > CYCLE // 2
        first = np.flatnonzero(apart & lattice.inside[:-stride] & lattice.inside[stride:])
        flow = np.clip(0, *lattice.slopes(search.level, first, stride))
        search.flow[axis, first] = flow
        ends += [first, first + stride]
        changes += [-flow, flow]
    voxels, of_end = np.unique(np.concatenate(ends), return_inverse=True)
    # bincount adds float64, which is exact here: six flows of at most 2³⁴
    excess = np.bincount(of_end, np.concatenate(changes), voxels.size).astype(np.int64)
    left = excess != 0
    return _Leftover(voxels[left], excess[left], np.full(np.count_nonzero(left), REACH))


def _around(left: _Leftover, lattice: _Lattice) -> np.ndarray:
    """Voxels of the mask within reach of what is left over, in steps from neighbour to neighbour."""
    marked = np.zeros(lattice.inside.size, dtype=bool)
    offsets = np.array([*lattice.strides, *(-stride for stride in lattice.strides)])
    found, front = [], np.empty(0, dtype=np.int64)
    for to_go in range(int(left.reach.max()), -1, -1):
        seeds = left.voxels[left.reach == to_go]
        seeds = seeds[~marked[seeds]]
        marked[seeds] = True
        front = np.concatenate([front, seeds])
        found.append(front)
        near = (front[:, None] + offsets).ravel()
        near = near[lattice.inside[near] & ~marked[near]]
        if to_go:
            marked[near] = True
            front = np.unique(near)
    return np.sort(np.concatenate(found))


@dataclass(frozen=True)
class _Region:
    """Part of the mask that a cut looks at.

    Attributes
    ----------
    voxels : ndarray
        (node,) its voxels.
    border : ndarray
        (node,) whether a neighbour in the mask is outside.
    first, second : ndarray
        (pair,) nodes of the pairs inside.
    place : ndarray
        (pair,) where the flow of a pair is kept.
    forward, backward : ndarray
        (pair,) flow that can be added and taken away.
    """

    voxels: np.ndarray
    border: np.ndarray
    first: np.ndarray
    second: np.ndarray
    place: np.ndarray
    forward: np.ndarray
    backward: np.ndarray


def _region(search: _Search, lattice: _Lattice, voxels: np.ndarray) -> _Region:
    """Number the voxels of a region and collect its pairs."""
    search.node[voxels] = np.arange(voxels.size, dtype=np.int32)
    border = np.zeros(voxels.size, dtype=bool)
    pairs = []
    for axis, stride in enumerate(lattice.strides):
        for neighbour in (voxels - stride, voxels + stride):
            border |= lattice.inside[neighbour] & (search.node[neighbour] < 0)
        first = np.flatnonzero(search.node[voxels + stride] >= 0).astype(np.int32)
        at = voxels[first]
        lower, upper = lattice.slopes(search.level, at, stride)
        flow = search.flow[axis, at]
        place = axis * lattice.inside.size + at
        pairs.append((first, search.node[at + stride], place, upper - flow, flow - lower))
    search.node[voxels] = -1
    return _Region(voxels, border, *map(np.concatenate, zip(*pairs, strict=True)))


def _push(search: _Search, lattice: _Lattice, left: _Leftover) -> _Leftover:
    """Push as much excess as can be to where it is lacking, and move what is cut off. Returns the rest."""
    region = _region(search, lattice, _around(left, lattice))
    seeds = np.searchsorted(region.voxels, left.voxels).astype(np.int32)
    source, sink = np.int32(region.voxels.size), np.int32(region.voxels.size + 1)
    giving, taking = np.flatnonzero(left.excess > 0), np.flatnonzero(left.excess < 0)
    onward, back = np.flatnonzero(region.forward), np.flatnonzero(region.backward)
    solver = SimpleMaxFlow()
    arcs = [
        solver.add_arcs_with_capacity(tails, heads, capacity)
        for tails, heads, capacity in (
            (region.first[onward], region.second[onward], region.forward[onward]),
            (region.second[back], region.first[back], region.backward[back]),
            (np.full(giving.size, source), seeds[giving], left.excess[giving]),
            (seeds[taking], np.full(taking.size, sink), -left.excess[taking]),
        )
    ]
    status = solver.solve(source, sink)
    if status != solver.OPTIMAL:
        raise RuntimeError(f"max-flow ended with {status}")
    added, removed, given, taken = map(solver.flows, arcs)
    flow = search.flow.reshape(-1)
    flow[region.place[onward]] += added
    flow[region.place[back]] -= removed
    excess = left.excess.copy()
    excess[giving] -= given
    excess[taking] += taken
    rest = excess != 0
    reach = left.reach
    if rest.any():
        side = np.zeros(region.voxels.size + 2, dtype=np.int8)
        side[np.asarray(solver.get_source_side_min_cut(), dtype=np.int64)] = 1
        side[np.asarray(solver.get_sink_side_min_cut(), dtype=np.int64)] = -1
        moves = _free_moves(region, side[:-2])
        search.level[region.voxels] += moves * np.int32(CYCLE)
        again = _same_part_moved(region, moves)[seeds]
        reach = np.where(again, reach, 3 * reach // 2)
    return _Leftover(left.voxels[rest], excess[rest], reach[rest])


def _parts(region: _Region, joined: np.ndarray) -> np.ndarray:
    """Number of the connected part of each node, by the pairs that are joined."""
    size = region.voxels.size
    pairs = (region.first[joined], region.second[joined])
    links = coo_array((np.ones(pairs[0].size, dtype=np.int8), pairs), shape=(size, size))
    return connected_components(links.tocsr(), directed=False)[1]


def _free_moves(region: _Region, side: np.ndarray) -> np.ndarray:
    """Cycles to add to each node: the parts cut off that can do without what lies outside the region.

    Parts that hold excess move up and parts that lack move down, but not both beside one another: the
    flow between them need not be admissible when they part by two cycles.
    """
    joined = (side[region.first] == side[region.second]) & (side[region.first] != 0)
    part = _parts(region, joined)
    free = np.ones(part.max() + 1, dtype=bool)
    free[part[region.border | (side == 0)]] = False
    rising = free[part] & (side > 0)
    for here, there in ((region.first, region.second), (region.second, region.first)):
        free[part[there[rising[here] & (side[there] < 0)]]] = False
    return np.where(free[part], side, np.int8(0))


def _same_part_moved(region: _Region, moves: np.ndarray) -> np.ndarray:
    """Whether anything moved in the connected part of the region that a node belongs to."""
    part = _parts(region, np.ones(region.first.size, dtype=bool))
    moved = np.zeros(part.max() + 1, dtype=bool)
    moved[part[moves != 0]] = True
    return moved[part]


def _settle(level: np.ndarray, lattice: _Lattice, components: np.ndarray) -> None:
    """Settle in place the whole cycles that the energy leaves free, one number a component.

    The weighted median of the largest component comes to lie within ±π. Every other component is
    compared with the largest where the two are nearest to each other; the median over these voxels of
    the difference of phase comes to lie within ±π as well.
    """
    sizes = np.bincount(components[lattice.inside])
    largest = int(sizes.argmax())
    main = lattice.inside & (components == largest)
    rounded = level[main] + CYCLE // 2 >> CYCLE_BITS
    lowest = rounded.min()
    sums = np.cumsum(np.bincount(rounded - lowest, lattice.weight[main]))
    offset = np.full(sizes.size, lowest + np.searchsorted(sums, sums[-1] / 2), dtype=np.int32)
    if sizes.size > 1:
        offset += _offsets(level, lattice, components, largest)
    level -= offset[components] << CYCLE_BITS


def _offsets(level: np.ndarray, lattice: _Lattice, components: np.ndarray, largest: int) -> np.ndarray:
    """Cycles by which each component is above the largest where the two face each other; 0 for that one."""
    # Imported here, as it takes long and most masks are of one piece.
    from scipy.spatial import KDTree

    voxels = np.flatnonzero(lattice.inside)
    # only the surfaces can face each other
    surface = np.zeros(voxels.size, dtype=bool)
    for stride in lattice.strides:
        surface |= ~(lattice.inside[voxels - stride] & lattice.inside[voxels + stride])
    voxels = voxels[surface]
    positions = np.stack(np.unravel_index(voxels, lattice.shape), axis=1)
    component, height = components[voxels], level[voxels]
    main = component == largest
    gap, nearest = KDTree(positions[main]).query(positions[~main])
    difference = (height[~main] - height[main][nearest]) / CYCLE
    other, count = component[~main], int(component.max()) + 1
    closest = np.full(count, np.inf)
    np.minimum.at(closest, other, gap)
    facing = gap <= closest[other] + 0.5
    medians = np.zeros(count)
    numbers = np.flatnonzero(np.isfinite(closest))
    medians[numbers] = ndimage.median(difference[facing], other[facing], numbers)
    return np.rint(medians).astype(np.int32)


def _score(level: np.ndarray, lattice: _Lattice) -> tuple[float, float]:
    """Energy in rad, and share of the pairs more than half a cycle apart."""
    energy, n_apart, n_pairs = 0.0, 0, 0
    for stride in lattice.strides:
        distance = np.abs(level[:-stride] - level[stride:])
        inside = lattice.inside[:-stride] & lattice.inside[stride:]
        distance *= inside
        weight = lattice.weight[:-stride] * lattice.weight[stride:]
        energy += float(np.einsum("i,i->", weight, distance, dtype=np.float64))
        n_apart += np.count_nonzero(distance > CYCLE // 2)
        n_pairs += np.count_nonzero(inside)
    return energy * 2 * math.pi / CYCLE, n_apart / max(n_pairs, 1)
