"""What a training is given: an endless stream of batches, and batches to validate on."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from qsmflow.train.volumes import UnusableData

#: Factors on the values of an augmented sample, log-uniform.
CONTRAST = (0.7, 1.4)
#: Fewest samples of a validation.
VALIDATION_SAMPLES = 16
Batch = dict[str, Tensor]


class Stream(IterableDataset):
    """Endless batches, each of which depends on the seed and its index alone.

    Give it to a ``DataLoader`` with ``batch_size=None``; workers and ranks take turns.

    Parameters
    ----------
    seed : int
    start : int
        First batch.
    rank, ranks : int
        Of several processes that train together.
    """

    def __init__(self, *, seed: int, start: int = 0, rank: int = 0, ranks: int = 1):
        self.seed = seed
        self.start = start
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, step = (self.start + worker.id, worker.num_workers) if worker else (self.start, 1)
        while True:
            yield self.batch(index * self.ranks + self.rank)
            index += step

    def batch(self, index: int) -> Batch:
        """The batch of an index."""
        raise NotImplementedError


def positioned(stream: IterableDataset, *, start: int, rank: int = 0, ranks: int = 1) -> IterableDataset:
    """The same stream from another batch on, or for one of several processes."""
    moved = copy.copy(stream)
    moved.start, moved.rank, moved.ranks = start, rank, ranks
    return moved


@dataclass(frozen=True)
class Lesson:
    """What a network is trained and validated on.

    Parameters
    ----------
    stream : IterableDataset
        Batches for training.
    tests : mapping of str to list of dict
        Batches for validation by the prefix that their scores get.
    voxels : tuple of tuple of float
        Voxel sizes that occur, mm.
    recipe : mapping
        What a model card tells of the data.
    """

    stream: IterableDataset = field(repr=False)
    tests: Mapping[str, Sequence[Batch]] = field(repr=False)
    voxels: tuple[tuple[float, ...], ...]
    recipe: Mapping


def validation_batches(stream: IterableDataset, batch_size: int) -> list[Batch]:
    """Batches with enough samples for a validation, leaving out those in which there is nothing to see."""
    wanted = -(-VALIDATION_SAMPLES // batch_size)
    drawn = (stream.batch(index) for index in range(10 * wanted))
    batches = list(islice((batch for batch in drawn if _varies(batch)), wanted))
    if not batches:
        raise UnusableData("the maps held out are constant in their masks; look at them")
    return batches


def _varies(batch: Batch) -> bool:
    truth = batch["truth" if "truth" in batch else "susceptibility"]
    inside = truth[batch["mask"] > 0]
    return bool(inside.numel() and inside.max() > inside.min())


_SIMULATORS = ("qsmflow-train", "qsmflow-simulate")


@dataclass(frozen=True)
class Origin:
    """Where data come from.

    Parameters
    ----------
    names : tuple of str
        Of the data sets.
    simulated : bool
        Whether all of them were made by our own simulator.
    """

    names: tuple[str, ...]
    simulated: bool


def read_origin(folders: Sequence[Path]) -> Origin:
    """What the ``dataset_description.json`` of data sets say; without one, data count as measured."""
    names, simulated = [], True
    for folder in folders:
        path = folder / "dataset_description.json"
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            made_by = [str(one.get("Name")) for one in stated.get("GeneratedBy", [])]
        except (OSError, ValueError, AttributeError):
            stated, made_by = {}, []
        names.append(str(stated.get("Name", folder.name)))
        simulated &= any(name.startswith(_SIMULATORS) for name in made_by)
    return Origin(tuple(names), simulated)
