"""Files and folders that a run is given beside its subjects: refused before any work, in one message."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import pytest

from qsmflow.cli.exit_codes import ExitCode
from qsmflow.cli.run import main

USAGE, DATA, NO_INPUT, NO_OUTPUT = (
    ExitCode.USAGE,
    ExitCode.BAD_DATA,
    ExitCode.NO_INPUT,
    ExitCode.CANNOT_WRITE,
)
ONES = np.ones((8, 8, 8), np.uint8)


@dataclass(frozen=True)
class Case:
    """A run that cannot be.

    Attributes
    ----------
    name : str
        Of the test.
    prepare : callable
        Gets the data set, writes what is bad, may return a list of arguments.
    code : int
        Exit code.
    words : tuple of str
        What the message has to say.
    places : dict
        ``bids``, ``out`` and ``work``, where they are not the usual ones, from the folder of the test.
    """

    name: str
    prepare: Callable
    code: int
    words: tuple[str, ...]
    places: dict[str, str] = field(default_factory=dict)


def config(text: str | bytes) -> Callable:
    return lambda study: ["--config-file", str(study.text("run.toml", text))]


def filters(text: str | bytes) -> Callable:
    return lambda study: ["--bids-filter-file", str(study.text("filter.json", text))]


def mask(values, affine=None) -> Callable:
    grid = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    return lambda study: ["--mask-file", str(study.image("mask.nii.gz", values, grid))]


def atlas(values: np.ndarray | None, table: str | None = None) -> Callable:
    def prepare(study):
        name = "atlas/sub-01/anat/sub-01_dseg"
        if values is None:
            study.text(f"{name}.nii.gz", b"no image")
        else:
            study.image(f"{name}.nii.gz", values)
        if table is not None:
            study.text(f"{name}.tsv", table)
        return ["-d", f"atlas={study.folder / 'atlas'}", "--participant-label", "01"]

    return prepare


def template(brain: np.ndarray | None) -> Callable:
    def prepare(study):
        study.image("atlas/tpl-X/tpl-X_dseg.nii.gz", ONES)
        name = "atlas/tpl-X/tpl-X_desc-brain_T1w.nii.gz"
        if brain is None:
            study.text(name, b"no image")
        else:
            study.image(name, brain)
        return ["-d", f"atlas={study.folder / 'atlas'}", "--participant-label", "01"]

    return prepare


def model(weights: bytes | None = None, **card) -> Callable:
    """A network whose card, or whose weights behind the right checksum, are changed."""

    def prepare(study):
        folder = study.folder / "model"
        shutil.copytree(study.networks["deepqsm"], folder)
        content = json.loads((folder / "card.json").read_text()) | card
        if weights is not None:
            (folder / "weights.safetensors").write_bytes(weights)
            content["sha256"] = sha256(weights).hexdigest()
        (folder / "card.json").write_text(json.dumps(content))
        return ["--inversion", "deepqsm", "--deepqsm-model", str(folder)]

    return prepare


def card_text(text: str | bytes) -> Callable:
    def prepare(study):
        arguments = model()(study)
        study.text("model/card.json", text)
        return arguments

    return prepare


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


SETTINGS = [
    Case("no TOML", config("inversion = "), USAGE, ("run.toml", "not TOML")),
    Case("TOML not UTF-8", config(b"a = '\xff'"), USAGE, ("run.toml", "not TOML")),
    Case("TOML nested", config("a = " + "[" * 10**5 + "]" * 10**5), USAGE, ("run.toml", "not TOML")),
    Case("TOML of tables", config("[inversion.a.b.c]\nd = 1"), USAGE, ("run.toml", "inversion")),
    Case("TOML of lists in lists", config("participant_label = [[1], [2]]"), USAGE, ("run.toml", "flat")),
    Case("TOML key unknown", config("inversoin = 'tkd'"), USAGE, ("--inversoin",)),
    Case("TOML value unknown", config("inversion = 'magic'"), USAGE, ("--inversion", "magic")),
    Case("TOML of another type", config("inversion = 3"), USAGE, ("--inversion", "3")),
    Case("TOML flag with a text", config("sloppy = 'yes'"), USAGE, ("--sloppy",)),
    Case("TOML verbose as text", config("verbose = 'loud'"), USAGE, ("--verbose", "loud")),
    Case("TOML number not a number", config("tkd_threshold = nan"), USAGE, ("--tkd-threshold", "nan")),
    Case("TOML number infinite", config("tkd_threshold = inf"), USAGE, ("--tkd-threshold", "finite")),
    Case("TOML date", config("nprocs = 1979-05-27"), USAGE, ("--nprocs", "1979")),
    Case("TOML asks for help", config("help = true"), USAGE, ("run.toml", "help")),
    Case("TOML in a folder", lambda s: ["--config-file", str(s.root)], NO_INPUT, ("--config-file", "input")),
    Case("TOML in a device", lambda s: ["--config-file", "/dev/zero"], NO_INPUT, ("/dev/zero",)),
    Case("filter no JSON", filters("{"), USAGE, ("filter.json", "no valid JSON")),
    Case("filter a list", filters("[]"), USAGE, ("filter.json", "no JSON object")),
    Case("filter nested", filters("[" * 10**5), USAGE, ("filter.json", "too deeply")),
    Case("filter in a device", lambda s: ["--bids-filter-file", "/dev/zero"], NO_INPUT, ("/dev/zero",)),
    Case("filter by no entity", filters('{"megre": {"colour": 1}}'), ExitCode.NOTHING_MATCHED, ("colour",)),
    Case(
        "filter by an object", filters('{"megre": {"run": {"a": 1}}}'), ExitCode.NOTHING_MATCHED, ("loosen",)
    ),
    Case("label with a path", lambda s: ["--participant-label", "../01"], USAGE, ("'../01'", "label")),
    Case("label with a script", lambda s: ["--participant-label", "<script>"], USAGE, ("<script>", "label")),
    Case("label with a shell", lambda s: ["--session-label", "$(touch x)"], USAGE, ("$(touch x)", "label")),
    Case("label in unicode", lambda s: ["--participant-label", "größe"], USAGE, ("größe", "label")),
    Case("label not there", lambda s: ["--participant-label", "77"], NO_INPUT, ("77", "01, 02")),
    Case("B0 of zero", lambda s: ["--field-strength", "0"], USAGE, ("--field-strength",)),
    Case("B0 of 70 T", lambda s: ["--field-strength", "70"], USAGE, ("--field-strength", "25")),
    Case("B0 infinite", lambda s: ["--field-strength", "inf"], USAGE, ("--field-strength",)),
    Case("B0 NaN", lambda s: ["--field-strength", "nan"], USAGE, ("--field-strength",)),
    Case("memory of no unit", lambda s: ["--mem", "4 cats"], USAGE, ("--mem", "8G")),
    Case("memory without end", lambda s: ["--mem", "9" * 400 + "G"], USAGE, ("--mem",)),
    Case("too little memory", lambda s: ["--mem", "10M"], USAGE, ("--mem", "cannot hold")),
    Case("reference without entity", lambda s: ["--reference-filter", "still"], USAGE, ("ENTITY=LABEL",)),
    Case("reference by no entity", lambda s: ["--reference-filter", "colour=red"], USAGE, ("colour",)),
    Case("reference with a path", lambda s: ["--reference-filter", "run=../1"], USAGE, ("ENTITY=LABEL",)),
    Case("reference no JSON", lambda s: ["--reference-filter", "{run"], USAGE, ("no valid JSON",)),
    Case("reference nested", lambda s: ["--reference-filter", '{"run":' * 10**4], USAGE, ("no valid JSON",)),
]

MASKS = [
    Case("mask of another grid", mask(np.ones((4, 4, 4), np.uint8)), DATA, ("mask.nii.gz", "resample")),
    Case("mask elsewhere", mask(ONES, np.diag([1.0, 1.0, 3.0, 1.0])), DATA, ("mask.nii.gz", "resample")),
    Case("mask of four volumes", mask(np.stack([ONES] * 4, -1)), DATA, ("mask.nii.gz", "(8, 8, 8, 4)")),
    Case("mask of NaN", mask(ONES * np.float32("nan")), DATA, ("mask.nii.gz", "512 voxels are NaN")),
    Case("mask of nothing", mask(0 * ONES), DATA, ("mask.nii.gz", "no voxel is inside")),
    Case("mask of halves", mask(ONES * np.float32(0.5)), DATA, ("no voxel is inside, all are 0.5",)),
    Case(
        "mask of less than nothing", mask(-ONES.astype(np.int16)), DATA, ("no voxel is inside, all are -1",)
    ),
    Case(
        "mask of few voxels",
        mask(np.pad(ONES[:3, :3, :3], (0, 5))),
        DATA,
        ("only 27 voxels are inside",),
    ),
    Case(
        "mask of thin slices",
        mask(ONES * (np.arange(8) % 3 < 2).astype(np.uint8)),
        DATA,
        ("nowhere are 3 × 3 × 3 voxels",),
    ),
    Case("mask of colours", mask(np.zeros((8, 8, 8), [(c, np.uint8) for c in "RGB"])), DATA, ("not real",)),
    Case(
        "mask no image", lambda s: ["--mask-file", str(s.text("mask.nii", b"x"))], DATA, ("mask.nii", "NIfTI")
    ),
    Case("mask a folder", lambda s: ["--mask-file", str(s.root)], NO_INPUT, ("--mask-file", "no such file")),
    Case(
        "masks that are not there", lambda s: ["-d", "m=/nowhere"], NO_INPUT, ("/nowhere", "no such folder")
    ),
    Case("labels no image", atlas(None), DATA, ("sub-01_dseg.nii.gz", "cannot be read")),
    Case("labels of NaN", atlas(ONES * np.float32("nan")), DATA, ("sub-01_dseg.nii.gz", "whole numbers")),
    Case("labels between numbers", atlas(ONES * np.float32(0.5)), DATA, ("whole numbers",)),
    Case("labels of four volumes", atlas(np.stack([ONES] * 4, -1)), DATA, ("one volume",)),
    Case("table without names", atlas(ONES, "label\tcolour\n1\tred\n"), DATA, ("dseg.tsv", "'index'")),
    Case("labels beyond counting", atlas(ONES * 1e20), DATA, ("sub-01_dseg.nii.gz", "up to 2147483647")),
    Case("labels without end", atlas(ONES * np.inf), DATA, ("sub-01_dseg.nii.gz", "up to 2147483647")),
    Case(
        "labels of a blank template", template(0 * ONES), DATA, ("tpl-X_desc-brain_T1w", "every voxel is 0")
    ),
    Case("labels of a damaged template", template(None), DATA, ("tpl-X_desc-brain_T1w", "no NIfTI image")),
    Case("table with a short row", atlas(ONES, "index\tname\n1\n"), DATA, ("dseg.tsv", "without a name")),
    Case("table of a long field", atlas(ONES, f"index\tname\n1\t{'x' * 10**6}"), DATA, ("dseg.tsv", "limit")),
    Case("table of other numbers", atlas(ONES, "index\tname\none\tred\n"), DATA, ("dseg.tsv", "'index'")),
]

MODELS = [
    Case(
        "pickle as weights",
        model(pickle.dumps(Bomb())),
        DATA,
        ("weights.safetensors", "no file of safetensors"),
    ),
    Case(
        "weights of a false header",
        model(struct.pack("<Q", 2**60) + b"{}"),
        DATA,
        ("weights.safetensors", "no file of safetensors"),
    ),
    Case("weights of nothing", model(b""), DATA, ("weights.safetensors", "no file of safetensors")),
    Case("card no JSON", card_text("{"), DATA, ("card.json",)),
    Case("card nested", card_text("[" * 10**5), DATA, ("card.json", "too deeply")),
    Case("card not UTF-8", card_text(b'{"name": "\xff"}'), DATA, ("card.json",)),
    Case("card a list", card_text("[]"), DATA, ("card.json", "object of JSON")),
    Case("card of another network", model(architecture="vnet"), DATA, ("card.json", "vnet")),
    Case("card of a path for a network", model(architecture="../unet"), DATA, ("card.json", "../unet")),
    Case("card of a list for a network", model(architecture=["unet"]), DATA, ("card.json", "architecture")),
    Case("card of text for settings", model(settings="large"), DATA, ("card.json", "settings")),
    Case("card of text for channels", model(settings={"channels": "many"}), DATA, ("card.json", "channels")),
    Case("card of huge channels", model(settings={"channels": [10**12]}), DATA, ("card.json", "larger")),
    Case("card of a billion stages", model(settings={"stages": 10**9}), DATA, ("card.json", "larger")),
    Case("card of other units", model(input_units="ppb"), DATA, ("card.json", "ppb")),
    Case("card of text for voxels", model(voxel_range="all"), DATA, ("card.json", "voxel_range")),
    Case(
        "card of NaN for voxels",
        model(voxel_range={"finest": float("nan"), "coarsest": 1, "anisotropy": 1}),
        DATA,
        ("card.json", "finest"),
    ),
    Case("card of a number for a checksum", model(sha256=7), DATA, ("card.json", "sha256")),
    Case(
        "model that is a file",
        lambda s: ["--inversion", "deepqsm", "--deepqsm-model", str(s.text("net", b"x"))],
        NO_INPUT,
        ("net", "neither a folder"),
    ),
]

PLACES = [
    Case("no input", lambda s: [], NO_INPUT, ("nowhere", "no such folder"), {"bids": "nowhere"}),
    Case("input a file", lambda s: s.text("note", "x"), NO_INPUT, ("note",), {"bids": "note"}),
    Case("input empty", lambda s: (s.folder / "void").mkdir(), NO_INPUT, ("void",), {"bids": "void"}),
    Case("output is the input", lambda s: [], USAGE, ("is the input data set",), {"out": "input"}),
    Case("output in a subject", lambda s: [], USAGE, ("inside the input",), {"out": "input/sub-01/out"}),
    Case(
        "output through a link into the input",
        lambda s: s.link(s.folder / "way", s.root),
        USAGE,
        ("inside the input",),
        {"out": "way/sub-01"},
    ),
    Case("output a file", lambda s: s.text("note", "x"), NO_OUTPUT, ("note",), {"out": "note"}),
    Case("output in a file", lambda s: s.text("note", "x"), NO_OUTPUT, ("note",), {"out": "note/out"}),
    Case(
        "output a link to itself",
        lambda s: s.link(s.folder / "loop", "loop"),
        NO_OUTPUT,
        ("loop",),
        {"out": "loop"},
    ),
    Case(
        "output of another program",
        lambda s: s.json("other/dataset_description.json", {"Name": "x"}),
        USAGE,
        ("other", "another data set"),
        {"out": "other"},
    ),
    Case(
        "work folder a file",
        lambda s: s.text("note", "x"),
        NO_OUTPUT,
        ("--work-dir",),
        {"work": "note"},
    ),
    Case("work folder in the input", lambda s: [], USAGE, ("never written to",), {"work": "input/work"}),
    Case("work folder that cannot be", lambda s: [], NO_OUTPUT, ("--work-dir",), {"work": "/proc/none/work"}),
    Case(
        "database that cannot be",
        lambda s: ["--bids-database-dir", "/proc/none/index"],
        NO_OUTPUT,
        ("/proc/none/index", "--bids-database-dir"),
    ),
    Case(
        "database of something else",
        lambda s: ["--bids-database-dir", str(s.text("index/layout_index.sqlite", "x" * 5000).parent)],
        NO_INPUT,
        ("index: database", "remove this folder"),
    ),
    Case(
        "description no JSON",
        lambda s: s.text("input/dataset_description.json", "{"),
        ExitCode.INVALID_BIDS,
        ("dataset_description.json", "JSON"),
    ),
    Case(
        "inherited sidecar no JSON",
        lambda s: s.text("input/MEGRE.json", "{"),
        ExitCode.INVALID_BIDS,
        ("MEGRE.json", "JSON"),
    ),
]


@pytest.mark.parametrize("case", [*SETTINGS, *MASKS, *MODELS, *PLACES], ids=lambda case: case.name)
def test_a_bad_run_is_refused_in_one_message(study, case, capsys, monkeypatch):
    (study.folder / "here").mkdir()
    monkeypatch.chdir(study.folder / "here")
    prepared = case.prepare(study)
    arguments = prepared if isinstance(prepared, list) else []
    before = study.state()
    places = {"bids": "input", "out": "out", "work": "work"} | case.places
    bids_dir, out_dir, work_dir = (str(study.folder / places[name]) for name in ("bids", "out", "work"))
    quick = ["--skip-bids-validation", "--motion-correction", "off", "--mem", "4G", "--inversion", "tkd"]
    if "--inversion" in arguments or "--config-file" in arguments:
        quick = quick[:-2]
    code = main([bids_dir, out_dir, "participant", "-w", work_dir, *quick, *arguments])
    said = capsys.readouterr().err
    assert code == case.code, said
    assert "Traceback" not in said
    assert all(word in said for word in case.words), said
    assert said.count("qsmflow: ") == 1
    assert len(said) < 4000
    assert study.state() == before
    assert not list((study.folder / "here").iterdir())
    assert not (study.folder / "out").exists()


def test_phase_in_degrees_is_taken_and_said(study, capsys):
    for echo in (1, 2):
        study.voxels(lambda a: np.round(a / 4095 * 360 - 180).astype(np.int16), echo=echo)
    arguments = ["--skip-bids-validation", "--motion-correction", "off", "--inversion", "tkd", "--dry-run"]
    assert main([str(study.root), str(study.folder / "out"), "participant", *arguments]) == ExitCode.DONE
    assert "sub-02: 2 echo time(s) 4.00, 8.00 ms, 3 T, phase −180 … 180 degrees" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["with spaces", "größe 大脑", "it's $(touch x) <b>", "a;b&c%20'\""])
def test_folders_may_have_any_name(study, name, capsys):
    home = study.folder / name
    shutil.copytree(study.root, home / "in put")
    run = [str(home / "in put"), str(home / "out put"), "participant", "-w", str(home / "work dir")]
    quick = ["--skip-bids-validation", "--motion-correction", "off", "--inversion", "tkd"]
    assert main([*run, *quick, "--boilerplate-only"]) == ExitCode.DONE
    assert (home / "out put" / "logs" / "CITATION.md").is_file()
    assert sorted(path.name for path in home.iterdir()) == ["in put", "out put", "work dir"]


def masks_of_both(study) -> list[str]:
    """A mask for each subject in a derivative data set; that of the second is for another grid."""
    study.json("masks/dataset_description.json", {"Name": "m", "BIDSVersion": "1.10.0"})
    for subject, values in (("01", ONES), ("02", ONES[:4])):
        study.image(f"masks/sub-{subject}/anat/sub-{subject}_desc-brain_mask.nii.gz", values)
    return ["-d", f"m={study.folder / 'masks'}"]


def masks_with_a_broken_sidecar(study) -> list[str]:
    """A mask for each subject; what is said of the second's is no JSON."""
    arguments = masks_of_both(study)
    study.image("masks/sub-02/anat/sub-02_desc-brain_mask.nii.gz", ONES)
    study.text("masks/sub-02/anat/sub-02_desc-brain_mask.json", "{")
    return arguments


