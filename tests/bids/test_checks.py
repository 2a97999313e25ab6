"""Every fault of an acquisition gets a sentence that names file, field and fix."""

import gzip
import logging

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
        ({"EchoTime": 4e-6}, "EchoTime", "no echo time in seconds"),
        ({"MagneticFieldStrength": None}, "MagneticFieldStrength", "missing"),
        ({"MagneticFieldStrength": 0}, "MagneticFieldStrength", "0 is no field"),
        ({"MagneticFieldStrength": 3e-3}, "MagneticFieldStrength", "0.003 is no field of a scanner"),
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


def test_echo_times_too_near_to_each_other(study):
    study.add_scan(echo_times=(0.004, 0.004_05))
    ((field, problem),) = errors(check(study))
    assert field == "EchoTime" and "0.00405 s is so near to 0.004 s" in problem


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


@pytest.mark.parametrize("ones", [(1,), (1, 1), (1, 1, 1, 1)])
def test_axes_of_length_one_are_no_volumes(study, ones):
    for path in study.add_scan()[1:]:
        rewrite(path, lambda values: values.reshape(values.shape + ones))
    assert check(study) == []


@pytest.mark.parametrize(
    ("copies", "field", "words"),
    [
        ([("echo-1_part-mag", "echo-1_part-phase")], "part", "magnitude and phase are the same image"),
        (
            [("echo-1_part-mag", "echo-2_part-mag")],
            "values",
            "it is the same image as sub-01_echo-1_part-mag",
        ),
        (
            [("echo-1_part-phase", "echo-2_part-phase"), ("echo-1_part-phase", "echo-3_part-phase")],
            "values",
            "it is the same image as sub-01_echo-1_part-phase",
        ),
    ],
)
def test_copies_of_an_image(study, copies, field, words):
    study.add_scan(echo_times=(0.004, 0.008, 0.012))
    for source, copy in copies:
        first, second = (
            study.root / "sub-01/anat" / f"sub-01_{name}_MEGRE.nii.gz" for name in (source, copy)
        )
        # Compressed anew, as the bytes of the voxels decide.
        second.write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), 1))
    found = [each for each in check(study) if "same image" in each.problem]
    assert len(found) == len(copies)
    assert all(each.field == field and words in each.problem for each in found)
    # A phantom without decay has one magnitude for all echoes.
    of_magnitudes = [copy for _, copy in copies if copy.endswith("part-mag")]
    assert [each.severity for each in found] == ["warning" if of_magnitudes else "error"] * len(found)


@pytest.mark.parametrize(
    ("part", "change", "severity", "words"),
    [
        ("phase", lambda a: a // 512 * 585, "error", "only 8 different values"),
        ("mag", lambda a: a * 1e16, "error", "whose square single precision cannot hold"),
        ("mag", lambda a: a * 1e-30, "error", "whose square single precision cannot hold"),
        ("mag", lambda a: np.where(a > 998, a, 0), "warning", "% of the voxels are zero"),
    ],
)
def test_values_that_make_nonsense(study, part, change, severity, words):
    path = study.add_scan()[-1 if part == "phase" else -2]
    rewrite(path, lambda a: change(a).astype(np.float32 if part == "mag" else np.int16))
    (finding,) = check(study)
    assert (finding.severity, finding.field) == (severity, "values") and words in finding.problem


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


#: Offsets in a NIfTI-1 header.
PIXDIM, SLOPE, INTERCEPT, UNITS, CODES, QUATERNION, OFFSET = 80, 112, 116, 123, 252, 256, 280 + 12


def overwrite(path, offset, content):
    """Change bytes of a header."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[offset : offset + len(content)] = content
    path.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.parametrize(
    ("offset", "content", "severity", "field", "words"),
    [
        (
            PIXDIM,
            np.float32([1.1]),
            "warning",
            "voxel size",
            "pixdim says 1.1 × 1 × 2 mm, the affine 1 × 1 × 2",
        ),
        (PIXDIM, np.float32([1.03]), None, None, None),
        (UNITS, np.uint8([1]), "error", "voxel size", "the header says metres"),
        (UNITS, np.uint8([3 + 8]), "error", "voxel size", "the header says micrometres"),
        (UNITS, np.uint8([2 + 8]), None, None, None),
        (OFFSET, np.float32([np.inf]), "error", "affine", "numbers that are not finite"),
        (INTERCEPT, np.float32([np.nan]), "error", "scl_inter", "the header's scaling is nan"),
        (SLOPE, np.float32([-np.inf]), "error", "scl_slope", "the header's scaling is -inf"),
        (SLOPE, np.float32([np.nan, np.nan]), None, None, None),
        (QUATERNION, np.float32([1, 1, 1]), None, None, None),
        (QUATERNION, np.float32([np.nan] * 3), None, None, None),
    ],
)
def test_headers(study, offset, content, severity, field, words):
    for path in study.add_scan():
        overwrite(path, CODES, np.int16([1, 1]).tobytes())
        overwrite(path, offset, content.tobytes())
    findings = check(study)
    assert {(each.severity, each.field) for each in findings} == ({(severity, field)} if severity else set())
    assert all(words in each.problem for each in findings)


def test_what_the_library_mends_is_no_line_on_the_terminal(study, capfd, monkeypatch):
    for path in study.add_scan():
        overwrite(path, 0, np.int32([999]).tobytes())
    # As outside of tests, where nobody listens.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert check(study) == []
    assert nb.load(path).shape == (8, 8, 8)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": 6}, "6 mm and 0 degrees"),
        ({"turn": 8}, "0 mm and 8 degrees"),
        ({"shift": 1, "turn": 2}, None),
    ],
)
def test_sform_and_qform_that_disagree(study, change, words):
    angle = np.deg2rad(change.get("turn", 0))
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for path in study.add_scan():
        image = nb.load(path)
        affine = image.affine.copy()
        affine[:3, :3] = turned @ affine[:3, :3]
        affine[0, 3] += change.get("shift", 0)
        image.set_sform(image.affine, code=1)
        image.set_qform(affine, code=1)
        nb.save(nb.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    findings = check(study)
    assert {(each.severity, each.field) for each in findings} == ({("warning", "affine")} if words else set())
    assert all(words in each.problem for each in findings)


@pytest.mark.parametrize(("slices", "severity"), [(1, "error"), (5, "error"), (6, "warning"), (7, "warning")])
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
