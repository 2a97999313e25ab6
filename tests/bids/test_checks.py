"""Every fault of an acquisition gets a sentence that names file, field and fix."""

import gzip

import nibabel as nb
import numpy as np
import pytest

from qsmflow.bids.checks import check_acquisition, format_findings
from qsmflow.bids.layout import collect_acquisitions, open_layout


def check(study, *, field_strength=None):
    (acquisition,) = collect_acquisitions(open_layout(study.root)).acquisitions
    return check_acquisition(acquisition, field_strength=field_strength)


def errors(findings):
    return [(finding.field, finding.problem) for finding in findings if finding.severity == "error"]


def rewrite(path, change, *, affine=None):
    """Change an image's voxels or grid."""
    image = nb.load(path)
    values = change(np.asarray(image.dataobj))
    nb.save(nb.Nifti1Image(values, image.affine if affine is None else affine), path)


def test_a_sound_acquisition_has_no_findings(study):
    study.add_scan()
    assert check(study) == []


def test_a_sound_single_echo_has_no_findings(study):
    study.add_scan(echo_times=(0.02,), suffix="T2starw")
    assert check(study) == []


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"EchoTime": None}, "EchoTime", "missing"),
        ({"EchoTime": 4.0}, "EchoTime", "milliseconds"),
        ({"EchoTime": "0.004"}, "EchoTime", "no positive number"),
        ({"EchoTime": -0.004}, "EchoTime", "no positive number"),
        ({"MagneticFieldStrength": None}, "MagneticFieldStrength", "missing"),
        ({"MagneticFieldStrength": 0}, "MagneticFieldStrength", "0 is no field"),
        ({"MagneticFieldStrength": 70}, "MagneticFieldStrength", "70 is no field"),
        ({"MagneticFieldStrength": "3T"}, "MagneticFieldStrength", "'3T' is no field"),
        ({"MagneticFieldStrength": 7}, "MagneticFieldStrength", "7 T here but 3 T"),
    ],
)
def test_metadata_of_a_magnitude(study, fields, field, words):
    magnitude, *_ = study.add_scan()
    study.edit_sidecar(magnitude, **fields)
    (finding,) = check(study)
    assert finding.severity == "error" and finding.field == field and words in finding.problem
    assert finding.file == "sub-01/anat/sub-01_echo-1_part-mag_MEGRE.nii.gz"
    assert finding.subject == "01" and finding.fix


def test_echo_times_of_magnitude_and_phase_differ(study):
    magnitude, *_ = study.add_scan()
    study.edit_sidecar(magnitude, EchoTime=0.005)
    assert errors(check(study)) == [("EchoTime", "magnitude has 0.005 s and phase 0.004 s")]


@pytest.mark.parametrize("stated", [None, 0, 70])
def test_the_users_field_strength_stands_in(study, stated):
    for path in study.add_scan():
        study.edit_sidecar(path, MagneticFieldStrength=stated)
    assert errors(check(study)) != []
    assert errors(check(study, field_strength=3.0)) == []


def test_the_users_field_strength_against_the_sidecar(study):
    study.add_scan()
    (finding,) = check(study, field_strength=7.0)
    assert finding.severity == "warning" and "3 T" in finding.problem
    assert check(study, field_strength=2.89) == []


def test_echo_times_that_repeat(study):
    study.add_scan(echo_times=(0.004, 0.008, 0.008))
    ((field, problem),) = errors(check(study))
    assert field == "EchoTime" and "also that of" in problem


@pytest.mark.parametrize(("units", "severity"), [(None, "warning"), ("degrees", "error")])
def test_units_of_phase(study, units, severity):
    _, phase, *_ = study.add_scan()
    study.edit_sidecar(phase, Units=units)
    (finding,) = check(study)
    assert (finding.severity, finding.field) == (severity, "Units")


