"""The app from its command line to what lies in the output folder."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from qsmflow.bids.validator import find_validator
from qsmflow.cli.exit_codes import ExitCode
from qsmflow.interfaces import learned

GOLDEN = {
    "anat": {"Chimap", "R2starmap", "T2starmap", "S0map", "desc-brain_mask"},
    "fmap": {
        "desc-total_fieldmap",
        "desc-total_magnitude",
        "desc-local_fieldmap",
        "desc-local_magnitude",
    },
}


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_run_writes_what_it_promises_and_nothing_else(finished):
    assert finished.code == ExitCode.DONE
    subject = finished.out_dir / "sub-01"
    for datatype, names in GOLDEN.items():
        expected = {f"sub-01_{name}{end}" for name in names for end in (".nii.gz", ".json")}
        assert {path.name for path in (subject / datatype).iterdir()} == expected
    top = {"dataset_description.json", "README", ".bidsignore", "logs", "sub-01", "sub-01.html"}
    assert {path.name for path in finished.out_dir.iterdir()} == top
    assert {path.name for path in (finished.out_dir / "logs").iterdir()} == {
        "CITATION.md",
        "CITATION.html",
        "CITATION.bib",
    }


def test_maps_are_float32_on_the_grid_of_the_input(finished):
    source = nib.load(next(finished.bids_dir.rglob("*part-mag_MEGRE.nii.gz")))
    for path in finished.out_dir.rglob("*.nii.gz"):
        image = nib.load(path)
        assert image.get_data_dtype() == (np.uint8 if path.name.endswith("mask.nii.gz") else np.float32)
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)


def test_susceptibility_is_that_of_the_head(finished):
    truth = finished.bids_dir / "derivatives" / "truth" / "sub-01" / "anat"
    mask = read(truth / "sub-01_desc-brain_mask.nii.gz") > 0
    chi = read(finished.out_dir / "sub-01" / "anat" / "sub-01_Chimap.nii.gz")
    assert (mask & (chi != 0)).sum() > 0.8 * mask.sum()
    inside = binary_erosion(mask & (chi != 0), iterations=2)
    assert np.corrcoef(chi[inside], read(truth / "sub-01_Chimap.nii.gz")[inside])[0, 1] > 0.5


def test_sidecar_tells_every_stage(finished):
    sidecar = json.loads((finished.out_dir / "sub-01" / "anat" / "sub-01_Chimap.json").read_text())
    assert sidecar["Units"] == "ppm"
    assert sidecar["SkullStripped"] is True
    assert sidecar["EchoTimes"] == [0.003, 0.006, 0.009, 0.012]
    assert sidecar["ReferenceRegion"]["region"] in {"csf", "brain"}
    stages = ["Dipole inversion", "Referencing", "Data residual"]
    assert list(sidecar["EstimationParameters"])[-3:] == stages
    assert 0 < sidecar["EstimationParameters"]["Data residual"]["RelativeResidual"] < 1
    assert sidecar["EstimationParameters"]["Dipole inversion"]["Parameters"] == {"Threshold": 0.19}
    assert all(
        (finished.bids_dir / source.removeprefix("bids:raw:")).is_file() for source in sidecar["Sources"]
    )
    field = json.loads((finished.out_dir / "sub-01/fmap/sub-01_desc-local_fieldmap.json").read_text())
    assert field["Units"] == "Hz"
    assert "Dipole inversion" not in field["EstimationParameters"]
    mask = json.loads((finished.out_dir / "sub-01/anat/sub-01_desc-brain_mask.json").read_text())
    assert mask["Type"] == "Brain"


@pytest.mark.skipif(find_validator() is None, reason="bids-validator-deno is not installed")
def test_output_is_a_valid_derivative_data_set(finished):
    done = subprocess.run([find_validator(), finished.out_dir], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_report_needs_no_network_and_names_every_stage(finished):
    page = (finished.out_dir / "sub-01.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//(?!doi\.org)""", page.replace("https://doi.org", ""))
    for word in ("Magnetic susceptibility", "PUMA", "PDF", "TKD", "Reporting list", "Phase sign", "19."):
        assert word in page
    assert "Motion correction was switched off" in page


