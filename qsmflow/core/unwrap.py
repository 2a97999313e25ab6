"""Phase unwrapping by graph cuts: the integer field of cycles of least energy.

PUMA lowers the energy by cuts, each of which moves a set of voxels by one cycle. The energy is convex
in the cycles, so a field that no set can lower is a global optimum, whatever field the descent began
with. Here it begins with a good guess, and the flow of a cut is kept for the next one, which then has
to deal only with the voxels where flow was left over and with their surroundings. A flow that leaves
nothing over anywhere proves the optimum (Kolmogorov and Shioura, Discrete Optimization 2009).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from ortools.graph.python.max_flow import SimpleMaxFlow
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from torch import Tensor

#: Integer steps of a cycle and of the largest weight. Max-flow counts in int64: a pair takes at most a
#: flow of 2³², so that the sum over all pairs of 512³ voxels still fits.
CYCLE = 1 << 16
WEIGHT = 1 << 16

#: How far around leftover flow the first cut looks, in voxels; twice as far with every further cut.
REACH = 2


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
    more voxels wrong than the quadratic energy. Phases are rounded to 2π/65536 and weights to 1/65536
    for the search, and the energy so rounded is minimised exactly.

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
    values = phase.detach().cpu().numpy()[inside].astype(np.float64)
    voxel_weights = np.ones_like(values) if weights is None else weights.detach().cpu().numpy()[inside]
    pairs = _pairs(values, voxel_weights, inside)
    start, components = _spanning_tree_cycles(pairs)
    cycles, n_iterations, converged = _descend(pairs, start, max_steps=max_steps)
    cycles = _settle_cycles(cycles, values, voxel_weights, components, inside)
    distance = np.abs(pairs.differences(cycles))
    unwrapped = np.zeros(inside.shape)
    unwrapped[inside] = values + 2 * np.pi * cycles
    return Unwrapped(
        torch.from_numpy(unwrapped).to(phase),
        float((pairs.weight * distance).sum()) * 2 * math.pi / (CYCLE * WEIGHT),
        n_iterations,
        converged,
        float((distance > CYCLE // 2).mean()) if distance.size else 0.0,
    )


@dataclass(frozen=True)
class _Pairs:
    """Face neighbours in the mask.

    Attributes
    ----------
    first, second, weight : ndarray
        (pair,) voxels, counted along the mask, and weight of each pair.
    phase : ndarray
        (voxel,) wrapped phase in steps of a cycle.
    inside : ndarray
        (x, y, z) the mask.
    """

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray
    phase: np.ndarray
    inside: np.ndarray

    def differences(self, cycles: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """First minus second voxel of the chosen pairs, in steps."""
        steps = self.phase + CYCLE * cycles
        return steps[self.first[chosen]] - steps[self.second[chosen]]

    def slopes(
        self, cycles: np.ndarray, chosen: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Slope of the cost of the chosen pairs over the cycle below and above their difference."""
        difference = self.differences(cycles, chosen)
        weight, cost = self.weight[chosen], np.abs(difference)
        return weight * (cost - np.abs(difference - CYCLE)), weight * (np.abs(difference + CYCLE) - cost)

    def excess(self, flow: np.ndarray) -> np.ndarray:
        """Flow into each voxel less the flow out of it."""
        # bincount adds float64, which is exact here: six flows of at most 2³²
        n_voxels = self.phase.size
        net = np.bincount(self.second, flow, n_voxels) - np.bincount(self.first, flow, n_voxels)
        return net.astype(np.int64)

    def around(self, voxels: np.ndarray, reach: int) -> np.ndarray:
        """Voxels of the mask within `reach` steps along the axes of the given ones."""
        away = np.ones(self.inside.shape, dtype=bool)
        away[self.inside] = ~voxels
        return ndimage.distance_transform_cdt(away, metric="taxicab")[self.inside] <= reach


