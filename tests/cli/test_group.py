"""Level group: every subject's rows come together, and what is broken is named and left out."""

import csv
import json
import os
import re

import pytest

from qsmflow.bids.dataset import write_dataset
from qsmflow.bids.tables import SERIES, Column, tab_separated
from qsmflow.cli.exit_codes import ExitCode
from qsmflow.cli.run import main
from qsmflow.reports.group import LABELS


def write(out_dir, subject, table="iqms", *, units="ppm", session=None, text=None, **cells):
    """Write a table of one row; text in place of it where it is to be broken."""
    path = out_dir / f"sub-{subject}" / f"sub-{subject}_{table}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = LABELS[{"iqms": "iqms", "comparison": "motion", "regions": "rois"}[table]]
    row = {"participant_id": f"sub-{subject}", "session": session, "series": f"sub-{subject}"} | cells
    columns = dict.fromkeys([*labels, *cells])
    path.write_text(text if text is not None else tab_separated([row], columns=list(columns)))
    told = {name: {"Description": SERIES.get(name, Column("measured")).description} for name in columns}
    told |= {name: told[name] | {"Units": units} for name in cells if name not in labels}
    path.with_suffix(".json").write_text(json.dumps(told))
    return path


def gather(out_dir, *arguments) -> int:
    return main([str(out_dir.parent / "no-input"), str(out_dir), "group", *arguments])


def read(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def out_dir(tmp_path):
    """Derivatives of two subjects with different columns."""
    write(tmp_path / "out", "01", snr="12.50", run="01")
    write(tmp_path / "out", "02", noise="0.125", snr="n/a")
    write(tmp_path / "out", "01", "comparison", reference="x", map="uncorrected", rmse="0.02")
    write(tmp_path / "out", "02", "regions", atlas="a", index="1", name="Caudate", map="Chimap", mean="0.05")
    return tmp_path / "out"


def test_tables_are_the_union_of_all_subjects_to_the_last_digit(out_dir, capsys):
    assert gather(out_dir) == ExitCode.DONE
    assert read(out_dir / "group_iqms.tsv") == [
        dict.fromkeys(SERIES, "n/a")
        | {"participant_id": "sub-01", "series": "sub-01", "run": "01", "snr": "12.50", "noise": "n/a"},
        dict.fromkeys(SERIES, "n/a")
        | {"participant_id": "sub-02", "series": "sub-02", "snr": "n/a", "noise": "0.125"},
    ]
    told = json.loads((out_dir / "group_iqms.json").read_text())
    assert list(told) == [*SERIES, "snr", "noise"]
    assert told["noise"] == {"Description": "measured", "Units": "ppm"}
    assert read(out_dir / "group_motion.tsv")[0]["rmse"] == "0.02"
    assert read(out_dir / "group_rois.tsv")[0]["name"] == "Caudate"
    assert {path.name for path in out_dir.iterdir() if path.name.startswith((".", "group"))} == {
        "group.html",
        *(f"group_{name}.{end}" for name in LABELS for end in ("tsv", "json")),
    }
    assert f"Report: {out_dir / 'group.html'}" in capsys.readouterr().err


def test_tables_that_nobody_has_any_more_go(out_dir):
    assert gather(out_dir) == ExitCode.DONE
    assert gather(out_dir, "--participant-label", "sub-02") == ExitCode.DONE
    assert not list(out_dir.glob("group_motion.*"))
    assert [row["participant_id"] for row in read(out_dir / "group_iqms.tsv")] == ["sub-02"]
    page = (out_dir / "group.html").read_text()
    assert "sub-02" in page
    assert "sub-01" not in page


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"text": ""}, "it is empty"),
        ({"text": "participant_id\tsnr\nsub-03\t1\n"}, "no column session, acquisition, run, series"),
        ({"text": "\t".join([*SERIES, "snr"]) + "\nsub-03\tn/a\n"}, "row 2 has 2 cells for 6 columns"),
        ({"text": "\t".join([*SERIES, "snr", "snr"]) + "\n"}, "two of its columns have one name"),
        ({"participant_id": "sub-01", "snr": "1"}, "it holds rows of sub-01"),
        ({"snr": "twelve"}, "'twelve' is not a number"),
        ({"snr": "1", "units": "ppb"}, "snr: it is in ppb, in other tables in ppm"),
    ],
    ids=["empty", "columns", "ragged", "twice", "foreign", "text", "units"],
)
def test_a_broken_table_is_named_once_and_the_others_go_on(out_dir, capsys, broken, reason):
    write(out_dir, "00", snr="1")
    write(out_dir, "03", **broken)
    assert gather(out_dir) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    [line] = [line for line in said.splitlines() if line.startswith("ERROR")]
    assert line.startswith("ERROR sub-03/sub-03_iqms.tsv: ")
    assert reason in line
    assert "--participant-label 03 --reports-only" in line
    found = [row["participant_id"] for row in read(out_dir / "group_iqms.tsv")]
    assert found == ["sub-00", "sub-01", "sub-02"]
    assert "1 file could not be used" in (out_dir / "group.html").read_text()


def test_what_is_no_text_is_named(out_dir, capsys):
    write(out_dir, "03", snr="1").write_bytes(b"\xff\xfe\x00")
    write(out_dir, "04", snr="1").with_suffix(".json").write_text("{")
    path = write(out_dir, "05", snr="1")
    path.unlink()
    path.mkdir()
    assert gather(out_dir) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    for name in ("sub-03/sub-03_iqms.tsv", "sub-04/sub-04_iqms.json", "sub-05/sub-05_iqms.tsv"):
        assert re.search(f"ERROR {name}: .*it cannot be read", said)
    # What the broken sidecar describes is there all the same.
    assert "sub-04" in {row["participant_id"] for row in read(out_dir / "group_iqms.tsv")}


