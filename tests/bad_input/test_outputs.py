"""What an earlier run, a crash or another program left in the output: named, and in nobody else's way."""

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from qsmflow.bids.dataset import write_dataset
from qsmflow.bids.tables import SERIES, Column, series_cells, write_rows
from qsmflow.cli import finalise
from qsmflow.cli.exit_codes import ExitCode
from qsmflow.cli.finalise import close_output
from qsmflow.cli.run import main
from qsmflow.workflows.base import log_dir

ROWS = "figures/sub-02_acq-x_desc-quality_MEGRE.json"
FIGURE = "figures/sub-02_acq-x_desc-susceptibility_Chimap.svg"
FRAGMENT = "figures/sub-02_acq-x_desc-quality_MEGRE.html"
SHAPE = (8, 8, 8)
BINARY = bytes(range(256))
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><title>map</title></svg>'


def put(path: Path, content: str | bytes | None = "") -> None:
    """Put something in the place of a file: a pipe that nobody writes to if it is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def dangling(path: Path) -> None:
    put(path)
    path.unlink()
    path.symlink_to("nowhere")


@pytest.fixture
def out_dir(study) -> Path:
    """What a run left of two subjects: rows, a fragment and a picture of each."""
    folder = study.folder / "out"
    write_dataset(folder, bids_dir=study.root)
    for subject in ("01", "02"):
        name = f"sub-{subject}"
        figures = folder / name / "figures"
        cells = series_cells({"subject": subject}, name=name) | {"snr": 12.5}
        write_rows(
            figures / f"{name}_desc-quality_MEGRE.json", [cells], columns=SERIES | {"snr": Column("Signal")}
        )
        put(figures / f"{name}_desc-quality_MEGRE.html", f"<p>quality of {name}</p>")
        put(figures / f"{name}_desc-susceptibility_Chimap.svg", PICTURE)
    return folder


def run(study, *arguments: str) -> int:
    places = [str(study.root), str(study.folder / "out"), "participant", "-w", str(study.folder / "work")]
    quick = ["--skip-bids-validation", "--motion-correction", "off", "--inversion", "tkd", "--sloppy"]
    quick += ["--nprocs", "1", "--omp-nthreads", "1"]
    return main([*places, *quick, *arguments])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (ROWS, "{", "it is no valid JSON"),
        (ROWS, "[]", "it is no JSON object"),
        (ROWS, "{}", "it holds no rows of a table"),
        (ROWS, '{"columns": {"a": 1}, "rows": []}', "it holds no rows of a table"),
        (ROWS, '{"columns": {}, "rows": ["a"]}', "it holds no rows of a table"),
        (
            ROWS,
            '{"columns": {"a": {"Units": NaN}}, "rows": []}',
            "it holds NaN, infinity or half a character",
        ),
        (ROWS, '{"columns": {}, "rows": [{"a": "\\ud800"}]}', "it holds NaN, infinity or half a character"),
        (ROWS, "[" * 10**5, "its values are nested too deeply"),
        (ROWS, None, "it is no file"),
        (FIGURE, BINARY, "it is no text in UTF-8"),
        (FIGURE, "", "it holds no picture"),
        (FIGURE, None, "it is no file"),
        (FIGURE, dangling, "it is no file, or a link to content that is not here"),
        (FRAGMENT, BINARY, "it is no text in UTF-8"),
        (FRAGMENT, '<figure class="viewer"><script type="application/json" class="viewer-data">{', "cut off"),
        (FRAGMENT, lambda path: path.mkdir(), "it is no file"),
    ],
)
def test_a_damaged_figure_is_named_and_all_else_is_written(study, out_dir, capsys, name, content, problem):
    path = out_dir / "sub-02" / name
    (content if isinstance(content, Callable) else lambda path: put(path, content))(path)
    assert run(study, "--reports-only") == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    [line] = [line for line in said.splitlines() if "FAILED" in line]
    assert line.startswith(f"sub-02 FAILED: report: sub-02/{name}: ")
    assert problem in line
    assert line.endswith(". Fix: remove it and run again.")
    for subject in ("01", "02"):
        page = (out_dir / f"sub-{subject}.html").read_text()
        assert f"quality of sub-{subject}" in page
        assert "data:image/svg+xml" in page
        assert ("1 step failed" in page) == (subject == "02")
        table = (out_dir / f"sub-{subject}" / f"sub-{subject}_iqms.tsv").read_text()
        assert table.endswith(f"sub-{subject}\t12.5\n")
    assert os.path.lexists(path)


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"sub-02_acq-\xf6_desc-mask_mask.svg"), f"sub-02_run-{'9' * 30}_desc-mask_mask.svg"]
)
def test_a_name_that_cannot_be_indexed_leaves_the_others(study, out_dir, capsys, name):
    put(out_dir / "sub-01" / "figures" / name, PICTURE)
    assert run(study, "--reports-only") == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert "sub-01 FAILED: report: sub-01: the name of a file in it cannot be indexed (" in said
    assert f"Report: {out_dir}/sub-02.html" in said


@pytest.mark.parametrize(
    ("name", "prepare"),
    [
        ("sub-02.html", lambda path: path.mkdir()),
        ("sub-02/sub-02_iqms.tsv", lambda path: path.mkdir()),
        ("sub-02/figures", lambda path: (shutil.rmtree(path), path.write_text(""))),
    ],
)
def test_what_stands_in_the_way_of_one_report_leaves_the_others(study, out_dir, capsys, name, prepare):
    (out_dir / "sub-03" / "figures").mkdir(parents=True)
    prepare(out_dir / name)
    assert run(study, "--reports-only") == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    [line] = [line for line in said.splitlines() if "FAILED" in line]
    assert line.startswith(f"sub-02 FAILED: report: {out_dir / name}: ")
    assert line.endswith("; remove what stands there and run again")
    for subject in ("01", "03"):
        assert f"Report: {out_dir}/sub-{subject}.html" in said
    assert not list(out_dir.rglob(".[0-9a-f]*.*"))


def test_a_methods_text_that_is_none_is_left_out_with_a_note(study, out_dir):
    for content, reason in ((BINARY, "it is no text in UTF-8"), (None, "it is no file")):
        put(out_dir / "logs" / "CITATION.md", content)
        assert run(study, "--reports-only") == ExitCode.DONE
        page = (out_dir / "sub-02.html").read_text()
        assert f"logs/CITATION.md was left out: {reason}" in page
        assert "remove it and run again" in page


def test_crash_files_that_are_none_are_passed_over(study, out_dir):
    folder = out_dir / "sub-02" / "log" / "run"
    put(folder / "qsmflow.toml")
    put(folder / "crash-1.txt", None)
    (folder / "crash-2.txt").mkdir()
    assert run(study, "--reports-only") == ExitCode.DONE


def test_a_crash_file_without_a_word_is_named(out_dir):
    put(log_dir(out_dir, "02", "run") / "crash-1.txt")
    settings = SimpleNamespace(out_dir=out_dir, stop_on_first_crash=False)
    plan = SimpleNamespace(subjects=("02",), acquisitions=(), findings=(), complete=True)
    console = Console(file=io.StringIO(), soft_wrap=True)
    told = {"run_id": "run", "argv": (), "failure": RuntimeError(), "console": console}
    assert close_output(settings, plan, **told) == ExitCode.SUBJECT_FAILED
    assert "sub-02 FAILED: crash-1: no further text (crash-1.txt)" in console.file.getvalue()


def test_a_full_disk_is_no_fault_of_one_subject(study, out_dir, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(out_dir / "sub-01.html"))

    monkeypatch.setattr(finalise, "build_report", full)
    assert run(study, "--reports-only") == ExitCode.INPUT_OUTPUT
    assert "make room there and run again" in capsys.readouterr().err


def test_leftovers_do_not_undo_a_run(study, out_dir, capsys):
    shutil.rmtree(out_dir / "sub-01")
    shutil.rmtree(out_dir / "sub-02")
    places = np.indices(SHAPE) - np.reshape((3.1, 3.6, 3.9), (3, 1, 1, 1))
    distance = np.linalg.norm(places, axis=0)
    for subject in ("01", "02"):
        for echo in (1, 2):
            stem = f"input/sub-{subject}/anat/sub-{subject}_echo-{echo}_part"
            study.image(f"{stem}-mag_MEGRE.nii.gz", np.where(distance < 4, 1000 / echo, 10).astype(np.int16))
            study.image(f"{stem}-phase_MEGRE.nii.gz", (echo * distance / 5).astype(np.float32))
            told = {"EchoTime": 0.004 * echo, "MagneticFieldStrength": 3, "Units": "rad"}
            study.json(f"{stem}-phase_MEGRE.json", told)
    put(out_dir / "sub-02" / ROWS, "{")
    put(out_dir / "sub-02" / FIGURE, BINARY)
    (out_dir / "sub-01.html").mkdir()
    assert run(study) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert f"sub-01 FAILED: report: {out_dir}/sub-01.html: Is a directory; remove what stands there" in said
    for name in (ROWS, FIGURE):
        assert f"sub-02 FAILED: report: sub-02/{name}: " in said
    assert said.count("FAILED") == 3
    assert "sub-02_acq-x" in (out_dir / "sub-02.html").read_text()
    for subject in ("01", "02"):
        assert (out_dir / f"sub-{subject}" / f"sub-{subject}_iqms.tsv").is_file()
        # Such a subject is not done: the next run makes its report.
        assert not list(out_dir.glob(f"sub-{subject}/log/*_complete.json"))


@pytest.mark.parametrize(
    "content", ['{"GeneratedBy": 7}', '{"GeneratedBy": [7]}', "null", "", "[" * 10**5, BINARY, None]
)
@pytest.mark.parametrize("level", ["participant", "group"])
def test_a_description_that_is_not_ours_is_left_alone(study, capsys, content, level):
    put(study.folder / "out" / "dataset_description.json", content)
    assert main([str(study.root), str(study.folder / "out"), level]) == ExitCode.USAGE
    assert "out holds another data set; choose an output folder of its own" in capsys.readouterr().err
    assert [path.name for path in (study.folder / "out").iterdir()] == ["dataset_description.json"]


def test_a_folder_whose_name_is_in_another_encoding(study):
    root = study.root.rename(study.folder / os.fsdecode(b"gr\xf6\xdfe"))
    write_dataset(study.folder / "out", bids_dir=root)
    made = json.loads((study.folder / "out" / "dataset_description.json").read_text())
    assert made["DatasetLinks"]["raw"].endswith("/gr%F6%DFe")