def test_input_is_never_written_to(finished):
    assert finished.input_after == finished.input_before


def test_dry_run_writes_nothing_and_tells_what_would_be_done(app, small_dataset, tmp_path, capsys):
    assert app(small_dataset, tmp_path / "out", tmp_path / "work", "--dry-run") == ExitCode.DONE
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().err
    assert "sub-01: 4 echo time(s) 3.00, 6.00, 9.00, 12.00 ms, 3 T" in said


def test_second_run_reuses_every_stage(finished, tmp_path, capsys):
    work = finished.work_dir / "qsmflow_wf"
    results = {path: path.stat().st_mtime_ns for path in work.rglob("field_wf/fit/*.nii")}
    assert results
    assert finished.again("--nprocs", "1", "--mem", "4G", out_dir=tmp_path / "other") == ExitCode.DONE
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert "reused" in capsys.readouterr().err
    chi = "sub-01/anat/sub-01_Chimap.nii.gz"
    assert (tmp_path / "other" / chi).read_bytes() == (finished.out_dir / chi).read_bytes()


def test_low_memory_changes_nothing_but_memory(app, finished, tmp_path):
    assert app(finished.bids_dir, tmp_path / "out", tmp_path / "work", "--low-mem") == ExitCode.DONE
    for name in ("anat/sub-01_Chimap.nii.gz", "anat/sub-01_R2starmap.nii.gz"):
        low, full = (read(folder / "sub-01" / name) for folder in (tmp_path / "out", finished.out_dir))
        np.testing.assert_allclose(low, full, atol=2e-3 * np.abs(full).max())


def test_reports_are_assembled_again_without_computing(app, finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished.out_dir, out)
    (out / "sub-01.html").unlink()
    (run,) = (out / "sub-01" / "log").glob("*/")
    (run / "crash-invert.txt").write_text("ValueError: what went wrong then")
    code = app(finished.bids_dir, out, tmp_path / "work", "--reports-only")
    assert code == ExitCode.DONE
    page = (out / "sub-01.html").read_text()
    assert len(page) > 100_000 and "what went wrong then" in page
    assert not (tmp_path / "work" / "qsmflow_wf").exists()


def test_methods_text_alone(app, small_dataset, tmp_path):
    out = tmp_path / "out"
    code = app(small_dataset, out, tmp_path / "work", "--boilerplate-only", "--inversion", "medi")
    assert code == ExitCode.DONE
    text = (out / "logs" / "CITATION.md").read_text()
    assert "MEDI" in text
    assert "4 echoes" in text
    assert not list(out.rglob("*.nii.gz"))


def test_graph_is_drawn_on_request(app, small_dataset, tmp_path):
    out = tmp_path / "out"
    app(small_dataset, out, tmp_path / "work", "--boilerplate-only", "--write-graph")
    assert "susceptibility_wf" in (out / "logs" / "graph.dot").read_text()


