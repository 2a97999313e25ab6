"""A tiny data set with a sound subject and one that a test spoils."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch

SHAPE = (8, 8, 8)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture(autouse=True)
def environment_is_restored():
    """The app sets environment variables and threads for the whole process; take them back."""
    before, threads = dict(os.environ), torch.get_num_threads()
    yield
    os.environ.clear()
    os.environ.update(before)
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Study:
    """Subjects 01 and 02 with two echoes each; whatever is changed is changed in the second."""

    folder: Path
    #: Where networks for tests lie, by architecture.
    networks: dict[str, Path]

    @property
    def root(self) -> Path:
        """Of the data set."""
        return self.folder / "input"

    @property
    def anat(self) -> Path:
        """Folder of the images that are spoiled."""
        return self.root / "sub-02" / "anat"

    def write(self) -> None:
        """Write both subjects."""
        generator = np.random.default_rng(0)
        self.json("input/dataset_description.json", {"Name": "Study", "BIDSVersion": "1.10.0"})
        (self.root / "README").write_text("A study of phantoms, made for tests.")
        for subject in ("01", "02"):
            for echo in (1, 2):
                for part, top in (("mag", 1000), ("phase", 4096)):
                    values = generator.integers(0, top, SHAPE).astype(np.int16)
                    values.flat[:2] = 0, top - 1
                    stem = f"input/sub-{subject}/anat/sub-{subject}_echo-{echo}_part-{part}_MEGRE"
                    self.image(f"{stem}.nii.gz", values)
                    units = {"Units": "arbitrary"} if part == "phase" else {}
                    self.json(f"{stem}.json", {"EchoTime": 0.004 * echo, "MagneticFieldStrength": 3, **units})

    def path(self, part: str = "phase", echo: int = 2, extension: str = ".nii.gz") -> Path:
        """A file of the second subject."""
        return self.anat / f"sub-02_echo-{echo}_part-{part}_MEGRE{extension}"

    def every(self, extension: str = ".nii.gz", part: str = "*") -> list[Path]:
        """Files of the second subject."""
        return sorted(self.anat.glob(f"*_part-{part}_MEGRE{extension}"))

    def text(self, name: str, content: str | bytes) -> Path:
        """Write a file beside the data set, or in it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def json(self, name: str, content) -> Path:
        """Write a JSON file."""
        return self.text(name, json.dumps(content))

    def image(self, name: str, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        """Write an image."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nb.save(nb.Nifti1Image(values, affine), path)
        return path

    def sidecar(self, content: str | bytes) -> None:
        """Put other content into the sidecar of the second phase."""
        self.text(str(self.path(extension=".json").relative_to(self.folder)), content)

    def metadata(self, part: str = "*", **fields) -> None:
        """Change a field in all sidecars; None takes it out."""
        for path in self.every(".json", part):
            content = json.loads(path.read_text()) | fields
            path.write_text(json.dumps({key: each for key, each in content.items() if each is not None}))

    def voxels(self, change: Callable, *, part: str = "phase", echo: int = 2, **grid) -> None:
        """Change voxels or grid of one image."""
        path = self.path(part, echo)
        image = nb.load(path)
        values = change(np.asarray(image.dataobj))
        nb.save(nb.Nifti1Image(values, grid.get("affine", image.affine)), path)

    def grids(self, affine: np.ndarray) -> None:
        """Give all images another affine."""
        for path in self.every():
            nb.save(nb.Nifti1Image(np.asarray(nb.load(path).dataobj), affine), path)

    def header(self, offset: int, content: bytes, paths: list[Path] | None = None) -> None:
        """Overwrite bytes of headers, by default that of the second phase."""
        for path in paths or [self.path()]:
            raw = bytearray(gzip.decompress(path.read_bytes()))
            raw[offset : offset + len(content)] = content
            path.write_bytes(gzip.compress(bytes(raw)))

    def replace(self, content: bytes) -> None:
        """Put other content in the place of the second phase."""
        self.path().write_bytes(content)

    def link(self, path: Path, target: Path | str) -> None:
        """Put a link in the place of a file."""
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def rename(self, old: str, new: str) -> None:
        """Replace a part of the names of all the second subject's files."""
        for path in sorted(self.anat.iterdir()):
            path.rename(path.with_name(path.name.replace(old, new)))

    def state(self) -> dict[str, tuple]:
        """Every file, folder and link beside output and work folder, with what tells a change."""
        return {
            os.fsencode(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
            for path in [*self.root.rglob("*"), *self.folder.iterdir()]
            if path.name not in ("out", "work") and not path.is_dir()
        }


@pytest.fixture
def study(tmp_path, networks) -> Study:
    """The data set, not spoiled yet."""
    made = Study(tmp_path / "study", networks)
    made.write()
    return made
