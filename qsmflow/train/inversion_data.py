"""Lessons of dipole inversion: fields made of known susceptibility, and measured ones."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from nibabel.processing import resample_to_output
from torch import Tensor

from qsmflow.core.dipole import b0_direction, dipole_kernel
from qsmflow.core.fourier import good_size
from qsmflow.core.units import hertz_per_ppm
from qsmflow.train.fields import (
    SHAPES_ONLY,
    FieldBatches,
    FieldSettings,
    Head,
    HeadSources,
    ShapeSources,
    SourceMaker,
)
from qsmflow.train.lessons import CONTRAST, VALIDATION_SAMPLES, Batch, Lesson, Stream, validation_batches
from qsmflow.train.settings import TrainingSettings
from qsmflow.train.splits import split_subjects, subjects_recipe
from qsmflow.train.volumes import (
    READING_THREADS,
    UnusableData,
    Volume,
    as_volume,
    bounding_box,
    check_grid,
    extension_of,
    find_maps,
    load_image,
    mask_path,
    read_mask,
    read_on_grid,
    read_volume,
    stem_of,
    subject_of,
)

#: Share of the samples of DeepQSM that are shapes where there are heads, too.
SHAPES_BESIDE_HEADS = 0.15


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
    truths = find_maps(folders, "_desc-truth_Chimap")
    plain = [path for path in find_maps(folders, "_Chimap") if "_desc-" not in path.name]
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
    labels_path = path.with_name(f"{stem_of(path)}_dseg{extension_of(path)}")
    chi, mask = _at_one_millimetre(path, order=1), _at_one_millimetre(mask_path(path), order=0)
    inside = torch.from_numpy(check_grid(mask, chi).values > 0.5)
    box = bounding_box(inside.numpy())
    labels = torch.zeros(inside.shape, dtype=torch.uint8)
    if labels_path.exists():
        labels = torch.from_numpy(
            check_grid(_at_one_millimetre(labels_path, order=0), chi).values.astype(np.uint8)
        )
    values = torch.from_numpy(chi.values).half()
    return Head(*(image[box].clone() for image in (values, inside, labels)))


def _at_one_millimetre(path: Path, *, order: int) -> Volume:
    image = load_image(path)
    volume = as_volume(path, image)
    if np.allclose(volume.voxel_size, 1, atol=0.02):
        return volume
    return as_volume(path, resample_to_output(image, voxel_sizes=(1, 1, 1), order=order))


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
    mask = read_mask(chi)
    local = read_on_grid(field_path, like=chi).values * _to_ppm(field_path)
    box = bounding_box(mask)
    if not mask.any():
        raise UnusableData(f"{mask_path(path)} is empty")
    images = (local, chi.values - chi.values[mask].mean(dtype=float))
    return Measured(
        path.name.split(".")[0],
        *(torch.from_numpy(image[box].astype(np.float16)) for image in images),
        mask=torch.from_numpy(mask[box].copy()),
        voxel_size=chi.voxel_size,
        b0_direction=b0_direction(chi.affine),
    )


def _field_path(chi: Path) -> Path:
    return chi.parent.parent / "fmap" / f"{stem_of(chi)}_desc-local_fieldmap{extension_of(chi)}"


def _to_ppm(path: Path) -> float:
    """Factor from what a field is stored in to ppm."""
    sidecar = path.with_name(path.name.removesuffix(extension_of(path)) + ".json")
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
        split = split_subjects(map(subject_of, maps))
        for makers, subjects in ((trained, split.training), (tested, split.validation)):
            makers.append(HeadSources(_heads([path for path in maps if subject_of(path) in subjects])))
        recipe |= subjects_recipe(split)
    frame = {"settings": fields, "batch_size": settings.batch_size}

    def stream(makers: Sequence[SourceMaker], seed: int) -> FieldBatches:
        # Beside heads, shapes only keep the network from knowing nothing else.
        weights = [SHAPES_BESIDE_HEADS, 1 - SHAPES_BESIDE_HEADS] if len(makers) > 1 else [1]
        return FieldBatches(makers, weights=weights, seed=seed, **frame)

    isotropic = tuple((edge,) * 3 for edge in (fields.coarseness[0] / fields.zoom[1], fields.coarseness[1]))
    return Lesson(
        stream=stream(trained, seed),
        tests={"": validation_batches(stream(tested, seed + 1), settings.batch_size)},
        voxels=(*isotropic, (1.0, 1.0, fields.thickness[1])),
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
    split = split_subjects(map(subject_of, maps))
    trained, tested = (
        [load_measured(path) for path in maps if subject_of(path) in subjects]
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
        recipe=subjects_recipe(split) | {"fields": "measured"},
    )


def _heads(paths: Sequence[Path]) -> list[Head]:
    with ThreadPoolExecutor(READING_THREADS) as pool:
        return list(pool.map(load_head, paths))
