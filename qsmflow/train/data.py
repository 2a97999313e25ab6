"""What networks are trained on: maps of BIDS derivatives, split by subject, as endless streams of batches."""

import copy
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from nibabel.filebasedimages import ImageFileError
from nibabel.processing import resample_to_output
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from qsmflow.core.dipole import b0_direction, dipole_kernel
from qsmflow.core.fourier import good_size
from qsmflow.core.units import hertz_per_ppm
from qsmflow.nets.bundle import Bundle
from qsmflow.nets.tiling import Progress, cut, run_tiled, usable_precision
from qsmflow.sim.files import write_bytes
from qsmflow.train.fields import (
    SHAPES_ONLY,
    FieldBatches,
    FieldSettings,
    Head,
    HeadSources,
    ShapeSources,
    SourceMaker,
)
from qsmflow.train.settings import TrainingSettings

Batch = dict[str, Tensor]
#: Up to where the hash of a subject's name puts it into training, and into validation.
SHARES = (0.8, 0.9)
#: Fewest samples of a validation.
VALIDATION_SAMPLES = 16
#: Share of the patch that must lie in the mask, and how many places are tried.
MASK_SHARE, TRIES = 0.1, 10
#: Factors on the values of an augmented sample, log-uniform, and largest constant added to it, ppm.
CONTRAST, SHIFT = (0.7, 1.4), 0.02
#: Axes of the slices; they are swapped half of the time.
IN_PLANE = (0, 1)
#: Share of the samples of DeepQSM that are shapes where there are heads, too.
SHAPES_BESIDE_HEADS = 0.15
#: Of a volume that goes through a network in one piece.
MOST_VOXELS = 3_000_000
_THREADS = 4
_SIMULATORS = ("qsmflow-train", "qsmflow-simulate")


class UnusableData(ValueError):
    """Data that cannot be trained on; the message names file and fix."""


@dataclass(frozen=True)
class Split:
    """Subjects by what they are for.

    Parameters
    ----------
    training, validation, test : frozenset of str
        Labels. The subjects of the test are never looked at.
    """

    training: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]


def split_subjects(subjects: Iterable[str]) -> Split:
    """Put each subject where a hash of its label says, 80/10/10.

    So one label lies in the same part in every data set, and stays there when subjects are added. Where this
    would leave a part without subjects that training needs, the subject that is nearest to it moves.

    Parameters
    ----------
    subjects : iterable of str
        Labels; repeated ones count once.

    Returns
    -------
    Split

    Raises
    ------
    UnusableData
        If there are fewer than two.

    Examples
    --------
    >>> split = split_subjects(f"sub-{number:03d}" for number in range(200))
    >>> len(split.training), len(split.validation), len(split.test)
    (158, 26, 16)
    """
    place = {subject: _place(subject) for subject in set(subjects)}
    if len(place) < 2:
        raise UnusableData(f"{len(place)} subject(s) found; training and validation need at least two")
    ordered = sorted(place, key=place.get)
    training = {subject for subject in ordered if place[subject] < SHARES[0]}
    test = {subject for subject in ordered if place[subject] >= SHARES[1]}
    if not training:
        training = {ordered[0]}
    if training == set(ordered):
        training.remove(ordered[-1])
    validation = set(ordered) - training - test
    if not validation:
        validation = {next(subject for subject in ordered if subject not in training)}
    return Split(frozenset(training), frozenset(validation), frozenset(test - validation - training))


def _place(subject: str) -> float:
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8]) / 2**64