def test_clean_workdir_forgets_earlier_results_and_nothing_else(app, small_dataset, tmp_path):
    work = tmp_path / "work"
    (work / "qsmflow_wf").mkdir(parents=True)
    old, foreign = work / "qsmflow_wf" / "old", work / "notes"
    for path in (old, foreign):
        path.write_text("old")
    app(small_dataset, tmp_path / "out", work, "--boilerplate-only")
    assert old.exists()
    app(small_dataset, tmp_path / "out", work, "--boilerplate-only", "--clean-workdir")
    assert not old.exists()
    assert foreign.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--mem", "100M"], ExitCode.USAGE, "sub-01: --mem: 0.10G cannot hold it"),
        (["--participant-label", "99"], ExitCode.NO_INPUT, "99"),
        (["--mask-file", "no-such.nii"], ExitCode.NO_INPUT, "no-such.nii"),
        (["--device", "cuda"], ExitCode.USAGE, "no CUDA GPU"),
        (["--bids-filter-file", "FILTER"], ExitCode.NOTHING_MATCHED, "bids-filter-file"),
        (["-d", "masks=/no/such/folder"], ExitCode.NO_INPUT, "/no/such/folder"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(app, small_dataset, tmp_path, capsys, arguments, code, words):
    filters = tmp_path / "filter.json"
    filters.write_text('{"megre": {"acquisition": "nothere"}}')
    arguments = [str(filters) if argument == "FILTER" else argument for argument in arguments]
    assert app(small_dataset, tmp_path / "out", tmp_path / "work", *arguments) == code
    assert words in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_broken_filter_file_is_wrong_usage(app, small_dataset, tmp_path, capsys):
    filters = tmp_path / "filter.json"
    filters.write_text('{"megre": ["still"]}')
    flags = ["--bids-filter-file", str(filters)]
    assert app(small_dataset, tmp_path / "out", tmp_path / "work", *flags) == ExitCode.USAGE
    assert "filter.json" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(4, 4, 4), (40, 46, 37)])
def test_mask_on_another_grid_is_refused(app, small_dataset, tmp_path, capsys, shape):
    mask = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)), mask)
    flags = ["--mask-file", str(mask)]
    assert app(small_dataset, tmp_path / "out", tmp_path / "work", *flags) == ExitCode.BAD_DATA
    assert "mask.nii" in capsys.readouterr().err


def test_output_in_the_input_is_refused(app, state_of, small_dataset, tmp_path, capsys):
    before = state_of(small_dataset)
    code = app(small_dataset, small_dataset / "sub-01", tmp_path / "work")
    assert code == ExitCode.USAGE
    assert "inside the input" in capsys.readouterr().err
    assert state_of(small_dataset) == before


def test_missing_input_is_named(app, tmp_path, capsys):
    assert app(tmp_path / "nowhere", tmp_path / "out", tmp_path / "work") == ExitCode.NO_INPUT
    assert "nowhere" in capsys.readouterr().err


def test_bad_subject_is_named_and_does_not_stop_the_good_one(app, small_dataset, tmp_path, capsys):
    bids_dir = tmp_path / "in"
    shutil.copytree(small_dataset, bids_dir, ignore=shutil.ignore_patterns("derivatives"))
    for path in (bids_dir / "sub-01").rglob("*"):
        if path.is_file():
            target = bids_dir / str(path.relative_to(bids_dir)).replace("sub-01", "sub-02")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    broken = bids_dir / "sub-02/anat/sub-02_echo-2_part-phase_MEGRE.json"
    broken.write_text(json.dumps({**json.loads(broken.read_text()), "EchoTime": 6.0}))
    out = tmp_path / "out"
    code = app(bids_dir, out, tmp_path / "work", "--skip-bids-validation")
    assert code == ExitCode.SUBJECT_FAILED
    assert (out / "sub-01/anat/sub-01_Chimap.nii.gz").is_file()
    assert not (out / "sub-02/anat").exists()
    said = capsys.readouterr().err
    assert "EchoTime" in said
    assert "sub-02 FAILED" in said
    assert "EchoTime" in (out / "sub-02.html").read_text()


def test_crash_is_reported_and_never_exits_zero(app, small_dataset, tmp_path, capsys, monkeypatch):
    def fail(*given, **named):
        raise ValueError("the computed map is zero everywhere")

    monkeypatch.setattr("qsmflow.interfaces.echoes.fit_echoes", fail)
    out = tmp_path / "out"
    code = app(small_dataset, out, tmp_path / "work")
    assert code == ExitCode.SUBJECT_FAILED
    assert "zero everywhere" in capsys.readouterr().err
    assert list((out / "sub-01/log").rglob("crash*"))
    assert "zero everywhere" in (out / "sub-01.html").read_text()
    assert not (out / "sub-01/anat").exists()


