"""Data that nobody of this project made, or as other programs write them, through the whole app."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from qsmflow.cli.exit_codes import ExitCode
from qsmflow.cli.run import main

ECHO_TIMES = (0.004, 0.008, 0.012)


@pytest.fixture(scope="module")
def crop(test_data, tmp_path_factory) -> Path:
    """The measured brain crop as BIDS; the phase keeps its misleading header slope."""
    bids_dir = tmp_path_factory.mktemp("crop") / "bids"
    anat = bids_dir / "sub-crop" / "anat"
    anat.mkdir(parents=True)
    description = {"Name": "crop", "BIDSVersion": "1.10.0", "DatasetType": "raw", "License": "MIT"}
    (bids_dir / "dataset_description.json").write_text(json.dumps(description))
    (bids_dir / "README").write_text("A brain crop of the ROMEO test data with echo times made up.\n")
    for part, source in (("mag", "small_Mag"), ("phase", "small_Phase")):
        image = nib.load(test_data / "romeo_small" / f"{source}.nii.gz")
        stored = image.dataobj.get_unscaled()
        for echo, echo_time in enumerate(ECHO_TIMES):
            single = nib.Nifti1Image(stored[..., echo], image.affine)
            single.set_sform(image.affine, 1)
            single.header.set_slope_inter(float(image.dataobj.slope), float(image.dataobj.inter))
            name = f"sub-crop_echo-{echo + 1}_part-{part}_MEGRE"
            nib.save(single, anat / f"{name}.nii.gz")
            metadata = {"EchoTime": echo_time, "MagneticFieldStrength": 7, "RepetitionTime": 0.03}
            metadata |= {"Units": "arbitrary"} if part == "phase" else {}
            (anat / f"{name}.json").write_text(json.dumps(metadata))
    return bids_dir


@pytest.mark.parametrize("inversion", ["tkd", pytest.param("medi", marks=pytest.mark.slow)])
def test_measured_crop_goes_through_the_app(crop, tmp_path, capsys, inversion):
    out = tmp_path / "out"
    arguments = ["-w", str(tmp_path / "work"), "--nprocs", "1", "--inversion", inversion]
    arguments += ["--motion-correction", "off"]
    code = main([str(crop), str(out), "participant", *arguments])
    said = capsys.readouterr().err
    assert code == ExitCode.DONE, said
    assert "slope is ignored" in said
    maps = {
        name: np.asarray(nib.load(out / "sub-crop" / path).dataobj)
        for name, path in {
            "total": "fmap/sub-crop_desc-total_fieldmap.nii.gz",
            "mask": "anat/sub-crop_desc-brain_mask.nii.gz",
            "chi": "anat/sub-crop_Chimap.nii.gz",
            "r2star": "anat/sub-crop_R2starmap.nii.gz",
        }.items()
    }
    mask = maps["mask"] > 0
    assert mask.mean() > 0.5
    period = 1 / (ECHO_TIMES[1] - ECHO_TIMES[0])
    # Veins relax fast and turn the phase within a voxel; elsewhere no step may be half a cycle or more.
    tissue = binary_erosion(mask) & (maps["r2star"] < np.percentile(maps["r2star"][mask], 95))
    for axis in range(3):
        step = np.abs(np.diff(maps["total"], axis=axis))
        pair = np.logical_and(*(np.take(tissue, index, axis) for index in _neighbours(tissue.shape[axis])))
        assert not (step[pair] > period / 2).any()
    assert 0.01 < maps["chi"][mask].std() < 0.3


def test_axes_of_length_one_change_nothing(app, finished, tmp_path):
    bids_dir = tmp_path / "input"
    shutil.copytree(finished.bids_dir, bids_dir, ignore=shutil.ignore_patterns("derivatives"))
    for index, path in enumerate(sorted(bids_dir.rglob("*_MEGRE.nii.gz"))):
        image = nib.load(path)
        # Some images have one such axis, some have several, the last has none.
        shape = (*image.shape, *[1] * ((index + 1) % 4))
        values = np.reshape(image.dataobj.get_unscaled(), shape)
        nib.save(nib.Nifti1Image(values, None, image.header), path)
    mask = next((finished.out_dir / "sub-01" / "anat").glob("*_mask.nii.gz"))
    mask = nib.load(mask)
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[..., None], mask.affine), tmp_path / "mask.nii")
    for name, extra in (("alone", []), ("masked", ["--mask-file", str(tmp_path / "mask.nii")])):
        assert app(bids_dir, tmp_path / name, tmp_path / "work", *extra) == ExitCode.DONE
        for made in ("anat/sub-01_Chimap.nii.gz", "anat/sub-01_R2starmap.nii.gz"):
            image, plain = (nib.load(out / "sub-01" / made) for out in (tmp_path / name, finished.out_dir))
            assert image.shape == plain.shape
            if name == "alone":
                np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(plain.dataobj))


def _neighbours(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(size - 1), np.arange(1, size)


@pytest.mark.parametrize(("layout", "words"), [("qmri_megre", "no phase images"), ("qmri_qsm", "T1w")])
@pytest.mark.parametrize("validation", [[], ["--skip-bids-validation"]])
def test_public_examples_get_a_clear_answer(test_data, tmp_path, capsys, layout, words, validation):
    bids_dir = test_data / "bids_layouts" / layout
    arguments = ["-w", str(tmp_path / "work"), "--motion-correction", "off", *validation]
    code = main([str(bids_dir), str(tmp_path / "out"), "participant", *arguments])
    said = capsys.readouterr().err
    assert code == (ExitCode.BAD_DATA if validation else ExitCode.INVALID_BIDS)
    assert words in said
    assert "Fix:" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