def _checked_mask(phase: Tensor, *, weights: Tensor | None, mask: Tensor | None) -> np.ndarray:
    """Return the mask as a boolean array once all arguments are known to be good."""
    if phase.ndim != 3:
        raise ValueError(f"the phase must be (x, y, z), got {phase.ndim} dimensions")
    for name, image in (("weights", weights), ("mask", mask)):
        if image is not None and image.shape != phase.shape:
            raise ValueError(f"{name} {tuple(image.shape)} and phase {tuple(phase.shape)} differ in shape")
    inside = torch.ones_like(phase, dtype=torch.bool) if mask is None else mask.bool()
    if not inside.any():
        raise ValueError("the mask is empty")
    if not phase[inside].isfinite().all():
        raise ValueError("the phase is not finite everywhere in the mask")
    if weights is not None and not (weights[inside].isfinite() & (weights[inside] >= 0)).all():
        raise ValueError("weights must be finite and not negative everywhere in the mask")
    if weights is not None and not weights[inside].any():
        raise ValueError("all weights in the mask are zero")
    return inside.cpu().numpy()


def _pairs(values: np.ndarray, voxel_weights: np.ndarray, inside: np.ndarray) -> _Pairs:
    """Pair the face neighbours; phases are rounded by voxel, so differences around a loop sum to 0."""
    index = np.full(inside.shape, -1, dtype=np.int32)
    index[inside] = np.arange(values.size, dtype=np.int32)
    ends = []
    for axis in range(3):
        along = np.moveaxis(index, axis, 0)
        both = (along[:-1] >= 0) & (along[1:] >= 0)
        ends.append((along[:-1][both], along[1:][both]))
    first, second = (np.concatenate(end) for end in zip(*ends, strict=True))
    relative = voxel_weights.astype(np.float64) / voxel_weights.max()
    weight = np.rint(relative[first] * relative[second] * WEIGHT)
    # a weight of 0 would leave the cycles of a voxel undetermined
    weight = np.maximum(weight, 1).astype(np.int64)
    steps = np.rint(values * (CYCLE / (2 * np.pi))).astype(np.int64)
    return _Pairs(first, second, weight, steps, inside)