def test_own_mask_of_a_derivative_data_set_is_used(app, small_dataset, finished, tmp_path):
    masks = small_dataset / "derivatives" / "truth"
    out = tmp_path / "out"
    code = app(small_dataset, out, tmp_path / "work", "-d", f"truth={masks}")
    assert code == ExitCode.DONE
    name = "sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    np.testing.assert_array_equal(read(out / name), read(masks / name) > 0)
    assert not np.array_equal(read(out / name), read(finished.out_dir / name))


def test_maps_are_measured_in_the_regions_of_label_images(app, finished, tmp_path, capsys):
    atlas, out = finished.bids_dir / "derivatives" / "truth", tmp_path / "out"
    assert finished.again("-d", f"atlas={atlas}", out_dir=out) == ExitCode.DONE
    assert "a mask will be made" not in capsys.readouterr().err
    lines = (out / "sub-01" / "sub-01_regions.tsv").read_text().splitlines()
    rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    assert {row["map"] for row in rows} == {"Chimap", "R2starmap"}
    labels = read(atlas / "sub-01/anat/sub-01_dseg.nii.gz")
    chi = read(out / "sub-01/anat/sub-01_Chimap.nii.gz")
    matter = next(row for row in rows if (row["name"], row["map"]) == ("white matter", "Chimap"))
    inside = (labels == int(matter["index"])) & (chi != 0)
    assert float(matter["mean"]) == pytest.approx(chi[inside].mean(), abs=1e-6)
    assert int(matter["voxels"]) == inside.sum()
    assert "white matter" in (out / "sub-01.html").read_text()
    assert finished.again(out_dir=out) == ExitCode.DONE
    assert not [*(out / "sub-01").glob("*regions*"), *(out / "sub-01" / "figures").glob("*regions*")]


def test_label_images_are_checked_before_any_work(app, small_dataset, tmp_path, capsys):
    folder = tmp_path / "atlas" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    run = (small_dataset, tmp_path / "out", tmp_path / "work", "-d", f"atlas={tmp_path / 'atlas'}")
    assert app(*run, "--dry-run") == ExitCode.DONE
    assert "no label image fits this acquisition" in capsys.readouterr().err
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)), folder / "sub-01_dseg.nii")
    assert app(*run) == ExitCode.BAD_DATA
    assert "sub-01_dseg.nii: labels must be one volume of whole numbers" in capsys.readouterr().err
    assert not (tmp_path / "out" / "sub-01").exists()


def test_single_echo_of_a_session_is_enough(app, small_dataset, tmp_path, capsys):
    bids_dir = tmp_path / "in"
    anat = bids_dir / "sub-03" / "ses-A" / "anat"
    anat.mkdir(parents=True)
    shutil.copyfile(small_dataset / "dataset_description.json", bids_dir / "dataset_description.json")
    stem = "sub-03_ses-A_acq-short_run-1"
    for source in small_dataset.rglob("sub-01_echo-3_part-*_MEGRE.*"):
        name = source.name.replace("sub-01_echo-3", stem).replace("MEGRE", "T2starw")
        shutil.copyfile(source, anat / name)
    out = tmp_path / "out"
    code = app(bids_dir, out, tmp_path / "work", "--session-label", "A", "--skip-bids-validation")
    assert code == ExitCode.DONE
    made = out / "sub-03" / "ses-A" / "anat"
    expected = {f"{stem}_{name}.nii.gz" for name in ("Chimap", "S0map", "desc-brain_mask")}
    assert {path.name for path in made.glob("*.nii.gz")} == expected
    sidecar = json.loads((made / f"{stem}_Chimap.json").read_text())
    assert sidecar["ReferenceRegion"]["region"] == "brain"
    assert "sign of the phase" in (out / "sub-03.html").read_text()


