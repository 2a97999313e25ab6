"""Which acquisitions a data set holds, and which of them are asked for."""

import errno
import shutil
from pathlib import Path

import bids.layout
import numpy as np
import pytest

from qsmflow.bids.layout import UnreadableDataset, collect_acquisitions, open_layout, read_filters


def collect(study, **request):
    return collect_acquisitions(open_layout(study.root), **request)


def names(collected):
    return [acquisition.name for acquisition in collected.acquisitions]


def test_echoes_are_ordered_by_time_not_by_label(study):
    study.add_scan(echo_times=(0.030, 0.003, 0.006), labels=("2", "10", "01"))
    (acquisition,) = collect(study).acquisitions
    assert acquisition.echo_times == (0.003, 0.006, 0.030)
    assert [path.name for path in acquisition.phases] == [
        f"sub-01_echo-{label}_part-phase_MEGRE.nii.gz" for label in ("10", "01", "2")
    ]
    assert acquisition.field_strength == 3
    assert acquisition.phase_units == "arbitrary"


def test_scans_are_told_apart_by_every_entity(study):
    for stem in ("acq-still_run-01", "acq-still_run-02", "acq-nod_rec-norm", "ce-gd"):
        study.add_scan(f"sub-01/ses-a/anat/sub-01_ses-a_{stem}")
    study.add_scan("sub-02/ses-b/anat/sub-02_ses-b")
    assert names(collect(study)) == [
        "sub-01_ses-a_acq-nod_rec-norm",
        "sub-01_ses-a_acq-still_run-01",
        "sub-01_ses-a_acq-still_run-02",
        "sub-01_ses-a_ce-gd",
        "sub-02_ses-b",
    ]


def test_magnitude_needs_no_part_label(study):
    magnitude, _ = study.add_scan(echo_times=(0.02,), suffix="T2starw")
    magnitude.rename(magnitude.with_name("sub-01_T2starw.nii.gz"))
    (acquisition,) = collect(study).acquisitions
    assert [path.name for path in acquisition.magnitudes] == ["sub-01_T2starw.nii.gz"]
    assert acquisition.phases[0] is not None


def test_metadata_is_inherited(study):
    for path in study.add_scan():
        study.edit_sidecar(path, MagneticFieldStrength=None)
    study.write_json("MEGRE.json", {"MagneticFieldStrength": 7})
    assert collect(study).acquisitions[0].field_strength == 7


@pytest.mark.parametrize("label", ["02", "sub-02"])
def test_participants_with_and_without_prefix(study, label):
    study.add_scan()
    study.add_scan("sub-02/anat/sub-02")
    collected = collect(study, participants=[label])
    assert names(collected) == ["sub-02"]
    assert not collected.findings


def test_unknown_labels_are_errors_that_list_the_known_ones(study):
    study.add_scan("sub-01/ses-pre/anat/sub-01_ses-pre")
    (finding,) = collect(study, participants=["1", "01"]).findings
    assert (finding.severity, finding.file, finding.category) == ("error", "sub-1", "input")
    assert finding.fix == "choose from 01"
    collected = collect(study, sessions=["ses-pre", "post"])
    assert names(collected) == ["sub-01_ses-pre"]
    assert [(finding.file, finding.fix) for finding in collected.findings] == [
        ("ses-post", "choose from pre")
    ]


def test_sessions_are_chosen(study):
    study.add_scan("sub-01/ses-1/anat/sub-01_ses-1")
    study.add_scan("sub-01/ses-2/anat/sub-01_ses-2")
    assert names(collect(study, sessions=["ses-2"])) == ["sub-01_ses-2"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"acquisition": "still"}, ["sub-01_acq-still_run-01", "sub-01_acq-still_run-02"]),
        ({"run": 2}, ["sub-01_acq-still_run-02"]),
        ({"run": [1, 3], "acquisition": "*"}, ["sub-01_acq-still_run-01"]),
        ({"acquisition": None}, ["sub-01"]),
    ],
)
def test_filters_hit_magnitude_and_phase_alike(study, query, expected):
    for stem in ("sub-01", "sub-01_acq-still_run-01", "sub-01_acq-still_run-02"):
        study.add_scan(f"sub-01/anat/{stem}")
    collected = collect(study, filters={"megre": query})
    assert names(collected) == expected
    assert all(None not in (*each.magnitudes, *each.phases) for each in collected.acquisitions)
    assert not collected.findings


def test_filters_that_leave_nothing(study):
    study.add_scan()
    (finding,) = collect(study, filters={"megre": {"acquisition": "nod"}}).findings
    assert (finding.severity, finding.category) == ("error", "filter")


@pytest.mark.parametrize(
    ("filters", "severity"),
    [
        ({"megre": {"part": "mag"}}, "error"),
        ({"megre": {"colour": "red"}}, "error"),
        ({"bold": {"run": 1}}, "warning"),
    ],
)
def test_filters_that_mean_nothing_are_named(study, filters, severity):
    study.add_scan()
    collected = collect(study, filters=filters)
    assert [finding.severity for finding in collected.findings] == [severity]
    assert names(collected) == ["sub-01"]