@dataclass(frozen=True)
class Volume:
    """A map as it lies in a file, with axes that point right, forward and up as nearly as they can.

    Parameters
    ----------
    path : Path
        The file.
    values : numpy.ndarray
        (x, y, z), float32.
    affine : numpy.ndarray
        (4, 4), voxel to scanner coordinates in mm.
    """

    path: Path
    values: np.ndarray
    affine: np.ndarray

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Edges in mm."""
        return tuple(float(edge) for edge in nib.affines.voxel_sizes(self.affine))


def read_volume(path: Path) -> Volume:
    """Read a map.

    Raises
    ------
    UnusableData
        If the file is damaged, no volume, or not finite.
    """
    return _volume(path, _load(path))


def _load(path: Path) -> nib.Nifti1Image:
    try:
        return nib.as_closest_canonical(nib.load(path))
    except FileNotFoundError:
        raise UnusableData(f"{path} is missing") from None
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise UnusableData(f"{path} cannot be read ({error}); make it again or leave it out") from error


def _volume(path: Path, image: nib.Nifti1Image) -> Volume:
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise UnusableData(f"{path} cannot be read ({error}); make it again or leave it out") from error
    if values.ndim != 3:
        raise UnusableData(f"{path} has shape {values.shape}; want a volume of three axes")
    if not np.isfinite(values).all():
        raise UnusableData(f"{path} has values that are not finite; leave it out or set them to zero")
    return Volume(path, values, image.affine)


def _check_grid(volume: Volume, reference: Volume) -> Volume:
    """The volume, if it lies on the grid of another one."""
    if volume.values.shape != reference.values.shape:
        differ = f"{volume.values.shape} and {reference.values.shape} voxels"
    elif not np.allclose(volume.affine, reference.affine, atol=1e-2):
        differ = "different affines"
    else:
        return volume
    raise UnusableData(
        f"{reference.path} and {volume.path} lie on different grids ({differ}); resample one to the other"
    )


def _entities(path: Path) -> set[str]:
    return set(path.name.split("_")[:-1])


def _subject(path: Path) -> str:
    return path.name.split("_")[0]


def _mask_path(chi: Path) -> Path:
    return chi.with_name(f"{_stem(chi)}_desc-brain_mask{_extension(chi)}")


def _extension(path: Path) -> str:
    return ".nii.gz" if path.name.endswith(".gz") else ".nii"


def _maps(folders: Sequence[Path], suffix: str) -> list[Path]:
    """Files of all subjects that end so, as ``_Chimap``."""
    found = (path for folder in folders for path in folder.glob(f"sub-*/**/sub-*{suffix}.nii*"))
    return sorted(found)


@dataclass(frozen=True)
class PairFiles:
    """Maps of one session: one of the still head, and those of the moving one.

    Parameters
    ----------
    subject : str
        Label.
    still : Path
    moved : tuple of Path
    """

    subject: str
    still: Path
    moved: tuple[Path, ...]


def find_pairs(
    folders: Sequence[Path], *, still: str = "acq-still", moved: str = "acq-motion"
) -> list[PairFiles]:
    """Find the susceptibility maps of still and moving heads, session by session.

    Parameters
    ----------
    folders : sequence of Path
        BIDS derivatives.
    still, moved : str
        Entities that tell the maps apart, such as ``acq-still`` or ``acq-fast_run-01``. Maps with a ``desc``
        are left out.

    Returns
    -------
    list of PairFiles

    Raises
    ------
    FileNotFoundError
        If there are none.
    UnusableData
        If a session has more than one map of the still head.
    """
    found = []
    maps = [path for path in _maps(folders, "_Chimap") if "_desc-" not in path.name]
    for folder in sorted({path.parent for path in maps}):
        here = [path for path in maps if path.parent == folder]
        references = [path for path in here if set(still.split("_")) <= _entities(path)]
        moving = [path for path in here if set(moved.split("_")) <= _entities(path)]
        if len(references) > 1:
            raise UnusableData(f"{references[0]} and {references[1]} are both still maps; narrow --still")
        if references and moving:
            found.append(PairFiles(_subject(references[0]), references[0], tuple(moving)))
    if not found:
        where = ", ".join(map(str, folders))
        raise FileNotFoundError(
            f"no pair of *{still}*_Chimap and *{moved}*_Chimap in {where}; see --still and --moved"
        )
    return found


@dataclass(frozen=True)
class Pair:
    """A map and what it should be, cut to the box of the brain.

    Parameters
    ----------
    name : str
        Of the map.
    image, truth : Tensor
        (x, y, z), ppm, float16.
    mask : Tensor
        (x, y, z), bool.
    image_mean, truth_mean : float
        In the mask, ppm, which samples are given without.
    voxel_size : tuple of float
        mm.
    """

    name: str
    image: Tensor = field(repr=False)
    truth: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    image_mean: float
    truth_mean: float
    voxel_size: tuple[float, ...]

    def images(self, box: tuple[slice, ...] = (...,)) -> tuple[Tensor, Tensor, Tensor]:
        """Image, truth and mask in a box: float32, without their means, zero outside the mask."""
        mask = self.mask[box].float()
        image = mask * (self.image[box].float() - self.image_mean)
        return image, mask * (self.truth[box].float() - self.truth_mean), mask


def load_pairs(files: Sequence[PairFiles]) -> tuple[list[Pair], list[Pair]]:
    """Read maps into memory.

    Parameters
    ----------
    files : sequence of PairFiles

    Returns
    -------
    tuple of list of Pair
        Those in motion, and each still map with itself.

    Raises
    ------
    UnusableData
        If a file is missing or damaged, grids disagree, or masks do not overlap.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        loaded = list(pool.map(_load_session, files))
    return [pair for moved, _ in loaded for pair in moved], [still for _, still in loaded]