@pytest.mark.parametrize(
    ("flags", "parameters"),
    [
        (["--medi-lambda", "0.002", "--no-medi-nonlinear"], {"regularisation": 0.002, "nonlinear": False}),
        (["--medi-preset", "simulation", "--medi-merit"], {"discrepancy": 1.0, "merit": True}),
        (
            ["--medi-smv-radius", "8", "--no-medi-outside-sources"],
            {"smv_radius": 8.0, "outside_sources": False},
        ),
    ],
)
def test_flags_of_medi_change_the_map(app, finished, tmp_path, flags, parameters):
    """The stages before the inversion are reused from the finished run."""
    work = tmp_path / "work"
    shutil.copytree(finished.work_dir, work)
    maps = []
    for name, extra in (("plain", []), ("changed", flags)):
        out = tmp_path / name
        assert app(finished.bids_dir, out, work, "--inversion", "medi", *extra) == ExitCode.DONE
        maps.append(read(out / "sub-01/anat/sub-01_Chimap.nii.gz"))
    sidecar = json.loads((out / "sub-01/anat/sub-01_Chimap.json").read_text())
    told = sidecar["EstimationParameters"]["Dipole inversion"]["Parameters"]
    assert told | parameters == told
    assert np.abs(maps[0] - maps[1]).max() > 1e-3


@pytest.fixture
def motion_flags(networks):
    """The small networks instead of the shipped ones."""
    return ["--motion-models", str(networks["unet"]), str(networks["prenet"])]


