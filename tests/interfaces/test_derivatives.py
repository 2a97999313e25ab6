"""What leaves the work directory, and in what state."""

import json

import nibabel as nb
import numpy as np
import pytest

from qsmflow.bids.dataset import write_dataset
from qsmflow.bids.validator import find_validator, validate
from qsmflow.interfaces.derivatives import DerivativesSink

AFFINE = np.array(
    [[0.0, -1.5, 0.0, 10.0], [1.5, 0.0, 0.0, -20.0], [0.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 1.0]]
)
OUTPUTS = (
    {"suffix": "Chimap"},
    {"suffix": "Chimap", "desc": "motioncorrected"},
    {"suffix": "R2starmap"},
    {"suffix": "T2starmap"},
    {"suffix": "S0map"},
    {"suffix": "mask", "desc": "brain"},
    *(
        {"suffix": suffix, "desc": desc, "datatype": "fmap"}
        for desc in ("total", "local")
        for suffix in ("fieldmap", "magnitude")
    ),
)
UNITS = {"Chimap": "ppm", "R2starmap": "1/s", "T2starmap": "s", "fieldmap": "Hz", "S0map": "arbitrary"}


@pytest.fixture
def work_map(tmp_path):
    """A float64 map with the transform codes of a scanner image."""
    values = np.random.default_rng(0).normal(size=(4, 5, 6))
    image = nb.Nifti1Image(values, AFFINE)
    image.set_sform(AFFINE, code=1)
    image.set_qform(AFFINE, code=1)
    path = tmp_path / "work" / "map.nii"
    path.parent.mkdir()
    nb.save(image, path)
    return path


def write(work_map, folder, **inputs):
    inputs = {"entities": {"subject": "01", "session": None}, "suffix": "Chimap", **inputs}
    return DerivativesSink(base_directory=str(folder), in_file=str(work_map), **inputs).run().outputs


def test_map_keeps_values_and_frame(work_map, tmp_path):
    outputs = write(work_map, tmp_path / "out", meta={"Units": "ppm", "SkullStripped": True})
    assert outputs.out_file == str(tmp_path / "out" / "sub-01" / "anat" / "sub-01_Chimap.nii.gz")
    made, source = nb.load(outputs.out_file), nb.load(work_map)
    assert made.get_data_dtype() == np.float32
    assert (made.dataobj.slope, made.dataobj.inter) == (1.0, 0.0)
    np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(source.dataobj).astype(np.float32))
    np.testing.assert_allclose(made.affine, AFFINE, atol=1e-6)
    assert [int(made.header[code]) for code in ("sform_code", "qform_code")] == [1, 1]
    assert json.loads((tmp_path / "out/sub-01/anat/sub-01_Chimap.json").read_text())["Units"] == "ppm"


def test_mask_is_written_as_bytes(work_map, tmp_path):
    nb.save(nb.Nifti1Image(np.eye(4)[..., None].astype(np.float32), AFFINE), work_map)
    made = nb.load(write(work_map, tmp_path / "out", suffix="mask", desc="brain").out_file)
    assert made.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(made.dataobj)[..., 0], np.eye(4))


@pytest.mark.parametrize("compress", [True, False])
def test_nothing_to_write_takes_away_what_an_earlier_run_wrote(work_map, tmp_path, compress):
    out = tmp_path / "out"
    for desc in ("motioncorrected", None):
        write(work_map, out, desc=desc, compress=compress, meta={"Units": "ppm"})
    kept = {path for path in out.rglob("*_Chimap.*") if "motion" not in path.name}
    inputs = {"entities": {"subject": "01"}, "suffix": "Chimap", "desc": "motioncorrected"}
    for _ in range(2):
        DerivativesSink(base_directory=str(out), in_file=None, **inputs).run()
        assert set(out.rglob("*_Chimap.*")) == kept
    assert len(kept) == 2


def test_nothing_to_draw_takes_away_the_figure(tmp_path):
    figure = tmp_path / "plot.svg"
    figure.write_text("<svg/>")
    outputs = write(figure, tmp_path / "out", desc="motion", datatype="figures")
    inputs = {"entities": {"subject": "01"}, "suffix": "Chimap", "desc": "motion", "datatype": "figures"}
    DerivativesSink(base_directory=str(tmp_path / "out"), in_file=None, **inputs).run()
    assert not list((tmp_path / "out").rglob("*.svg"))
    assert outputs.out_file.endswith("desc-motion_Chimap.svg")


def test_uncompressed(work_map, tmp_path):
    assert write(work_map, tmp_path / "out", compress=False).out_file.endswith("sub-01_Chimap.nii")


def test_figure_is_copied(tmp_path):
    figure = tmp_path / "plot.svg"
    figure.write_text("<svg/>")
    outputs = write(figure, tmp_path / "out", desc="axial", datatype="figures")
    assert outputs.out_file == str(tmp_path / "out/sub-01/figures/sub-01_desc-axial_Chimap.svg")
    assert (tmp_path / "out/sub-01/figures/sub-01_desc-axial_Chimap.svg").read_text() == "<svg/>"


@pytest.mark.parametrize(("value", "words"), [(0.0, "blank"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_a_map_that_is_no_result_is_refused(work_map, tmp_path, value, words):
    nb.save(nb.Nifti1Image(np.full((4, 4, 4), value, np.float32), AFFINE), work_map)
    with pytest.raises(ValueError, match=words):
        write(work_map, tmp_path / "out", meta={"Units": "ppm"})
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_rerun_restores_what_was_removed(work_map, tmp_path):
    from nipype.pipeline import engine as pe

    interface = DerivativesSink(
        base_directory=str(tmp_path / "out"),
        in_file=str(work_map),
        entities={"subject": "01"},
        suffix="Chimap",
    )
    for _ in range(2):
        node = pe.Node(interface, name="sink", base_dir=str(tmp_path / "work"))
        made = tmp_path / "out" / "sub-01" / "anat" / "sub-01_Chimap.nii.gz"
        assert node.run().outputs.out_file == str(made)
        assert made.exists()
        made.unlink()


@pytest.mark.skipif(find_validator() is None, reason="bids-validator-deno is not installed")
def test_all_outputs_together_are_a_valid_data_set(work_map, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "raw").mkdir()
    write_dataset(out, bids_dir=tmp_path / "raw")
    sources = (
        {
            "subject": "01",
            "session": "a",
            "acquisition": "still",
            "ceagent": "gd",
            "reconstruction": "n",
            "run": "02",
        },
        {"subject": "02", "session": None},
    )
    for entities in sources:
        for output in OUTPUTS:
            meta = {"SkullStripped": True, "Sources": ["bids:raw:sub-01/anat/sub-01_part-mag_T2starw.nii.gz"]}
            units = UNITS.get(output["suffix"])
            write(work_map, out, entities=entities, meta=meta | ({"Units": units} if units else {}), **output)
        figure = tmp_path / "plot.svg"
        figure.write_text("<svg/>")
        write(figure, out, entities=entities, desc="axial", datatype="figures")
    for extra in (
        "sub-01.html",
        "group.html",
        "group_qsm.tsv",
        "logs/CITATION.md",
        "sub-01/log/1/qsmflow.toml",
    ):
        (out / extra).parent.mkdir(parents=True, exist_ok=True)
        (out / extra).write_text("text\n")
    assert len(list(out.rglob("*.nii.gz"))) == 20
    assert validate(out) == []