def _load_session(files: PairFiles) -> tuple[list[Pair], Pair]:
    reference = read_volume(files.still)
    inside = _read_mask(reference)
    box = _bounding_box(inside)
    truth = torch.from_numpy(reference.values[box]).half()

    def pair(volume: Volume, mask: np.ndarray, image: Tensor) -> Pair:
        if not mask.any():
            raise UnusableData(f"the masks of {files.still} and {volume.path} do not overlap")
        return Pair(
            name=volume.path.name.split(".")[0],
            image=image,
            truth=truth,
            mask=torch.from_numpy(mask[box].copy()),
            image_mean=float(volume.values[mask].mean(dtype=float)),
            truth_mean=float(reference.values[mask].mean(dtype=float)),
            voxel_size=reference.voxel_size,
        )

    moved = []
    for path in files.moved:
        volume = _check_grid(read_volume(path), reference)
        mask = inside & _read_mask(volume)
        moved.append(pair(volume, mask, torch.from_numpy(volume.values[box]).half()))
    return moved, pair(reference, inside, truth)


def _read_mask(volume: Volume) -> np.ndarray:
    return _check_grid(read_volume(_mask_path(volume.path)), volume).values > 0.5


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    if not mask.any():
        return tuple(slice(0, size) for size in mask.shape)
    return tuple(slice(int(index.min()), int(index.max()) + 1) for index in np.nonzero(mask))


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