def test_motion_correction_is_a_map_of_its_own(app, finished, networks, motion_flags, tmp_path, capsys):
    """On demand it is there, and gone where a later run into the same folder does without."""
    out, anat = tmp_path / "out", tmp_path / "out" / "sub-01" / "anat"
    flags = ["--motion-correction", "on", *motion_flags]
    assert app(finished.bids_dir, out, finished.work_dir, *flags) == ExitCode.DONE
    assert "small-unet" in capsys.readouterr().err
    name = "sub-01_Chimap.nii.gz"
    assert (anat / name).read_bytes() == (finished.out_dir / "sub-01/anat" / name).read_bytes()
    corrected = read(anat / "sub-01_desc-motioncorrected_Chimap.nii.gz")
    assert np.abs(corrected - read(anat / name)).max() > 1e-4
    assert not np.any(corrected[read(anat / "sub-01_desc-brain_mask.nii.gz") == 0])
    sidecar = json.loads((anat / "sub-01_desc-motioncorrected_Chimap.json").read_text())
    assert sidecar["Sources"] == ["bids::sub-01/anat/sub-01_Chimap.nii.gz"]
    assert "learned from simulations" in sidecar["Description"]
    stages = sidecar["EstimationParameters"]
    assert list(stages)[-2:] == ["Motion correction", "Data residual after motion correction"]
    weights = networks["unet"] / "weights.safetensors"
    told = stages["Motion correction"]["Parameters"]
    assert told["UnetSHA256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    plain = json.loads((anat / "sub-01_Chimap.json").read_text())
    assert list(plain["EstimationParameters"])[-1] == "Data residual"
    page = (out / "sub-01.html").read_text()
    for words in ("a corrected map is written", "learned from simulations and is not a measurement"):
        assert words in page
    assert page.count("desc-motion_Chimap.svg") == 1
    if find_validator() is not None:
        done = subprocess.run([find_validator(), out], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    assert app(finished.bids_dir, out, finished.work_dir) == ExitCode.DONE
    assert not list(out.rglob("*motion*.nii.gz")) + list(out.rglob("*motion*.svg"))
    assert "Motion correction was switched off" in (out / "sub-01.html").read_text()


def test_motion_correction_decides_by_severity(app, finished, motion_flags, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(learned, "MOTION_SEVERITY_THRESHOLD", 1e9)
    flags = ["--motion-correction", "auto", *motion_flags]
    assert app(finished.bids_dir, out, finished.work_dir, *flags) == ExitCode.DONE
    assert (out / "sub-01/anat/sub-01_Chimap.nii.gz").is_file()
    assert not list((out / "sub-01/anat").glob("*motion*"))
    page = (out / "sub-01.html").read_text()
    assert "no corrected map is written" in page
    assert page.count("desc-motion_Chimap.svg") == 1


def test_inversion_by_a_network(app, finished, networks, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--inversion", "deepqsm", "--deepqsm-model", str(networks["deepqsm"])]
    assert app(finished.bids_dir, out, finished.work_dir, *flags) == ExitCode.DONE
    assert "DEEPQSM inversion" in capsys.readouterr().err
    sidecar = json.loads((out / "sub-01/anat/sub-01_Chimap.json").read_text())
    told = sidecar["EstimationParameters"]["Dipole inversion"]["Parameters"]
    assert told["Model"] == "small-deepqsm"
    assert "(model small-deepqsm)" in (out / "logs/CITATION.md").read_text()
    assert "Bollmann" in (out / "sub-01.html").read_text()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--inversion", "deepqsm", "--deepqsm-model", "deepqsm-hat"], ExitCode.USAGE, "deepqsm-hat"),
        (["--inversion", "deepqsm", "--deepqsm-model", "./none"], ExitCode.NO_INPUT, "none"),
        (["--inversion", "deepqsm", "--deepqsm-model", "UNET"], ExitCode.BAD_DATA, "is a unet"),
        (["--motion-correction", "on", "--motion-models", "UNET", "DAMAGED"], ExitCode.BAD_DATA, "SHA-256"),
        (["--motion-correction", "auto", "--motion-models", "UNET", "nothing"], ExitCode.USAGE, "nothing"),
    ],
)
def test_networks_are_checked_before_any_work(
    app, small_dataset, networks, tmp_path, capsys, flags, code, words
):
    damaged = shutil.copytree(networks["prenet"], tmp_path / "damaged")
    content = bytearray((damaged / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "weights.safetensors").write_bytes(content)
    stand_in = {"UNET": str(networks["unet"]), "DAMAGED": str(damaged)}
    flags = [stand_in.get(flag, flag) for flag in flags]
    assert app(small_dataset, tmp_path / "out", tmp_path / "work", *flags) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("given", "sign"), [("+1", 1), ("-1", -1)])
def test_phase_sign_turns_field_and_susceptibility(app, finished, tmp_path, given, sign):
    out = tmp_path / "out"
    flags = [f"--phase-sign={given}", "--reference", "none"]
    assert app(finished.bids_dir, out, finished.work_dir, *flags) == ExitCode.DONE
    name = "sub-01/fmap/sub-01_desc-total_fieldmap.nii.gz"
    np.testing.assert_allclose(read(out / name), sign * read(finished.out_dir / name), atol=1e-4)
    assert f"{sign:+d} (given)" in (out / "sub-01.html").read_text()


def test_index_of_the_input_is_kept_on_request(app, small_dataset, tmp_path):
    index = tmp_path / "index"
    flags = ["--bids-database-dir", str(index), "--boilerplate-only"]
    assert app(small_dataset, tmp_path / "out", tmp_path / "work", *flags) == ExitCode.DONE
    assert list(index.rglob("*.sqlite")) + list(index.rglob("*.db"))


def test_plugin_of_the_user_is_run(app, finished, tmp_path, capsys):
    plugin = tmp_path / "plugin.yml"
    plugin.write_text("plugin: NoSuchPlugin\n")
    flags = ["--use-plugin", str(plugin)]
    assert app(finished.bids_dir, tmp_path / "out", tmp_path / "work", *flags) == ExitCode.USAGE
    assert "NoSuchPlugin" in capsys.readouterr().err
    plugin.write_text("plugin: Linear\nplugin_args: {}\n")
    assert app(finished.bids_dir, tmp_path / "out", finished.work_dir, *flags) == ExitCode.DONE
