"""Tiny data sets, written as a test needs them."""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

SHAPE = (8, 8, 8)


@dataclass(frozen=True)
class Study:
    """A raw data set in the making."""

    root: Path

    def write_image(self, path, values, *, affine=None, sidecar=None) -> Path:
        """Write an image, and its sidecar if there is one."""
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        nb.save(nb.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine), path)
        if sidecar is not None:
            self.write_json(str(path).split(".nii")[0] + ".json", sidecar)
        return path

    def write_json(self, path, content) -> None:
        """Write a JSON file."""
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def add_scan(
        self,
        stem="sub-01/anat/sub-01",
        *,
        echo_times=(0.004, 0.008),
        suffix="MEGRE",
        labels=None,
        parts=("mag", "phase"),
    ) -> list[Path]:
        """Write magnitude and phase of every echo; a scan with the suffix T2starw has no echo label."""
        labels = labels or range(1, len(echo_times) + 1)
        generator = np.random.default_rng(0)
        paths = []
        for label, echo_time in zip(labels, echo_times, strict=True):
            echo = f"_echo-{label}" if suffix == "MEGRE" else ""
            for part in parts:
                top = 4096 if part == "phase" else 1000
                values = generator.integers(0, top, SHAPE).astype(np.int16)
                values.flat[:2] = 0, top - 1
                sidecar = {"EchoTime": echo_time, "MagneticFieldStrength": 3}
                sidecar |= {"Units": "arbitrary"} if part == "phase" else {}
                paths.append(
                    self.write_image(f"{stem}{echo}_part-{part}_{suffix}.nii.gz", values, sidecar=sidecar)
                )
        return paths

    def edit_sidecar(self, image: Path, **fields) -> None:
        """Change fields of an image's sidecar; None takes one out."""
        path = Path(str(image).split(".nii")[0] + ".json")
        content = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    def tree(self) -> dict[str, bytes]:
        """Every file with its content."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def study(tmp_path) -> Study:
    """A raw data set without subjects."""
    made = Study(tmp_path / "raw")
    made.write_json("dataset_description.json", {"Name": "Study", "BIDSVersion": "1.10.0"})
    (made.root / "README").write_text("A study of phantoms, made for tests.")
    return made