class PairBatches(Stream):
    """Patches of pairs: ``image``, ``truth`` and ``mask``, (b, 1, x, y, z) or (b, 1, x, y) for slices.

    Patches lie anywhere with enough of the mask in them; what reaches beyond the volume is zero.

    Parameters
    ----------
    pairs : sequence of Pair
        A sample is a patch of one of them.
    still : sequence of Pair
        Pairs without motion.
    still_share : float
        Share of samples from those.
    patch_size : tuple of int
        Voxels; slices where the third is 1.
    batch_size : int
    augments : bool
        Whether samples are flipped, turned, scaled and shifted in value.
    seed : int

    Examples
    --------
    >>> image = torch.arange(64.0).reshape(4, 4, 4).half()
    >>> pair = Pair("one", image, image, image > 9, 0.0, 0.0, (1.0, 1.0, 1.0))
    >>> frame = {"patch_size": (2, 2, 1), "batch_size": 3, "still_share": 0}
    >>> batches = PairBatches([pair], [], augments=True, seed=0, **frame)
    >>> batches.batch(0)["image"].shape
    torch.Size([3, 1, 2, 2])
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        still: Sequence[Pair],
        *,
        still_share: float,
        patch_size: tuple[int, int, int],
        batch_size: int,
        augments: bool,
        seed: int,
    ):
        super().__init__(seed=seed)
        self.pairs, self.still = tuple(pairs), tuple(still)
        self.still_share = still_share if still else 0.0
        self.patch_size, self.batch_size = patch_size, batch_size
        self.augments = augments

    def batch(self, index: int) -> Batch:
        """See :class:`Stream`."""
        rng = np.random.default_rng([self.seed, index])
        samples = torch.stack([self._sample(rng) for _ in range(self.batch_size)], dim=1)
        if self.patch_size[2] == 1:
            samples = samples[..., 0]
        return dict(zip(("image", "truth", "mask"), samples[:, :, None], strict=True))

    def _sample(self, rng: np.random.Generator) -> Tensor:
        """Image, truth and mask of a patch, (3, x, y, z)."""
        pairs = self.still if rng.random() < self.still_share else self.pairs
        pair = pairs[rng.integers(len(pairs))]
        swaps = self.augments and rng.random() < 0.5
        size = (*self.patch_size[1::-1], self.patch_size[2]) if swaps else self.patch_size
        first = draw_corner(pair.mask, size, rng)
        patch = torch.zeros(3, *size)
        source, target = zip(
            *[
                _overlap(start, n, whole)
                for start, n, whole in zip(first, size, pair.mask.shape, strict=True)
            ],
            strict=True,
        )
        patch[(slice(None), *target)] = torch.stack(pair.images(source))
        if not self.augments:
            return patch
        patch[:2] = (
            float(np.exp(rng.uniform(*np.log(CONTRAST)))) * patch[:2] + rng.uniform(-SHIFT, SHIFT) * patch[2:]
        )
        if swaps:
            patch = patch.transpose(IN_PLANE[0] + 1, IN_PLANE[1] + 1)
        return patch.flip([axis for axis in (1, 2, 3) if rng.random() < 0.5])


def draw_corner(mask: Tensor, size: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """First voxel of a patch that holds enough of a mask, else of one around a voxel of it.

    A patch lies within the volume along each axis where it is shorter, and around it where it is longer.

    Parameters
    ----------
    mask : Tensor
        (x, y, z), bool.
    size : sequence of int
        Voxels of the patch.
    rng : numpy.random.Generator

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> mask = torch.zeros(9, 9, 9, dtype=torch.bool)
    >>> mask[6:, 6:, 6:] = True
    >>> corner = draw_corner(mask, (6, 6, 12), np.random.default_rng(0))
    >>> [low <= first <= high for first, (low, high) in zip(corner, [(0, 3), (0, 3), (-3, 0)])]
    [True, True, True]
    """
    gaps = [whole - n for whole, n in zip(mask.shape, size, strict=True)]
    enough = MASK_SHARE * np.prod(size)
    for _ in range(TRIES):
        corner = tuple(int(rng.integers(min(gap, 0), max(gap, 0) + 1)) for gap in gaps)
        inside = tuple(slice(max(first, 0), first + n) for first, n in zip(corner, size, strict=True))
        # Every second voxel along each axis tells it well enough, in an eighth of the time.
        held = 8 * int(mask[inside][::2, ::2, ::2].sum()) if min(size) > 1 else int(mask[inside].sum())
        if held >= enough:
            return corner
    voxels = mask.nonzero()
    voxel = voxels[rng.integers(len(voxels))].tolist()
    return tuple(
        int(np.clip(place - n // 2, min(gap, 0), max(gap, 0)))
        for place, n, gap in zip(voxel, size, gaps, strict=True)
    )


def _overlap(start: int, size: int, whole: int) -> tuple[slice, slice]:
    """Where a patch and a volume overlap along an axis: in the volume, and in the patch."""
    first, stop = max(start, 0), min(start + size, whole)
    return slice(first, stop), slice(first - start, stop - start)


@dataclass(frozen=True)
class Measured:
    """A measured local field and the susceptibility that is held for true, cut to the box of the brain.

    Parameters
    ----------
    name : str
        Of the map.
    local_field, susceptibility : Tensor
        (x, y, z), ppm, float16; the latter without a mean in the mask.
    mask : Tensor
        bool.
    voxel_size : tuple of float
        mm.
    b0_direction : tuple of float
        Unit vector in voxel axes.
    """

    name: str
    local_field: Tensor = field(repr=False)
    susceptibility: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    voxel_size: tuple[float, ...]
    b0_direction: tuple[float, ...]


class MeasuredBatches(Stream):
    """Whole brains, one a batch, as :class:`qsmflow.train.fields.FieldBatches` gives its samples.

    A piece of one would hold the field of sources that lie outside it.

    Parameters
    ----------
    brains : sequence of Measured
    stride : int
        What edges must be a multiple of.
    augments : bool
        Whether field and susceptibility are flipped, with B0, and scaled.
    seed : int
    """

    def __init__(self, brains: Sequence[Measured], *, stride: int, augments: bool, seed: int):
        super().__init__(seed=seed)
        self.brains, self.stride, self.augments = tuple(brains), stride, augments

    def batch(self, index: int) -> Batch:
        """See :class:`Stream`."""
        rng = np.random.default_rng([self.seed, index])
        brain = self.brains[rng.integers(len(self.brains))]
        factor, flips = 1.0, []
        if self.augments:
            factor = float(np.exp(rng.uniform(*np.log(CONTRAST))))
            flips = [axis for axis in range(3) if rng.random() < 0.5]
        shape = [-(-size // self.stride) * self.stride for size in brain.mask.shape]
        padding = [
            w for n, size in zip(shape[::-1], brain.mask.shape[::-1], strict=True) for w in (0, n - size)
        ]
        mask = F.pad(brain.mask.flip(flips).float(), padding)
        images = {"field": factor * brain.local_field, "susceptibility": factor * brain.susceptibility}
        batch = {name: mask * F.pad(image.float().flip(flips), padding) for name, image in images.items()}
        # A flip of the voxels turns B0 with them.
        b0 = [-part if axis in flips else part for axis, part in enumerate(brain.b0_direction)]
        grid = good_size(shape, padding=[size // 2 for size in shape])
        kernel = dipole_kernel(grid, voxel_size=brain.voxel_size, b0_direction=b0)
        return {name: image[None, None] for name, image in (batch | {"mask": mask}).items()} | {
            "kernel": kernel[None]
        }


def find_susceptibilities(folders: Sequence[Path]) -> list[Path]:
    """Susceptibility maps of derivatives: what is said to be the truth where there is one, else the map.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    truths = _maps(folders, "_desc-truth_Chimap")
    plain = [path for path in _maps(folders, "_Chimap") if "_desc-" not in path.name]
    # Where a truth is known, maps of the same session that are none are worse.
    sessions = {path.parent for path in truths}
    found = truths + [path for path in plain if path.parent not in sessions]
    if not found:
        raise FileNotFoundError(f"no *_Chimap.nii[.gz] in {', '.join(map(str, folders))}")
    return sorted(found)