def _spanning_tree_cycles(pairs: _Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Unwrap along the spanning tree of the pairs that are dearest to break.

    Returns cycles and the number of the connected component, both by voxel.
    """
    n_voxels = pairs.phase.size
    difference = pairs.differences(np.zeros(n_voxels, dtype=np.int64))
    wrapped = (difference + CYCLE // 2) % CYCLE - CYCLE // 2
    breaking = pairs.weight * (CYCLE - 2 * np.abs(wrapped))
    cost = (breaking.max(initial=0) + 1 - breaking).astype(np.float64)
    links = coo_array((cost, (pairs.first, pairs.second)), shape=(n_voxels, n_voxels))
    tree = minimum_spanning_tree(links.tocsr()).tocoo()
    _, components = connected_components(tree, directed=False)
    # one root over all components makes one tree of the forest
    _, seeds = np.unique(components, return_index=True)
    rows = np.concatenate([tree.coords[0], seeds])
    columns = np.concatenate([tree.coords[1], np.full(seeds.size, n_voxels)])
    rooted = coo_array((np.ones(rows.size), (rows, columns)), shape=(n_voxels + 1, n_voxels + 1))
    _, parent = breadth_first_order(rooted.tocsr(), n_voxels, directed=False)
    parent[n_voxels] = n_voxels
    steps = np.append(pairs.phase, 0)
    cycles = np.rint((steps[parent] - steps) / CYCLE).astype(np.int64)
    cycles[seeds] = 0
    # sum from every voxel to the root, twice as far each time
    while np.any(parent != n_voxels):
        cycles = cycles + cycles[parent]
        parent = parent[parent]
    return cycles[:n_voxels], components


def _descend(pairs: _Pairs, cycles: np.ndarray, *, max_steps: int) -> tuple[np.ndarray, int, bool]:
    """Move sets of voxels up and down by a cycle until none lowers the energy.

    Every pair carries a flow between the two slopes of its cost. The flow begins at 0 where the slopes
    admit it, that is where a pair is no more than half a cycle apart; elsewhere it leaves excess at one
    voxel and lack at the other. Cuts carry excess to where it is lacking, and a set that cannot get rid
    of its excess moves.
    Moves upward alone would do, since a set that moves down is the rest that moves up; with both, a
    small set in the wrong cycle needs but a small cut.

    Returns cycles, cuts taken, and whether no excess is left, which proves the optimum.
    """
    flow = np.clip(0, *pairs.slopes(cycles))
    reach, direction = REACH, 1
    for step in range(max_steps):
        excess = pairs.excess(flow)
        unsettled = excess != 0
        if not unsettled.any():
            return cycles, step, True
        region = pairs.around(unsettled, reach)
        cycles, flow = _push(pairs, cycles, flow, excess, region=region, direction=direction)
        reach, direction = 2 * reach, -direction
    return cycles, max_steps, not pairs.excess(flow).any()


def _push(
    pairs: _Pairs,
    cycles: np.ndarray,
    flow: np.ndarray,
    excess: np.ndarray,
    *,
    region: np.ndarray,
    direction: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Push as much excess as the slopes admit through a region, and move what is cut off.

    Voxels beyond the region stand still: they are one with the sink and keep what flows into them as
    their excess. Downward, all arcs are reversed and lack is pushed instead. Returns cycles and flow.
    """
    near = np.flatnonzero(region[pairs.first] | region[pairs.second])
    lower, upper = pairs.slopes(cycles, near)
    forward, backward = upper - flow[near], flow[near] - lower
    if direction < 0:
        forward, backward = backward, forward
    voxels = np.flatnonzero(region)
    source, sink = voxels.size, voxels.size + 1
    node = np.full(region.size, sink, dtype=np.int32)
    node[voxels] = np.arange(voxels.size, dtype=np.int32)
    first, second = node[pairs.first[near]], node[pairs.second[near]]
    tails, heads = np.concatenate([first, second]), np.concatenate([second, first])
    capacity = np.concatenate([forward, backward])
    useful = np.flatnonzero((capacity > 0) & (tails != sink))

    solver = SimpleMaxFlow()
    arcs = solver.add_arcs_with_capacity(tails[useful], heads[useful], capacity[useful])
    supply = direction * excess[voxels]
    giving = np.flatnonzero(supply > 0).astype(np.int32)
    taking = np.flatnonzero(supply < 0).astype(np.int32)
    solver.add_arcs_with_capacity(np.full_like(giving, source), giving, supply[giving])
    solver.add_arcs_with_capacity(taking, np.full_like(taking, sink), -supply[taking])
    status = solver.solve(source, sink)
    if status != solver.OPTIMAL:
        raise RuntimeError(f"max-flow ended with {status}")

    pushed = np.zeros_like(capacity)
    pushed[useful] = solver.flows(arcs)
    flow = flow.copy()
    flow[near] += direction * (pushed[: near.size] - pushed[near.size :])
    held = np.asarray(solver.get_source_side_min_cut(), dtype=np.int64)
    cycles = cycles.copy()
    cycles[voxels[held[held < source]]] += direction
    return cycles, flow


def _settle_cycles(
    cycles: np.ndarray,
    values: np.ndarray,
    voxel_weights: np.ndarray,
    components: np.ndarray,
    inside: np.ndarray,
) -> np.ndarray:
    """Settle the whole cycles that the energy leaves free, one number a component.

    The weighted median of the largest component comes to lie within ±π. Every other component is
    compared with the largest where the two are nearest to each other; the median over these voxels of
    the difference of phase comes to lie within ±π as well.
    """
    unwrapped = values + 2 * np.pi * cycles
    largest = np.argmax(np.bincount(components))
    main = components == largest
    order = np.argsort(unwrapped[main], kind="stable")
    sums = np.cumsum(voxel_weights[main][order])
    median = unwrapped[main][order][np.searchsorted(sums, sums[-1] / 2)]
    offset = np.full(components.max() + 1, np.rint(median / (2 * np.pi)), dtype=np.int64)
    if offset.size > 1:
        image = np.zeros(inside.shape)
        image[inside] = unwrapped
        away = inside.copy()
        away[inside] = ~main
        away |= ~inside
        distance, nearest = ndimage.distance_transform_edt(away, return_indices=True)
        gap = distance[inside]
        difference = unwrapped - image[tuple(nearest)][inside]
        others = np.flatnonzero(np.arange(offset.size) != largest)
        facing = gap <= ndimage.minimum(gap, components, np.arange(offset.size))[components] + 0.5
        medians = ndimage.median(difference[facing], components[facing], others)
        offset[others] += np.rint(medians / (2 * np.pi)).astype(np.int64)
    return cycles - offset[components]