def labels_of_both(study) -> list[str]:
    """Labels for the first subject, and what are none for the second."""
    arguments = atlas(ONES)(study)[:2]
    study.text("atlas/sub-02/anat/sub-02_dseg.nii.gz", b"no image")
    return arguments


def large_second(study) -> list[str]:
    """The second subject is too large for the memory."""
    for part in ("mag", "phase"):
        for echo in (1, 2):
            study.voxels(lambda values: np.tile(values, (12, 12, 12)), part=part, echo=echo)
    return ["--mem", "0.65G"]


@pytest.mark.parametrize(
    ("prepare", "words", "code"),
    [
        (masks_of_both, "sub-02_desc-brain_mask.nii.gz: mask: its grid (4, 8, 8)", DATA),
        (
            masks_with_a_broken_sidecar,
            "sub-02/anat/sub-02_desc-brain_mask.json: JSON: it is no valid JSON",
            ExitCode.INVALID_BIDS,
        ),
        (labels_of_both, "sub-02: --derivatives atlas: ", DATA),
        (large_second, "sub-02: --mem: 0.65G cannot hold it: stage ", USAGE),
    ],
)
def test_what_is_wrong_for_one_subject_leaves_the_others(study, capsys, prepare, words, code):
    run = [str(study.root), str(study.folder / "out"), "participant", "-w", str(study.folder / "work")]
    run += ["--skip-bids-validation", "--motion-correction", "off", "--inversion", "tkd", "--dry-run"]
    run += prepare(study)
    assert main(run) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert "sub-01: 2 echo time(s)" in said
    assert words in said
    assert "sub-02: 2 echo time(s)" not in said
    assert main([*run, "--participant-label", "02"]) == code
    assert words in capsys.readouterr().err


def test_a_subject_that_the_validator_refuses_leaves_the_others(study, capsys):
    study.path().write_bytes(b"")
    run = [str(study.root), str(study.folder / "out"), "participant", "-w", str(study.folder / "work")]
    assert main([*run, "--motion-correction", "off", "--dry-run"]) == ExitCode.SUBJECT_FAILED
    said = capsys.readouterr().err
    assert "sub-01: 2 echo time(s)" in said
    assert "EMPTY_FILE" in said