def load_head(path: Path) -> Head:
    """A susceptibility map at 1 mm with its mask and, where there is one, its segmentation.

    Raises
    ------
    UnusableData
        If a file is missing or damaged, or grids disagree.
    """
    labels_path = path.with_name(f"{_stem(path)}_dseg{_extension(path)}")
    chi, mask = _at_one_millimetre(path, order=1), _at_one_millimetre(_mask_path(path), order=0)
    inside = torch.from_numpy(_check_grid(mask, chi).values > 0.5)
    box = _bounding_box(inside.numpy())
    labels = torch.zeros(inside.shape, dtype=torch.uint8)
    if labels_path.exists():
        labels = torch.from_numpy(
            _check_grid(_at_one_millimetre(labels_path, order=0), chi).values.astype(np.uint8)
        )
    values = torch.from_numpy(chi.values).half()
    return Head(*(image[box].clone() for image in (values, inside, labels)))


def _at_one_millimetre(path: Path, *, order: int) -> Volume:
    image = _load(path)
    volume = _volume(path, image)
    if np.allclose(volume.voxel_size, 1, atol=0.02):
        return volume
    return _volume(path, resample_to_output(image, voxel_sizes=(1, 1, 1), order=order))


def load_measured(path: Path) -> Measured:
    """A susceptibility map with the local field that was measured of it, in ppm or Hz.

    The field is ``fmap/*_desc-local_fieldmap`` of the same session and entities; its JSON file states
    ``Units`` and, for Hz, ``MagneticFieldStrength``.

    Raises
    ------
    UnusableData
        If a file is missing or damaged, units are not stated, or grids disagree.
    """
    field_path = _field_path(path)
    chi = read_volume(path)
    mask = _read_mask(chi)
    local = _check_grid(read_volume(field_path), chi).values * _to_ppm(field_path)
    box = _bounding_box(mask)
    if not mask.any():
        raise UnusableData(f"{_mask_path(path)} is empty")
    images = (local, chi.values - chi.values[mask].mean(dtype=float))
    return Measured(
        path.name.split(".")[0],
        *(torch.from_numpy(image[box].astype(np.float16)) for image in images),
        mask=torch.from_numpy(mask[box].copy()),
        voxel_size=chi.voxel_size,
        b0_direction=b0_direction(chi.affine),
    )


def _stem(chi: Path) -> str:
    """Entities of a map but its ``desc``."""
    return chi.name.split("_desc-")[0].removesuffix(f"_Chimap{_extension(chi)}")


