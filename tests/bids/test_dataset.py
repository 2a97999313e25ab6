"""The output folder as a data set of its own."""

import json
import os
import stat

import pytest

from qsmflow.bids.dataset import IGNORED, check_output_dir, write_dataset
from qsmflow.bids.files import replacing, write_json
from qsmflow.version import __version__


def test_description_names_the_source(study, tmp_path):
    study.write_json(
        "dataset_description.json", {"Name": "Brains", "License": "CC0", "DatasetDOI": "doi:10.1/x"}
    )
    write_dataset(tmp_path / "out", bids_dir=study.root, derivatives={"masks": tmp_path / "masks"})
    made = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert made["DatasetType"] == "derivative" and made["License"] == "CC0" and "Brains" in made["Name"]
    assert made["GeneratedBy"] == [{"Name": "qsmflow", "Version": __version__}]
    assert made["SourceDatasets"] == [{"URL": study.root.as_uri(), "DOI": "doi:10.1/x"}]
    assert made["DatasetLinks"] == {"raw": study.root.as_uri(), "masks": (tmp_path / "masks").as_uri()}
    assert "Brains" in (tmp_path / "out" / "README").read_text()


def test_link_is_relative_inside_the_input(study):
    out = study.root / "derivatives" / "qsmflow"
    write_dataset(out, bids_dir=study.root)
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == {"raw": "../.."}


def test_what_users_wrote_stays(study, tmp_path):
    out = tmp_path / "out"
    write_dataset(out, bids_dir=study.root)
    (out / "README").write_text("mine")
    (out / ".bidsignore").write_text("notes.txt\nfigures\n")
    write_dataset(out, bids_dir=study.root)
    assert (out / "README").read_text() == "mine"
    lines = (out / ".bidsignore").read_text().splitlines()
    assert lines == ["notes.txt", *dict.fromkeys(["figures", *IGNORED])]


@pytest.mark.parametrize("place", [".", "out", "sub-01", "derivatives"])
def test_output_inside_the_input_is_refused(study, place):
    with pytest.raises(ValueError, match="input data set"):
        check_output_dir(study.root / place, bids_dir=study.root)


def test_output_in_the_inputs_derivatives_or_elsewhere_is_fine(study, tmp_path):
    check_output_dir(study.root / "derivatives" / "qsmflow", bids_dir=study.root)
    check_output_dir(tmp_path / "new" / "out", bids_dir=study.root)
    assert not (tmp_path / "new").exists()


def test_a_link_into_the_input_is_seen_through(study, tmp_path):
    (tmp_path / "link").symlink_to(study.root)
    with pytest.raises(ValueError, match="input data set"):
        check_output_dir(tmp_path / "link", bids_dir=study.root)


def test_output_that_is_a_file(study, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(NotADirectoryError):
            check_output_dir(path, bids_dir=study.root)


def test_output_that_cannot_be_written(study, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError):
        check_output_dir(tmp_path / "out", bids_dir=study.root)


def test_anothers_data_set_is_left_alone(study, tmp_path):
    out = tmp_path / "out"
    write_json(out / "dataset_description.json", {"Name": "x", "GeneratedBy": [{"Name": "fMRIPrep"}]})
    before = (out / "dataset_description.json").read_bytes()
    with pytest.raises(ValueError, match="another data set"):
        check_output_dir(out, bids_dir=study.root)
    with pytest.raises(ValueError, match="another data set"):
        write_dataset(out, bids_dir=study.root)
    assert (out / "dataset_description.json").read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_text("half of the n")
        raise RuntimeError
    assert [each.name for each in tmp_path.iterdir()] == ["note.txt"]
    assert path.read_text() == "old"


def test_what_stands_in_the_way_is_named(tmp_path):
    (tmp_path / "note.txt").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_json(tmp_path / "note.txt", {})
    assert caught.value.filename == str(tmp_path / "note.txt")
    assert [each.name for each in tmp_path.iterdir()] == ["note.txt"]


def test_written_files_have_the_users_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    write_json(tmp_path / "made.json", {})
    assert stat.S_IMODE((tmp_path / "made.json").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_json_that_others_cannot_read_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "made.json", {"residual": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_bytes_of_the_users_ignore_file_stay(study, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".bidsignore").write_bytes(b"gr\xf6\xdfe\r\nfigures")
    write_dataset(out, bids_dir=study.root)
    write_dataset(out, bids_dir=study.root)
    added = [line for line in IGNORED if line != "figures"]
    assert (out / ".bidsignore").read_bytes() == b"gr\xf6\xdfe\r\nfigures\n" + "".join(
        f"{line}\n" for line in added
    ).encode()


@pytest.mark.parametrize("content", ['{"GeneratedBy": 7}', "null", "[" * 10**5, None])
def test_a_description_that_tells_nothing_is_anothers(study, tmp_path, content):
    path = tmp_path / "out" / "dataset_description.json"
    path.parent.mkdir()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match="another data set"):
        check_output_dir(path.parent, bids_dir=study.root)


def test_only_texts_of_the_inputs_description_are_taken(study, tmp_path):
    text = '{"Name": "\\ud800", "License": NaN, "Acknowledgements": [1e400], "DatasetDOI": {"a": 1}}'
    (study.root / "dataset_description.json").write_text(text)
    write_dataset(tmp_path / "out", bids_dir=study.root)
    made = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert made["Name"].endswith(f" of {study.root.name}")
    assert not {"License", "Acknowledgements"} & set(made)
    assert made["SourceDatasets"] == [{"URL": study.root.as_uri()}]


def test_an_input_whose_description_is_a_folder_has_none(study, tmp_path):
    (study.root / "dataset_description.json").unlink(missing_ok=True)
    (study.root / "dataset_description.json").mkdir()
    write_dataset(tmp_path / "out", bids_dir=study.root)
    assert study.root.name in (tmp_path / "out" / "README").read_text()


def test_text_that_utf8_has_not_is_written_as_an_escape(tmp_path):
    write_json(tmp_path / "made.json", {"Path": "gr\udcf6n"})
    assert json.loads((tmp_path / "made.json").read_text("utf-8")) == {"Path": "gr\udcf6n"}