def test_filter_file(tmp_path):
    path = tmp_path / "filter.json"
    path.write_text('{"megre": {"run": 1}}')
    assert read_filters(path) == {"megre": {"run": 1}}
    for text in ("{", '["megre"]', '{"megre": "still"}'):
        path.write_text(text)
        with pytest.raises(UnreadableDataset, match=r"filter\.json: --bids-filter-file"):
            read_filters(path)


def test_participant_without_gradient_echoes(study):
    study.add_scan()
    study.write_image("sub-02/anat/sub-02_T1w.nii.gz", np.ones((2, 2, 2), np.int16))
    (finding,) = collect(study).findings
    assert (finding.severity, finding.subject) == ("warning", "02")
    (finding,) = collect(study, participants=["02"]).findings
    assert (finding.severity, finding.category) == ("error", "input")


@pytest.mark.parametrize(
    ("old", "new", "words", "fix"),
    [
        (".nii.gz", ".img", "echo-1_part-mag_MEGRE.img are not read", "NIfTI (.nii.gz)"),
        (".nii.gz", ".mgz", "echo-1_part-mag_MEGRE.mgz are not read", "NIfTI (.nii.gz)"),
        (".nii.gz", ".nii.bz2", "echo-1_part-mag_MEGRE.nii.bz2 are not read", "NIfTI (.nii.gz)"),
        (".nii.gz", ".NII.GZ", "echo-1_part-mag_MEGRE.NII.GZ are not read", "NIfTI (.nii.gz)"),
        ("part-mag", "part-real", "part-real_MEGRE.nii.gz are not read", "to magnitude and phase"),
    ],
)
def test_gradient_echoes_in_files_that_are_not_read(study, old, new, words, fix):
    parts = ("mag",) if "real" in new else ("mag", "phase")
    for path in study.add_scan(parts=parts):
        path.rename(path.with_name(path.name.replace(old, new)))
    (finding,) = collect(study).findings
    assert finding.severity == "error"
    assert words in finding.problem and fix in finding.fix


def test_sessions_of_a_data_set_without_any(study):
    study.add_scan()
    (finding,) = [each for each in collect(study, sessions=["1"]).findings if each.file == "ses-1"]
    assert finding.problem == "the data set has no sessions" and finding.fix == "leave --session-label out"


def test_no_participants_at_all(study):
    (finding,) = collect(study).findings
    assert finding.problem == "it holds no sub-* folder"


def test_scan_without_phase_is_left_out_where_there_is_another(study):
    study.add_scan()
    study.add_scan("sub-01/anat/sub-01_acq-extra", parts=("mag",))
    collected = collect(study)
    assert names(collected) == ["sub-01"]
    assert [(each.severity, each.file) for each in collected.findings] == [
        ("warning", "sub-01_acq-extra_MEGRE")
    ]


def test_scans_whose_outputs_would_share_names(study):
    study.add_scan()
    study.add_scan(echo_times=(0.02,), suffix="T2starw")
    collected = collect(study)
    assert [each.suffix for each in collected.acquisitions] == ["MEGRE"]
    assert collected.findings[0].file == "sub-01_T2starw"


def test_input_is_not_written_to(study, tmp_path):
    study.add_scan()
    before = study.tree()
    collect_acquisitions(open_layout(study.root, database_dir=tmp_path / "database"))
    assert study.tree() == before
    assert any((tmp_path / "database").iterdir())


def test_only_those_who_are_asked_for_are_indexed(study, tmp_path):
    for subject in ("01", "011", "02"):
        study.add_scan(f"sub-{subject}/anat/sub-{subject}")
    (study.root / "sub-02" / "broken.json").write_text("{")
    layout = open_layout(study.root, participants=["sub-01", "011"])
    assert layout.get_subjects() == ["01", "011"]
    assert names(collect_acquisitions(layout, participants=["01"])) == ["sub-01"]
    # One who is not there is named as before.
    (finding,) = collect_acquisitions(
        open_layout(study.root, participants=["9"]), participants=["9"]
    ).findings
    assert "9" in str(finding) and "--participant-label" in str(finding)
    # A database is to serve other runs, too.
    whole = open_layout(study.root, participants=["01"], database_dir=tmp_path / "database")
    assert whole.get_subjects() == ["01", "011"]


def test_database_is_reused_but_not_for_another_data_set(study, tmp_path):
    study.add_scan()
    open_layout(study.root, database_dir=tmp_path / "database")
    again = open_layout(study.root, database_dir=tmp_path / "database")
    assert names(collect_acquisitions(again)) == ["sub-01"]
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UnreadableDataset, match="--bids-database-dir"):
        open_layout(other, database_dir=tmp_path / "database")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"no database" * 1000,
        lambda content: content[: len(content) // 2],
        lambda content: content[:100] + bytes(3000) + content[3100:],
        lambda content: b"",
    ],
)
def test_a_damaged_database_is_named(study, tmp_path, damage):
    study.add_scan()
    open_layout(study.root, database_dir=tmp_path / "database")
    (file,) = (tmp_path / "database").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UnreadableDataset, match=r"database: .*remove this folder") as caught:
        open_layout(study.root, database_dir=tmp_path / "database")
    assert str(tmp_path / "database") in str(caught.value)