def _field_path(chi: Path) -> Path:
    return chi.parent.parent / "fmap" / f"{_stem(chi)}_desc-local_fieldmap{_extension(chi)}"


def _to_ppm(path: Path) -> float:
    """Factor from what a field is stored in to ppm."""
    sidecar = path.with_name(path.name.removesuffix(_extension(path)) + ".json")
    try:
        stated = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableData(f"{sidecar} cannot be read ({error}); it must state Units") from error
    units, strength = stated.get("Units"), stated.get("MagneticFieldStrength")
    if units == "ppm":
        return 1.0
    if units != "Hz":
        raise UnusableData(f"{sidecar}: Units is {units!r}; must be 'ppm' or 'Hz'")
    if not isinstance(strength, int | float) or not strength > 0:
        raise UnusableData(f"{sidecar}: MagneticFieldStrength is {strength!r}; must be tesla, for Units Hz")
    return 1 / hertz_per_ppm(strength)


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


def motion_lesson(
    files: Sequence[PairFiles], *, settings: TrainingSettings, seed: int, correct=lambda pair: pair
) -> Lesson:
    """Lesson of motion correction.

    Parameters
    ----------
    files : sequence of PairFiles
        Of all subjects.
    settings : TrainingSettings
    seed : int
    correct : callable
        What is done to a :class:`Pair` before: for a network that goes on where another stopped.

    Returns
    -------
    Lesson
        Tested on the ``moved`` maps of subjects held out, with the ``still`` ones apart.
    """
    split = split_subjects(one.subject for one in files)
    parts = []
    for subjects in (split.training, split.validation):
        moved, still = load_pairs([one for one in files if one.subject in subjects])
        parts.append(([correct(pair) for pair in moved], [correct(pair) for pair in still]))
    (moved, still), (held_out, held_out_still) = parts
    frame = {"patch_size": settings.patch_size, "batch_size": settings.batch_size, "still_share": 0.0}
    tests = {
        "": PairBatches(held_out, [], augments=False, seed=seed + 1, **frame),
        "still_": PairBatches(held_out_still, [], augments=False, seed=seed + 2, **frame),
    }
    frame["still_share"] = settings.still_share
    return Lesson(
        stream=PairBatches(moved, still, augments=settings.augments, seed=seed, **frame),
        tests={name: _first(stream, settings.batch_size) for name, stream in tests.items()},
        voxels=tuple(sorted({pair.voxel_size for pair in still})),
        recipe=_subjects_recipe(split) | {"maps in motion": len(moved), "patch": list(settings.patch_size)},
    )


def field_lesson(
    maps: Sequence[Path],
    *,
    settings: TrainingSettings,
    seed: int,
    shapes: bool,
) -> Lesson:
    """Lesson of dipole inversion on fields that are made of known susceptibility.

    Parameters
    ----------
    maps : sequence of Path
        Susceptibility maps; may be empty if there are shapes.
    settings : TrainingSettings
    seed : int
    shapes : bool
        Whether random shapes are learned from, too.

    Returns
    -------
    Lesson
    """
    sized = {} if settings.patch_size is None else {"shapes": (settings.patch_size,)}
    fields = replace(FieldSettings() if maps else SHAPES_ONLY, **sized)
    trained: list[SourceMaker] = [ShapeSources()] if shapes else []
    tested, recipe = list(trained), {"shapes": shapes}
    if maps:
        split = split_subjects(map(_subject, maps))
        for makers, subjects in ((trained, split.training), (tested, split.validation)):
            makers.append(HeadSources(_heads([path for path in maps if _subject(path) in subjects])))
        recipe |= _subjects_recipe(split)
    frame = {"settings": fields, "batch_size": settings.batch_size}

    def stream(makers: Sequence[SourceMaker], seed: int) -> FieldBatches:
        # Beside heads, shapes only keep the network from knowing nothing else.
        weights = [SHAPES_BESIDE_HEADS, 1 - SHAPES_BESIDE_HEADS] if len(makers) > 1 else [1]
        return FieldBatches(makers, weights=weights, seed=seed, **frame)

    fine, coarse = fields.coarseness[0], fields.coarseness[1]
    return Lesson(
        stream=stream(trained, seed),
        tests={"": _first(stream(tested, seed + 1), settings.batch_size)},
        voxels=((fine,) * 3, (coarse, coarse, coarse * fields.thickness[1])),
        recipe=recipe | {name: list(v) if isinstance(v, tuple) else v for name, v in vars(fields).items()},
    )


