"""Lessons of motion correction: maps of heads that lie still and that move."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qsmflow.nets.bundle import Bundle
from qsmflow.nets.predict import told_severity
from qsmflow.nets.tiling import Progress, cut, run_tiled, usable_precision
from qsmflow.sim.files import write_bytes
from qsmflow.train.lessons import CONTRAST, Batch, Lesson, Stream, validation_batches
from qsmflow.train.settings import TrainingSettings
from qsmflow.train.splits import split_subjects, subjects_recipe
from qsmflow.train.volumes import (
    READING_THREADS,
    UnusableData,
    Volume,
    bounding_box,
    entities_of,
    find_maps,
    read_mask,
    read_on_grid,
    read_volume,
    subject_of,
)

#: Share of the patch that must lie in the mask, and how many places are tried.
MASK_SHARE, TRIES = 0.1, 10

#: Largest constant added to an augmented sample, ppm.
SHIFT = 0.02
#: Axes of the slices; they are swapped half of the time.
IN_PLANE = (0, 1)
#: Of a volume that goes through a network in one piece.
MOST_VOXELS = 3_000_000


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
    maps = [path for path in find_maps(folders, "_Chimap") if "_desc-" not in path.name]
    for folder in sorted({path.parent for path in maps}):
        here = [path for path in maps if path.parent == folder]
        references = [path for path in here if set(still.split("_")) <= entities_of(path)]
        moving = [path for path in here if set(moved.split("_")) <= entities_of(path)]
        if len(references) > 1:
            raise UnusableData(f"{references[0]} and {references[1]} are both still maps; narrow --still")
        if references and moving:
            found.append(PairFiles(subject_of(references[0]), references[0], tuple(moving)))
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

    @cached_property
    def severity(self) -> float:
        """Norm of the difference between image and truth over that of the image."""
        image, truth, _ = self.images()
        return float((image - truth).norm() / image.norm().clamp(min=1e-9))

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
    with ThreadPoolExecutor(READING_THREADS) as pool:
        loaded = list(pool.map(_load_session, files))
    return [pair for moved, _ in loaded for pair in moved], [still for _, still in loaded]


def _load_session(files: PairFiles) -> tuple[list[Pair], Pair]:
    reference = read_volume(files.still)
    inside = read_mask(reference)
    box = bounding_box(inside)
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
        volume = read_on_grid(path, like=reference)
        mask = inside & read_mask(volume)
        moved.append(pair(volume, mask, torch.from_numpy(volume.values[box]).half()))
    return moved, pair(reference, inside, truth)


class PairBatches(Stream):
    """Patches of pairs: ``image``, ``truth`` and ``mask``, (b, 1, x, y, z) or (b, 1, x, y) for slices.

    Beside them ``severity``, (b,), of the whole maps that they are taken from.

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
        drawn, samples = [], []
        for _ in range(self.batch_size):
            drawn.append(self._drawn(rng))
            samples.append(self._sample(drawn[-1], rng))
        samples = torch.stack(samples, dim=1)
        if self.patch_size[2] == 1:
            samples = samples[..., 0]
        images = dict(zip(("image", "truth", "mask"), samples[:, :, None], strict=True))
        return images | {"severity": torch.tensor([pair.severity for pair in drawn])}

    def _drawn(self, rng: np.random.Generator) -> Pair:
        pairs = self.still if rng.random() < self.still_share else self.pairs
        return pairs[rng.integers(len(pairs))]

    def _sample(self, pair: Pair, rng: np.random.Generator) -> Tensor:
        """Image, truth and mask of a patch, (3, x, y, z)."""
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
        tests={name: validation_batches(stream, settings.batch_size) for name, stream in tests.items()},
        voxels=tuple(sorted({pair.voxel_size for pair in still})),
        recipe=subjects_recipe(split) | {"maps in motion": len(moved), "patch": list(settings.patch_size)},
    )


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
        image, _, mask = pair.images()
        stride = self._unet.network.settings.stride
        # Zeros on both sides, as where the network is applied.
        width = [-(-(size + 4) // stride) * stride - size for size in image.shape]
        padding = [part for both in reversed([(w // 2, w - w // 2) for w in width]) for part in both]
        padded, known = (F.pad(one, padding)[None, None].to(self._unet.device) for one in (image, mask))
        made = run_tiled(
            told_severity(self._unet.network, padded, mask=known, dtype=self._dtype)[0],
            padded,
            tiles=cut(padded.shape[2:], stride=stride, max_voxels=MOST_VOXELS),
            dtype=self._dtype,
            progress=Progress(1, None),
        )
        inner = tuple(slice(w // 2, w // 2 + size) for w, size in zip(width, image.shape, strict=True))
        return made[0, 0][inner].half().cpu().numpy()
