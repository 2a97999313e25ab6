"""Phase unwrapping by graph cuts: the integer field of cycles of least energy.

The energy of PUMA is convex in the cycles, so a field that no set of voxels can lower by one common
cycle is a global optimum, whatever field the descent began with. Two consequences carry this module.
The descent begins at a good guess, so that few voxels are left to move. And each cut looks only at
the surroundings of the pairs that are still more than half a cycle apart: as long as some of its flow
ends at the rim the surroundings grow, and once none does, the flow of the small graph is a maximum
flow of the whole one and proves the optimum.
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

#: Integer steps of a cycle and of the largest weight. Max-flow counts in int64: a pair one cycle
#: apart costs at most 2³², so that the sum over all pairs of 512³ voxels still fits.
CYCLE = 1 << 16
WEIGHT = 1 << 16

#: Pairs around a jump that the first cut looks at.
REACH = 1
GROW = 2


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

    The sum runs over the pairs of face neighbours in the mask; w_ij is the smaller of both voxels'
    weights, which is how the noise of a phase difference goes with the magnitude. Each connected
    component of the mask is unwrapped by itself. The largest is placed so that its weighted median lies
    within ±π, the others so that they meet it across the gap (see `_settle_cycles`).

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
        inside the mask, or a weight is negative.

    References
    ----------
    Bioucas-Dias and Valadão 2007, 10.1109/TIP.2006.888351; on the optimality of local moves: Murota
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
    """Face neighbours in the mask; voxels are counted along the mask, phases in steps of a cycle."""

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray
    phase: np.ndarray

    def differences(self, cycles: np.ndarray) -> np.ndarray:
        """First minus second voxel of each pair, in steps."""
        steps = self.phase + CYCLE * cycles
        return steps[self.first] - steps[self.second]

    def slopes(self, chosen, cycles):
        """Rise of a pair's cost by a cycle below and above its difference."""
        steps = self.phase + CYCLE * cycles
        difference = steps[self.first[chosen]] - steps[self.second[chosen]]
        weight = self.weight[chosen]
        here = np.abs(difference)
        return weight * (here - np.abs(difference - CYCLE)), weight * (np.abs(difference + CYCLE) - here)

    def divergence(self, flow: np.ndarray) -> np.ndarray:
        """Flow out of each voxel less the flow into it."""
        n_voxels = self.phase.size
        net = np.bincount(self.first, flow, n_voxels) - np.bincount(self.second, flow, n_voxels)
        return net.astype(np.int64)

    def dilate(self, voxels: np.ndarray, reach: int) -> np.ndarray:
        """Add the voxels up to `reach` pairs away."""
        for _ in range(reach):
            grown = voxels.copy()
            grown[self.first[voxels[self.second]]] = True
            grown[self.second[voxels[self.first]]] = True
            if np.array_equal(grown, voxels):
                break
            voxels = grown
        return voxels


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
    largest = voxel_weights.max() or 1.0
    weight = np.rint(np.minimum(voxel_weights[first], voxel_weights[second]) / largest * WEIGHT)
    # a weight of 0 would leave the cycles of a voxel undetermined
    weight = np.maximum(weight, 1).astype(np.int64)
    return _Pairs(first, second, weight, np.rint(values * (CYCLE / (2 * np.pi))).astype(np.int64))


def _spanning_tree_cycles(pairs: _Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Unwrap along the spanning tree of the pairs that are dearest to break.

    Returns cycles and the number of the connected component, both by voxel.
    """
    n_voxels = pairs.phase.size
    difference = pairs.differences(np.zeros(n_voxels, dtype=np.int64))
    jump = -np.rint(difference / CYCLE).astype(np.int64)
    breaking = pairs.weight * (CYCLE - 2 * np.abs(difference + CYCLE * jump))
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
    """Move sets of voxels up or down by a cycle until none lowers the energy.
    """
    cycles = cycles.copy()
    lower, upper = pairs.slopes(slice(None), cycles)
    flow = np.clip(0, lower, upper)
    reach = REACH
    direction = 1
    for step in range(max_steps):
        excess = pairs.divergence(flow)
        unsettled = excess != 0
        if not unsettled.any():
            return cycles, step, True
        region = pairs.dilate(unsettled, reach)
        _best_move(pairs, cycles, flow, excess, region, direction)
        direction = -direction
        reach *= GROW
    return cycles, max_steps, False


def _best_move(pairs, cycles, flow, excess, region: np.ndarray, direction: int):
    """xxx"""
    near = np.flatnonzero(region[pairs.first] | region[pairs.second])
    first, second = pairs.first[near], pairs.second[near]
    lower, upper = pairs.slopes(near, cycles)
    forward, backward = upper - flow[near], flow[near] - lower
    if direction < 0:
        forward, backward = backward, forward

    voxels = np.flatnonzero(region)
    source, sink = voxels.size, voxels.size + 1
    node = np.full(region.size, sink, dtype=np.int32)  # what stands still is the sink
    node[voxels] = np.arange(voxels.size, dtype=np.int32)
    tails = np.concatenate([node[first], node[second]])
    heads = np.concatenate([node[second], node[first]])
    capacity = np.concatenate([forward, backward])
    capacity[tails == sink] = 0
    useful = np.flatnonzero(capacity)
    solver = SimpleMaxFlow()
    arcs = solver.add_arcs_with_capacity(tails[useful], heads[useful], capacity[useful])
    change = -direction * excess[voxels]
    up, down = np.flatnonzero(change > 0).astype(np.int32), np.flatnonzero(change < 0).astype(np.int32)
    solver.add_arcs_with_capacity(np.full_like(up, source), up, change[up])
    solver.add_arcs_with_capacity(down, np.full_like(down, sink), -change[down])
    status = solver.solve(source, sink)
    if status != solver.OPTIMAL:
        raise RuntimeError(f"max-flow ended with {status}")
    pushed = np.zeros_like(capacity)
    pushed[useful] = solver.flows(arcs)
    flow[near] += direction * (pushed[: near.size] - pushed[near.size :])
    cut = np.asarray(solver.get_source_side_min_cut(), dtype=np.int64)
    moved = cut[cut < voxels.size]
    cycles[voxels[moved]] += direction
    return len(moved), pushed[heads==sink].sum(), change[change>0].sum()


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
        facing = gap <= ndimage.minimum(gap, components, np.arange(offset.size))[components] + 1
        medians = ndimage.median(difference[facing], components[facing], others)
        offset[others] += np.rint(medians / (2 * np.pi)).astype(np.int64)
    return cycles - offset[components]