def measured_lesson(maps: Sequence[Path], *, settings: TrainingSettings, seed: int, stride: int) -> Lesson:
    """Lesson of dipole inversion on measured fields.

    Parameters
    ----------
    maps : sequence of Path
        Susceptibility maps; those without a local field, see :func:`load_measured`, are left out.
    settings : TrainingSettings
    seed : int
    stride : int
        What edges must be a multiple of.

    Returns
    -------
    Lesson

    Raises
    ------
    FileNotFoundError
        If no map has a local field.
    """
    maps = [path for path in maps if _field_path(path).exists()]
    if not maps:
        raise FileNotFoundError("no map has a fmap/*_desc-local_fieldmap beside it; take --fields made")
    split = split_subjects(map(_subject, maps))
    trained, tested = (
        [load_measured(path) for path in maps if _subject(path) in subjects]
        for subjects in (split.training, split.validation)
    )
    stream = MeasuredBatches(trained, stride=stride, augments=settings.augments, seed=seed)
    # Each brain once, rather than as drawn.
    tests = [
        MeasuredBatches([brain], stride=stride, augments=False, seed=0).batch(0)
        for brain in tested[:VALIDATION_SAMPLES]
    ]
    return Lesson(
        stream=stream,
        tests={"": tests},
        voxels=tuple(sorted({brain.voxel_size for brain in trained})),
        recipe=_subjects_recipe(split) | {"fields": "measured"},
    )


def _heads(paths: Sequence[Path]) -> list[Head]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(load_head, paths))


def _first(stream: IterableDataset, batch_size: int) -> list[Batch]:
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


def _subjects_recipe(split: Split) -> dict[str, int]:
    return {
        "subjects for training": len(split.training),
        "subjects for validation": len(split.validation),
        "subjects left for tests": len(split.test),
    }


class CorrectedPairs:
    """Gives pairs whose image a U-Net has corrected, for the network that goes on from there.

    What it made is kept in files, so that training goes on at once when it is resumed.

    Parameters
    ----------
    unet : Bundle
        With a U-Net, on the device that computes.
    precision : str
        See :func:`qsmflow.nets.tiling.usable_precision`.
    cache : Path
        Folder of the files.
    """

    def __init__(self, unet: Bundle, *, precision: str, cache: Path):
        if unet.card.architecture != "unet":
            raise UnusableData(f"model {unet.card.name} is a {unet.card.architecture}; --unet takes a unet")
        self._unet = unet
        self._dtype = usable_precision(precision, device=unet.device)
        self._folder = cache / unet.card.sha256[:16]

    def __call__(self, pair: Pair) -> Pair:
        """The pair with its image replaced; its mean in the mask stays where the network left it."""
        content = hashlib.sha256(pair.image.numpy().tobytes() + pair.mask.numpy().tobytes()).hexdigest()
        path = self._folder / f"{content[:24]}.npy"
        if not path.exists():
            written = io.BytesIO()
            np.save(written, self._corrected(pair))
            write_bytes(path, written.getvalue())
        return replace(pair, image=torch.from_numpy(np.load(path)), image_mean=0.0)

    @torch.inference_mode()
    def _corrected(self, pair: Pair) -> np.ndarray:
        image = pair.images()[0]
        stride = self._unet.network.settings.stride
        # Zeros on both sides, as where the network is applied.
        width = [-(-(size + 4) // stride) * stride - size for size in image.shape]
        padding = [part for both in reversed([(w // 2, w - w // 2) for w in width]) for part in both]
        padded = F.pad(image, padding)[None, None].to(self._unet.device)
        made = run_tiled(
            self._unet.network,
            padded,
            tiles=cut(padded.shape[2:], stride=stride, max_voxels=MOST_VOXELS),
            dtype=self._dtype,
            progress=Progress(1, None),
        )
        inner = tuple(slice(w // 2, w // 2 + size) for w, size in zip(width, image.shape, strict=True))
        return made[0, 0][inner].half().cpu().numpy()