def test_no_half_of_an_index_is_kept(study, tmp_path, monkeypatch):
    study.add_scan()
    with monkeypatch.context() as patched:
        patched.setattr(bids.layout.index, "make_bidsfile", lambda path: 1 / 0)
        with pytest.raises(UnreadableDataset):
            open_layout(study.root, database_dir=tmp_path / "database")
    layout = open_layout(study.root, database_dir=tmp_path / "database")
    assert names(collect_acquisitions(layout)) == ["sub-01"]


def test_every_broken_sidecar_is_named(study):
    magnitude, phase, *_ = study.add_scan()
    for path in (magnitude, phase):
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text('{"EchoTime": ')
    with pytest.raises(UnreadableDataset) as caught:
        open_layout(study.root)
    assert [finding.file for finding in caught.value.findings] == [
        f"sub-01/anat/sub-01_echo-1_part-{part}_MEGRE.json" for part in ("mag", "phase")
    ]


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [("[1]", "no JSON object"), ('{"echo": "7"}', "echo: '7' is not what the file name says")],
)
def test_sidecars_that_cannot_be_are_no_tracebacks(study, sidecar, words):
    magnitude, *_ = study.add_scan()
    magnitude.with_name(magnitude.name.replace(".nii.gz", ".json")).write_text(sidecar)
    with pytest.raises(UnreadableDataset, match=words):
        open_layout(study.root)


@pytest.mark.parametrize(
    ("name", "content"),
    [("sub-01_T1w.json", "{"), ("sub-01_T1w.json", '{"echo": 7}'), ("sub-01_echo-1_T2w.json", "[]")],
)
def test_broken_sidecars_of_other_images_harm_nobody(study, name, content):
    study.add_scan()
    study.write_image("sub-01/anat/sub-01_T1w.nii.gz", np.ones((8, 8, 8), np.int16))
    (study.root / "sub-01" / "anat" / name).write_text(content)
    collected = collect(study)
    assert names(collected) == ["sub-01"]
    assert not collected.findings


@pytest.mark.parametrize("hidden", ["anat", "sub-02_echo-1_part-mag_MEGRE.json"])
def test_what_may_not_be_looked_at_is_named(study, monkeypatch, hidden):
    for subject in ("01", "02"):
        study.add_scan(f"sub-{subject}/anat/sub-{subject}")
    stat = Path.stat

    def refuse(path, **how):
        if path.name == hidden and "sub-02" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", refuse)
    collected = collect(study)
    assert names(collected) == ["sub-01"]
    assert {(each.subject, each.category) for each in collected.findings} == {("02", "bids")}
    assert all("Permission denied" in each.problem for each in collected.findings)


def test_one_whom_pybids_cannot_index_leaves_the_others(study, monkeypatch):
    for subject in ("01", "02"):
        study.add_scan(f"sub-{subject}/anat/sub-{subject}")
    read = bids.layout.index.make_bidsfile

    def stumble(path):
        if "sub-02" in str(path):
            raise AttributeError("'dict' object has no attribute 'startswith'")
        return read(path)

    monkeypatch.setattr(bids.layout.index, "make_bidsfile", stumble)
    collected = collect(study)
    assert names(collected) == ["sub-01"]
    (finding,) = collected.findings
    assert finding.subject == "02" and "AttributeError" in finding.problem


def test_a_relative_path_with_dots(study, monkeypatch):
    study.add_scan()
    monkeypatch.chdir(study.root / "sub-01")
    (acquisition,) = collect_acquisitions(open_layout("..")).acquisitions
    assert acquisition.magnitudes[0].is_relative_to(study.root)


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_layout(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        open_layout(tmp_path / "file")


def test_derivatives_inside_the_input_are_no_input(study):
    study.add_scan()
    study.add_scan("derivatives/other/sub-01/anat/sub-01_acq-other")
    study.write_json(
        "derivatives/other/dataset_description.json",
        {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]},
    )
    layout = open_layout(study.root, derivatives={"mine": study.root / "derivatives" / "other"})
    assert names(collect_acquisitions(layout)) == ["sub-01"]
    assert list(layout.derivatives) == ["mine"]


def test_folders_above_the_data_set_are_not_read(study, tmp_path):
    study.add_scan()
    moved = tmp_path / "ses-9" / "run-3_acq-x" / "sub-77"
    shutil.copytree(study.root, moved)
    here, there = (collect_acquisitions(open_layout(root)).acquisitions for root in (study.root, moved))
    assert [scan.all_entities for scan in there] == [scan.all_entities for scan in here]
    assert [scan.echo_times for scan in there] == [scan.echo_times for scan in here]
