"""A cohort in one run: it goes in parts, and none of them keeps the next one from being done."""

import shutil
from pathlib import Path

import pytest

from qsmflow.bids.acquisition import Acquisition
from qsmflow.cli import cache, run
from qsmflow.cli.exit_codes import ExitCode
from qsmflow.cli.reservation import reserved_output


@pytest.fixture
def cohort(small_dataset, tmp_path, monkeypatch) -> Path:
    """Three subjects, of which a part has one; a sidecar of the second is no JSON."""
    monkeypatch.setattr(run, "SUBJECTS_AT_ONCE", 1)
    bids_dir = tmp_path / "in"
    shutil.copytree(small_dataset, bids_dir, ignore=shutil.ignore_patterns("derivatives"))
    for subject in ("02", "03"):
        for path in sorted((bids_dir / "sub-01" / "anat").iterdir()):
            target = bids_dir / f"sub-{subject}" / "anat" / path.name.replace("sub-01", f"sub-{subject}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (bids_dir / "sub-02/anat/sub-02_echo-1_part-mag_MEGRE.json").write_text("{")
    return bids_dir


def test_each_part_has_its_reports_and_one_that_is_busy_is_passed_over(app, cohort, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = (cohort, out, tmp_path / "work", "--skip-bids-validation")
    with reserved_output(out, [Acquisition("01", None, {}, "MEGRE", ())]):
        assert app(*arguments) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if line.startswith("part ")] == [
        f"part {number} of 3: sub-0{number} … sub-0{number}" for number in (1, 2, 3)
    ]
    assert f"{out}: another run is at work on sub-01 there" in said
    assert not (out / "sub-01.html").exists()
    assert "sub-02 FAILED: input: sub-02/anat/sub-02_echo-1_part-mag_MEGRE.json: JSON" in said
    assert "no valid JSON" in (out / "sub-02.html").read_text()
    assert (out / "sub-03/anat/sub-03_Chimap.nii.gz").is_file()
    assert (out / "sub-03/log/sub-03_complete.json").is_file()
    assert (out / "logs/CITATION.md").read_text().count("Susceptibility maps were computed") == 1


def test_a_file_that_goes_before_its_part_begins_fails_its_subject_alone(
    app, cohort, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run, "SUBJECTS_AT_ONCE", 3)
    victim = next(cohort.glob("sub-01/anat/*echo-3_part-phase*.nii.gz"))
    reserve = run.stage_threads
    monkeypatch.setattr(
        run, "stage_threads", lambda *given, **named: victim.unlink() or reserve(*given, **named)
    )
    # Without a number of threads, it is chosen between plan and work, where the file goes.
    arguments = [str(cohort), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    quick = ["--nprocs", "1", "--inversion", "tkd", "--sloppy", "--motion-correction", "off"]
    assert run.main([*arguments, *quick, "--skip-bids-validation"]) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert f"sub-01 FAILED: input: sub-01/anat/{victim.name}: file: it has gone since it was checked" in said
    assert not (tmp_path / "out/sub-01/anat").exists()
    assert (tmp_path / "out/sub-03/anat/sub-03_Chimap.nii.gz").is_file()


def test_a_file_that_goes_while_the_engine_is_set_up_fails_its_subject_alone(
    app, cohort, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run, "SUBJECTS_AT_ONCE", 3)
    victim = next(cohort.glob("sub-01/anat/*echo-3_part-phase*.nii.gz"))
    clear = cache.clear_leftovers
    monkeypatch.setattr(
        cache, "clear_leftovers", lambda *given: victim.unlink(missing_ok=True) or clear(*given)
    )
    arguments = (cohort, tmp_path / "out", tmp_path / "work", "--skip-bids-validation")
    assert app(*arguments) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert "sub-01 FAILED" in said and victim.name in said
    assert (tmp_path / "out/sub-03/anat/sub-03_Chimap.nii.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--participant-label", "01"), "4 process(es) of 4 thread(s)"),
        (("--participant-label", "01", "03"), "4 process(es) of 2 thread(s)"),
        (("--participant-label", "01", "03", "--mem", "1G"), "4 process(es) of 4 thread(s)"),
        (("--participant-label", "01", "03", "--omp-nthreads", "3"), "4 process(es) of 3 thread(s)"),
    ],
)
def test_threads_are_what_processes_are_left_over_for(cohort, tmp_path, capsys, arguments, said):
    line = [str(cohort), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work"), *arguments]
    line += ["--inversion", "tkd", "--motion-correction", "off", "--nprocs", "4", "--dry-run"]
    assert run.main([*line, "--skip-bids-validation"]) == ExitCode.DONE
    assert said in capsys.readouterr().err