@pytest.mark.parametrize(
    ("index", "problem"), [(2, "the phase has no magnitude"), (3, "the magnitude has no phase")]
)
def test_half_an_echo(study, index, problem):
    study.add_scan()[index].unlink()
    assert errors(check(study)) == [("part", problem)]


def test_magnitude_alone(study):
    study.add_scan(parts=("mag",))
    ((field, problem),) = errors(check(study))
    assert field == "part" and "no phase images beside 2 magnitude" in problem


def test_another_suffix_is_told_how_to_be_named(study):
    study.add_scan(echo_times=(0.02,), suffix="T1w")
    (first, second) = check(study)
    assert first.field == second.field == "suffix"
    assert "_T2starw" in first.fix and "_MEGRE" in first.fix


def test_uncombined_coils(study):
    for coil in (1, 2):
        study.add_scan(f"sub-01/anat/sub-01_coil-{coil}")
    found = errors(check(study))
    assert set(found) == {("coil", "the coils are not combined")} and len(found) == 4


def test_stacked_volumes(study):
    for path in study.add_scan():
        rewrite(path, lambda values: np.stack([values, values], axis=-1))
    assert {field for field, _ in errors(check(study))} == {"shape"}


def test_the_same_image_twice(study):
    magnitude, *_ = study.add_scan()
    magnitude.with_suffix("").write_bytes(gzip.decompress(magnitude.read_bytes()))
    assert errors(check(study)) == [("file name", "another image has the same entities")]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (lambda values: values[:-1], "shape", "(7, 8, 8) differs from (8, 8, 8)"),
        (
            lambda values: np.where(values > 4000, np.nan, values).astype(np.float32),
            "values",
            "NaN or infinite",
        ),
        (lambda values: np.full_like(values, 7), "values", "every voxel is 7"),
        (lambda values: np.zeros_like(values), "values", "every voxel is 0"),
        (lambda values: values.astype(np.complex64), "image", "complex64"),
        (
            lambda values: np.zeros(values.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]),
            "image",
            "not real numbers",
        ),
    ],
)
def test_voxels_of_a_phase(study, change, field, words):
    *_, phase = study.add_scan()
    rewrite(phase, change)
    ((found, problem),) = errors(check(study))
    assert found == field and words in problem


def test_grids_that_differ_by_an_affine(study):
    *_, phase = study.add_scan()
    moved = np.diag([1.0, 1.0, 2.0, 1.0])
    moved[0, 3] = 0.5
    rewrite(phase, lambda values: values, affine=moved)
    ((field, problem),) = errors(check(study))
    assert field == "affine" and "0.5 mm" in problem


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([1.0, 1.0, 0.0, 1.0]), "no length"),
        (np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "right angles"),
    ],
)
def test_affines_without_a_b0_direction(study, affine, words):
    for path in study.add_scan():
        image = nb.load(path)
        header = image.header.copy()
        header.set_sform(affine, code=1)
        header.set_qform(None, code=0)
        nb.save(nb.Nifti1Image(np.asarray(image.dataobj), None, header), path)
    found = errors(check(study))
    assert len(found) == 4 and all(field == "affine" and words in problem for field, problem in found)


def test_no_orientation_is_a_warning(study):
    for path in study.add_scan():
        image = nb.load(path)
        header = image.header.copy()
        header.set_sform(None, code=0)
        header.set_qform(None, code=0)
        nb.save(nb.Nifti1Image(np.asarray(image.dataobj), None, header), path)
    findings = check(study)
    assert {(each.severity, each.field) for each in findings} == {("warning", "affine")}


@pytest.mark.parametrize(("slices", "severity"), [(1, "error"), (4, "warning")])
def test_few_slices(study, slices, severity):
    for path in study.add_scan():
        rewrite(path, lambda values: values[..., :slices])
    assert {(each.severity, each.field) for each in check(study)} == {(severity, "shape")}


def test_empty_file(study):
    magnitude, *_ = study.add_scan()
    magnitude.write_bytes(b"")
    assert errors(check(study)) == [("image", "the file is empty (0 bytes)")]