@pytest.mark.parametrize("snr", ["1e308", "-1e308", "inf", "1e400"])
def test_what_no_measure_can_be_is_named_and_left_out(out_dir, capsys, recwarn, snr):
    write(out_dir, "03", snr=snr)
    assert gather(out_dir) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert f"ERROR sub-03/sub-03_iqms.tsv: snr: '{snr}' is too large for a measure. Fix: write it" in said
    assert [row["participant_id"] for row in read(out_dir / "group_iqms.tsv")] == ["sub-01", "sub-02"]
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"snr": {"Units": NaN}}', '{"snr": {"Units": "\\ud800"}}', "[]", None]
)
def test_a_sidecar_that_is_none_is_named(out_dir, capsys, text):
    path = write(out_dir, "03", snr="1").with_suffix(".json")
    path.unlink()
    os.mkfifo(path) if text is None else path.write_text(text)
    assert gather(out_dir) == ExitCode.SUBJECT_FAILED
    assert "ERROR sub-03/sub-03_iqms.json: JSON: it cannot be read (" in capsys.readouterr().err
    assert len(read(out_dir / "group_iqms.tsv")) == 3


def test_a_table_that_is_no_file_is_named(out_dir, capsys):
    for subject, place in (("03", os.mkfifo), ("04", lambda path: path.symlink_to("nowhere"))):
        path = write(out_dir, subject, snr="1")
        path.unlink()
        place(path)
    assert gather(out_dir) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    for subject in ("03", "04"):
        assert f"ERROR sub-{subject}/sub-{subject}_iqms.tsv: table: it cannot be read (it is no file" in said
    assert len(read(out_dir / "group_iqms.tsv")) == 2


def test_a_mark_of_byte_order_is_no_part_of_a_name(out_dir):
    path = write(out_dir, "03", snr="1")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert gather(out_dir) == ExitCode.DONE
    assert [row["participant_id"] for row in read(out_dir / "group_iqms.tsv")][-1] == "sub-03"


def test_labels_may_be_numbers_and_words(out_dir):
    write(out_dir, "03", snr="1", session="1", run="1")
    write(out_dir, "04", snr="1", session="baseline", run="1")
    assert gather(out_dir) == ExitCode.DONE


def test_a_folder_whose_name_is_in_another_encoding_is_named(out_dir, capsys):
    (out_dir / os.fsdecode(b"sub-\xf6")).mkdir()
    assert gather(out_dir) == ExitCode.SUBJECT_FAILED
    assert "ERROR sub-\\udcf6: folder: it holds characters that no label has" in capsys.readouterr().err
    assert len(read(out_dir / "group_iqms.tsv")) == 2


def test_a_column_of_words_is_kept_and_not_plotted(out_dir):
    for subject in ("01", "02"):
        write(out_dir, subject, verdict="fine", snr="1")
    assert gather(out_dir) == ExitCode.DONE
    assert {row["verdict"] for row in read(out_dir / "group_iqms.tsv")} == {"fine"}
    page = (out_dir / "group.html").read_text()
    assert "<h3>Snr" in page
    assert "Verdict" not in page


def test_sessions_are_chosen(out_dir):
    write(out_dir, "03", session="a", snr="1")
    assert gather(out_dir, "--session-label", "a") == ExitCode.DONE
    assert [row["participant_id"] for row in read(out_dir / "group_iqms.tsv")] == ["sub-03"]


def test_nothing_to_gather_is_no_input(tmp_path, capsys):
    assert gather(tmp_path / "out") == ExitCode.NO_INPUT
    (tmp_path / "out" / "sub-01").mkdir(parents=True)
    assert gather(tmp_path / "out") == ExitCode.NO_INPUT
    assert gather(tmp_path / "out", "--participant-label", "02") == ExitCode.NO_INPUT
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert all("run level participant first" in line for line in said)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sub-01"}


def test_a_participant_asked_for_and_not_there_is_named(out_dir, capsys):
    assert gather(out_dir, "--participant-label", "01", "09") == ExitCode.SUBJECT_FAILED
    assert "ERROR sub-09: folder: it is not there" in capsys.readouterr().err
    assert (out_dir / "group_iqms.tsv").is_file()


def test_only_crashes_of_the_latest_run_count(out_dir):
    for subject, run in (("01", "20250101-000000-a"), ("02", "20260101-000000-b")):
        for folder in ("20250101-000000-a", "20260101-000000-b"):
            (out_dir / f"sub-{subject}" / "log" / folder).mkdir(parents=True)
        (out_dir / f"sub-{subject}" / "log" / run / "crash-1.txt").touch()
    assert gather(out_dir) == ExitCode.DONE
    page = (out_dir / "group.html").read_text()
    assert re.search(r"sub-01</th>.*✓ done", page)
    assert re.search(r"sub-02</th>.*✗ 1 step failed", page)


def test_dry_run_writes_nothing(out_dir, capsys):
    before = sorted(out_dir.rglob("*"))
    assert gather(out_dir, "--dry-run") == ExitCode.DONE
    assert sorted(out_dir.rglob("*")) == before
    assert "group_iqms.tsv: 2 rows of 2 participant(s)" in capsys.readouterr().err


def test_another_data_set_is_not_written_to(out_dir, tmp_path, capsys):
    (out_dir / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fmriprep"}]}')
    assert gather(out_dir) == ExitCode.USAGE
    assert "holds another data set" in capsys.readouterr().err
    write_dataset(tmp_path / "own", bids_dir=tmp_path)
    write(tmp_path / "own", "01", snr="1")
    assert gather(tmp_path / "own") == ExitCode.DONE