@pytest.mark.parametrize("kept", [20, 200, -100])
def test_truncated_file(study, kept):
    magnitude, *_ = study.add_scan()
    magnitude.write_bytes(magnitude.read_bytes()[:kept])
    ((field, problem),) = errors(check(study))
    assert field == "image" and problem in ("the file is truncated or damaged", "the file is no NIfTI image")


def test_link_to_content_that_is_not_here(study):
    magnitude, *_ = study.add_scan()
    magnitude.unlink()
    magnitude.symlink_to("../../.git/annex/objects/gone")
    ((field, problem),) = errors(check(study))
    assert field == "image" and "link" in problem


def test_swapped_parts(study):
    magnitude, phase = study.add_scan(echo_times=(0.02,), suffix="T2starw")
    first, second = magnitude.read_bytes(), phase.read_bytes()
    magnitude.write_bytes(second)
    phase.write_bytes(first)
    assert errors(check(study)) == [("part", "magnitude and phase look swapped")]


def test_negative_magnitude(study):
    magnitude, *_ = study.add_scan()
    rewrite(magnitude, lambda values: (values - 500).astype(np.int16))
    ((field, problem),) = errors(check(study))
    assert field == "values" and "negative" in problem


def test_phase_of_unknown_range(study):
    for phase in study.add_scan()[1::2]:
        rewrite(phase, lambda values: (values // 8 + 100).astype(np.int16))
    ((field, problem),) = errors(check(study))
    assert field == "phase range" and "0 … 4095" in problem


def test_false_slope_is_a_warning(study, test_data):
    source = nb.load(test_data / "romeo_small" / "small_Phase.nii.gz")
    magnitude = np.asarray(nb.load(test_data / "romeo_small" / "small_Mag.nii.gz").dataobj)
    for echo, path in enumerate(study.add_scan(echo_times=(0.004, 0.008, 0.012))):
        is_phase = "phase" in path.name
        values = source.dataobj.get_unscaled()[..., echo // 2] if is_phase else magnitude[..., echo // 2]
        plain = path.with_suffix("")
        path.unlink()
        nb.save(nb.Nifti1Image(np.asarray(values, np.float32), source.affine), plain)
        if is_phase:
            raw = bytearray(plain.read_bytes())
            raw[112:120] = np.array([0.00117, 0], "<f4").tobytes()
            plain.write_bytes(raw)
    findings = check(study)
    assert errors(findings) == []
    assert [each.field for each in findings if "slope" in each.problem] == ["phase range"]


def test_everything_is_reported_at_once(study):
    magnitude, phase, *_, last = study.add_scan(echo_times=(4.0, 8.0))
    study.edit_sidecar(phase, Units="Hz")
    rewrite(last, lambda values: values[:-1])
    magnitude.write_bytes(b"")
    fields = [field for field, _ in errors(check(study))]
    assert fields == ["EchoTime"] * 4 + ["Units", "image", "shape"]


def test_public_multi_echo_example_without_phase(test_data):
    collected = collect_acquisitions(open_layout(test_data / "bids_layouts" / "qmri_megre"))
    (acquisition,) = collected.acquisitions
    assert acquisition.echo_times == tuple(round(0.02 * echo, 2) for echo in range(1, 9))
    assert acquisition.field_strength == 3
    text = format_findings(check_acquisition(acquisition))
    assert text.startswith("ERROR sub-01/anat/sub-01_echo-01_MEGRE.nii.gz: part: no phase images")
    assert text.count("\n") == 0


def test_public_example_with_the_suffix_of_a_t1w(test_data):
    collected = collect_acquisitions(open_layout(test_data / "bids_layouts" / "qmri_qsm"))
    (acquisition,) = collected.acquisitions
    lines = format_findings(check_acquisition(acquisition)).splitlines()
    assert len(lines) == 2
    assert "named T1w are not read as gradient echoes" in lines[0] and "_T2starw" in lines[0]
    assert "empty" in lines[1]
