"""What can be wrong with a subject: it is refused with one clear message, and the others go on."""

import gzip
import json
import math
import os
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import nibabel as nb
import numpy as np
import pytest

from qsmflow.cli.exit_codes import ExitCode
from qsmflow.cli.run import main

QUICK = ["--skip-bids-validation", "--inversion", "tkd", "--motion-correction", "off", "--mem", "4G"]


@dataclass(frozen=True)
class Case:
    """A way to spoil the second subject.

    Attributes
    ----------
    name : str
        Of the test.
    spoil : callable
        Gets the data set.
    file, field, words : str
        What the message says: the file, the field, and the problem or the fix.
    code : int
        With which a run of that subject alone ends.
    n_messages : int
        Errors that are told.
    """

    name: str
    spoil: Callable
    file: str
    field: str
    words: str
    code: int = ExitCode.BAD_DATA
    n_messages: int = 1


PHASE, SIDECAR = "sub-02_echo-2_part-phase_MEGRE.nii.gz", "sub-02_echo-2_part-phase_MEGRE.json"
FIRST, FIRST_PHASE = "sub-02_echo-1_part-mag_MEGRE.nii.gz", "sub-02_echo-1_part-phase_MEGRE.nii.gz"
#: Offsets in a NIfTI-1 header.
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SROW = 40, 70, 76, 108, 280


def inflating(study, claimed: tuple[int, int, int], n_bytes: int) -> None:
    """A small file that inflates to `n_bytes` of zeros behind a header that claims a shape."""
    header = nb.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(claimed)
    header["vox_offset"] = 352
    head = header.binaryblock + bytes(4)
    block = gzip.compress(bytes(2**20))
    # Members of gzip one after the other are one stream.
    study.replace(gzip.compress(head) + block * (n_bytes // 2**20))


def sheared() -> np.ndarray:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 1] = 0.3
    return affine


def with_values(*values: float):
    def change(array):
        array = array.astype(np.float32)
        array.flat[: len(values)] = values
        return array

    return change


IMAGES = [
    Case("truncated gz", lambda s: s.replace(s.path().read_bytes()[:-200]), PHASE, "image", "truncated"),
    Case("truncated header", lambda s: s.replace(gzip.compress(bytes(100))), PHASE, "image", "NIfTI"),
    Case("empty file", lambda s: s.replace(b""), PHASE, "image", "empty (0 bytes)"),
    Case("gz of nothing", lambda s: s.replace(gzip.compress(b"")), PHASE, "image", "Fix: "),
    Case("no gz", lambda s: s.replace(gzip.decompress(s.path().read_bytes())), PHASE, "image", "Fix: "),
    Case("text", lambda s: s.replace(b"not found (404)"), PHASE, "image", "Fix: "),
    Case("random bytes", lambda s: s.replace(np.random.default_rng(1).bytes(4096)), PHASE, "image", "Fix: "),
    Case(
        "corrupt stream",
        lambda s: s.replace(s.path().read_bytes()[:400] + bytes(300) + s.path().read_bytes()[700:]),
        PHASE,
        "image",
        "truncated or damaged",
    ),
    Case(
        "RGB",
        lambda s: s.voxels(lambda a: np.zeros(a.shape, [(c, np.uint8) for c in "RGB"])),
        PHASE,
        "image",
        "not real numbers",
    ),
    Case("complex", lambda s: s.voxels(lambda a: a * (1 + 1j)), PHASE, "image", "complex128"),
    Case("unknown dtype", lambda s: s.header(DATATYPE, struct.pack("<h", 999)), PHASE, "image", "Fix: "),
    Case("NaN", lambda s: s.voxels(with_values(math.nan)), PHASE, "values", "1 voxels are NaN"),
    Case("inf", lambda s: s.voxels(with_values(math.inf, -math.inf)), PHASE, "values", "2 voxels are NaN"),
    Case("all NaN", lambda s: s.voxels(lambda a: np.full(a.shape, np.nan)), PHASE, "values", "512", 65, 2),
    Case("constant", lambda s: s.voxels(np.zeros_like, part="mag"), "part-mag", "values", "every voxel is 0"),
    Case(
        "negative magnitude",
        lambda s: s.voxels(lambda a: a - 500, part="mag"),
        "part-mag",
        "values",
        "negative values",
    ),
    Case(
        "swapped parts",
        lambda s: [
            [s.rename(*names) for names in (("mag", "x"), ("phase", "mag"), ("part-x", "part-phase"))],
            s.metadata(Units="arbitrary"),
        ],
        "part-phase",
        "part",
        "look swapped",
    ),
    Case(
        "unwrapped phase",
        lambda s: [s.voxels(lambda a: a * 2.5, echo=e) for e in (1, 2)],
        FIRST_PHASE,
        "phase range",
        "fills none of the known ranges",
    ),
    Case(
        "echoes in different ranges",
        lambda s: s.voxels(lambda a: (a / 4096 * 2 * np.pi).astype(np.float32)),
        FIRST_PHASE,
        "phase range",
        "different ranges",
    ),
    Case(
        "4-D coils",
        lambda s: [
            s.voxels(lambda a: np.stack([a] * 4, -1), part=p, echo=e)
            for p in ("mag", "phase")
            for e in (1, 2)
        ],
        "MEGRE",
        "shape",
        "coils or echoes are stacked",
    ),
    Case(
        "one 4-D image", lambda s: s.voxels(lambda a: np.stack([a, a], -1)), PHASE, "shape", "stacked", 65, 2
    ),
    Case(
        "a slice",
        lambda s: [s.voxels(lambda a: a[..., :1], part=p, echo=e) for p in ("mag", "phase") for e in (1, 2)],
        "MEGRE",
        "shape",
        "single slice",
    ),
    Case(
        "another shape",
        lambda s: s.voxels(lambda a: a[:-1]),
        PHASE,
        "shape",
        "(7, 8, 8) differs from (8, 8, 8)",
        65,
        1,
    ),
    Case(
        "another affine",
        lambda s: s.voxels(np.copy, affine=np.diag([1.0, 1.0, 3.0, 1.0])),
        PHASE,
        "affine",
        "differs by 1 mm",
    ),
    Case("not orthogonal", lambda s: s.grids(sheared()), "MEGRE", "affine", "not at right angles"),
    Case(
        "zero voxel size",
        lambda s: s.header(PIXDIM + 4, struct.pack("<f", 0), s.every()),
        "MEGRE",
        "voxel size",
        "pixdim says 0 ×",
    ),
    Case(
        "NaN voxel size",
        lambda s: s.header(PIXDIM + 4, struct.pack("<f", math.nan), s.every()),
        "MEGRE",
        "voxel size",
        "pixdim says nan ×",
    ),
    Case(
        "affine of NaN",
        lambda s: s.header(SROW, struct.pack("<f", math.nan), s.every()),
        "MEGRE",
        "affine",
        "voxel axis",
    ),
    Case("affine of zeros", lambda s: s.header(SROW, bytes(48), s.every()), "MEGRE", "affine", "voxel axis"),
    Case(
        "voxels in metres",
        lambda s: s.grids(np.diag([0.001, 0.001, 0.002, 1])),
        "MEGRE",
        "voxel size",
        "write both in millimetres",
    ),
    Case(
        "header of terabytes",
        lambda s: s.header(DIM, struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)),
        PHASE,
        "image",
        "GiB",
    ),
    Case("negative shape", lambda s: s.header(DIM, struct.pack("<4h", 3, -8, 8, 8)), PHASE, "image", "Fix: "),
    Case("zero shape", lambda s: s.header(DIM, struct.pack("<4h", 3, 0, 8, 8)), PHASE, "image", "Fix: "),
    Case("too many dimensions", lambda s: s.header(DIM, struct.pack("<h", 300)), PHASE, "image", "Fix: "),
    Case(
        "voxels beyond the end",
        lambda s: s.header(VOX_OFFSET, struct.pack("<f", 1e9)),
        PHASE,
        "image",
        "Fix: ",
    ),
    Case("NaN offset", lambda s: s.header(VOX_OFFSET, struct.pack("<f", math.nan)), PHASE, "image", "Fix: "),
    Case("gz bomb", lambda s: inflating(s, (2000, 2000, 2000), 2**34), PHASE, "image", "GiB"),
    Case(
        "gz bomb behind a small image",
        lambda s: inflating(s, (8, 8, 8), 2**34),
        PHASE,
        "image",
        "the file goes on",
    ),
]

FILES = [
    Case("dangling link", lambda s: s.link(s.path(), "gone"), PHASE, "image", "datalad get"),
    Case("link to itself", lambda s: s.link(s.path(), s.path().name), PHASE, "image", "Fix: "),
    Case(
        "folder for a file",
        lambda s: [s.path().unlink(), s.path().mkdir()],
        PHASE,
        "image",
        "it is a folder",
        16,
    ),
    Case(
        "pipe for a file", lambda s: [s.path().unlink(), os.mkfifo(s.path())], PHASE, "image", "it is no file"
    ),
    Case("device for a file", lambda s: s.link(s.path(), "/dev/zero"), PHASE, "image", "it is no file"),
    Case(
        "missing phase", lambda s: s.path().unlink(), "echo-2_part-mag", "part", "the magnitude has no phase"
    ),
    Case("missing magnitude", lambda s: s.path("mag").unlink(), PHASE, "part", "the phase has no magnitude"),
    Case(
        "no phase at all",
        lambda s: [p.unlink() for p in s.every(part="phase")],
        "part-mag",
        "part",
        "no phase images",
    ),
    Case(
        "both extensions",
        lambda s: nb.save(nb.load(s.path()), s.path(extension=".nii")),
        PHASE,
        "file name",
        "another image has the same entities",
    ),
    Case(
        "an echo twice",
        lambda s: [
            p.with_name(p.name.replace("echo-2", "echo-02")).write_bytes(p.read_bytes())
            for p in s.anat.glob("*echo-2*")
        ],
        "echo-2_",
        "file name",
        "same entities",
    ),
    Case(
        "coils in files",
        lambda s: [
            s.rename("part", "coil-1_part"),
            [p.with_name(p.name.replace("l-1", "l-2")).write_bytes(p.read_bytes()) for p in s.every()],
        ],
        "",
        "coil",
        "the coils are not combined",
    ),
    Case(
        "folder that leads back",
        lambda s: s.link(s.anat / "again", ".."),
        "sub-02/anat/again",
        "folder",
        "remove the link",
        16,
    ),
    Case(
        "subject that leads back",
        lambda s: [shutil.rmtree(s.root / "sub-02"), s.link(s.root / "sub-02", ".")],
        "sub-02",
        "folder",
        "remove the link",
        16,
    ),
    Case(
        "folders that lead to each other",
        lambda s: [
            [(s.anat / name).mkdir() for name in "ab"],
            s.link(s.anat / "a" / "x", "../b"),
            s.link(s.anat / "b" / "y", "../a"),
        ],
        "sub-02/anat",
        "folder",
        "remove the link",
        16,
    ),
    Case(
        "pipe for a sidecar",
        lambda s: [s.path(extension=".json").unlink(), os.mkfifo(s.path(extension=".json"))],
        SIDECAR,
        "JSON",
        "it is no file",
        16,
    ),
    Case(
        "name of another subject",
        lambda s: s.rename("sub-02", "sub-01"),
        "sub-01_echo",
        "file name",
        "it lies in sub-02, its name says sub-01",
    ),
    Case(
        "script in a label",
        lambda s: s.rename("_echo", "_acq-<script>alert(1)<!--_echo"),
        "<script>",
        "file name",
        "holds no label",
    ),
    Case(
        "shell in a label",
        lambda s: s.rename("_echo", "_acq-$(touch x);`id`_echo"),
        "$(touch x)",
        "file name",
        "holds no label",
    ),
    Case(
        "dots in a label",
        lambda s: s.rename("_echo", "_acq-..\\.._echo"),
        "acq-..",
        "file name",
        "rename it",
        16,
    ),
    Case(
        "unicode in a label",
        lambda s: s.rename("_echo", "_acq-größe_echo"),
        "acq-größe",
        "file name",
        "holds no label",
    ),
    Case(
        "newline in a label",
        lambda s: s.rename("_echo", "_acq-a\nb_echo"),
        "acq-a\\nb",
        "file name",
        "rename it",
        16,
    ),
    Case(
        "escape codes in a label",
        lambda s: s.rename("_echo", "_acq-\x1b[2J_echo"),
        "acq-\\x1b[2J",
        "file name",
        "rename it",
        16,
    ),
    Case(
        "a name that is no UTF-8",
        lambda s: s.text("input/sub-02/anat/\udcff.json", "{}"),
        "\\udcff.json",
        "file name",
        "rename it",
        16,
    ),
]

METADATA = [
    Case("missing TE", lambda s: s.metadata(EchoTime=None), "MEGRE", "EchoTime", "it is missing"),
    Case(
        "missing sidecars",
        lambda s: [p.unlink() for p in s.every(".json")],
        "MEGRE",
        "EchoTime",
        "missing",
        65,
        2,
    ),
    Case("TE in ms", lambda s: s.metadata(EchoTime=4.0), "MEGRE", "EchoTime", "looks like milliseconds"),
    Case("TE negative", lambda s: s.metadata(EchoTime=-0.004), "MEGRE", "EchoTime", "no positive number"),
    Case("TE zero", lambda s: s.metadata(EchoTime=0), "MEGRE", "EchoTime", "no positive number"),
    Case("TE as text", lambda s: s.metadata(EchoTime="0.004"), "MEGRE", "EchoTime", "no positive number"),
    Case(
        "TE as list", lambda s: s.metadata(EchoTime=[0.004, 0.008]), "MEGRE", "EchoTime", "no positive number"
    ),
    Case("TE as object", lambda s: s.metadata(EchoTime={"s": 1}), "MEGRE", "EchoTime", "no positive number"),
    Case("TE true", lambda s: s.metadata(EchoTime=True), "MEGRE", "EchoTime", "no positive number"),
    Case("TE NaN", lambda s: s.metadata(EchoTime=math.nan), "MEGRE", "EchoTime", "no positive number"),
    Case(
        "TE of 400 digits", lambda s: s.metadata(EchoTime=10**400), "MEGRE", "EchoTime", "no positive number"
    ),
    Case(
        "TE a script",
        lambda s: s.metadata(EchoTime="<script>alert(1)</script>"),
        "MEGRE",
        "EchoTime",
        "<script>",
    ),
    Case("TE a long text", lambda s: s.metadata(EchoTime="x" * 10**6), "MEGRE", "EchoTime", "'xxxxx"),
    Case(
        "the same TE twice",
        lambda s: s.metadata(EchoTime=0.004),
        "echo-2",
        "EchoTime",
        "0.004 s is also that of",
    ),
    Case(
        "TE of magnitude and phase differ",
        lambda s: s.metadata("mag", EchoTime=0.002),
        "part-phase",
        "EchoTime",
        "magnitude has 0.002 s",
        65,
        3,
    ),
    Case(
        "missing B0",
        lambda s: s.metadata(MagneticFieldStrength=None),
        "MEGRE",
        "MagneticFieldStrength",
        "missing",
    ),
    Case(
        "B0 zero",
        lambda s: s.metadata(MagneticFieldStrength=0),
        "MEGRE",
        "MagneticFieldStrength",
        "0 is no field",
    ),
    Case(
        "B0 of 70 T",
        lambda s: s.metadata(MagneticFieldStrength=70),
        "MEGRE",
        "MagneticFieldStrength",
        "70 is no field",
    ),
    Case(
        "B0 in gauss",
        lambda s: s.metadata(MagneticFieldStrength=30000),
        "MEGRE",
        "MagneticFieldStrength",
        "30000 is no field",
    ),
    Case(
        "B0 as text",
        lambda s: s.metadata(MagneticFieldStrength="3T"),
        "MEGRE",
        "MagneticFieldStrength",
        "'3T' is no field",
    ),
    Case(
        "B0 of 400 digits",
        lambda s: s.metadata(MagneticFieldStrength=10**400),
        "MEGRE",
        "MagneticFieldStrength",
        "no field of a scanner",
    ),
    Case(
        "two fields",
        lambda s: s.metadata("mag", MagneticFieldStrength=7),
        "MEGRE",
        "MagneticFieldStrength",
        "7 T here but 3 T",
    ),
    Case(
        "phase said to be degrees",
        lambda s: s.metadata("phase", Units="degrees"),
        "part-phase",
        "Units",
        "'degrees' is no unit of phase",
    ),
    Case(
        "units as list",
        lambda s: s.metadata("phase", Units=["rad"]),
        "part-phase",
        "Units",
        "['rad'] is no unit",
    ),
    Case("sidecar cut off", lambda s: s.sidecar('{"EchoTime": 0.0'), SIDECAR, "JSON", "no valid JSON", 16),
    Case("sidecar empty", lambda s: s.sidecar(""), SIDECAR, "JSON", "no valid JSON", 16),
    Case("sidecar a list", lambda s: s.sidecar("[1, 2]"), SIDECAR, "JSON", "no JSON object", 16),
    Case("sidecar null", lambda s: s.sidecar("null"), SIDECAR, "JSON", "no JSON object", 16),
    Case(
        "sidecar nested",
        lambda s: s.sidecar('{"a":' * 10**5 + "1" + "}" * 10**5),
        SIDECAR,
        "JSON",
        "too deeply",
        16,
    ),
    Case(
        "sidecar of a long number",
        lambda s: s.sidecar('{"EchoTime": ' + "9" * 10**5 + "}"),
        SIDECAR,
        "JSON",
        "no valid JSON",
        16,
    ),
    Case(
        "sidecar with a key twice",
        lambda s: s.sidecar('{"EchoTime": 0.008, "EchoTime": 0.004}'),
        SIDECAR,
        "JSON",
        "'EchoTime' stands there twice",
        16,
    ),
    Case(
        "sidecar in Latin-1",
        lambda s: s.sidecar('{"Name": "größe"}'.encode("latin-1")),
        SIDECAR,
        "JSON",
        "no valid JSON",
        16,
    ),
    Case(
        "sidecar in UTF-16",
        lambda s: s.sidecar(json.dumps({"EchoTime": 0.008}).encode("utf-16")),
        SIDECAR,
        "JSON",
        "no valid JSON",
        16,
    ),
    Case(
        "sidecar with a BOM",
        lambda s: s.sidecar(b"\xef\xbb\xbf" + s.path(extension=".json").read_bytes()),
        SIDECAR,
        "JSON",
        "no valid JSON",
        16,
    ),
    Case(
        "sidecar of 20 MB",
        lambda s: s.sidecar('{"a": "' + "x" * 2 * 10**7 + '"}'),
        SIDECAR,
        "JSON",
        "bytes",
        16,
    ),
    Case(
        "sidecar with half a character",
        lambda s: s.sidecar('{"EchoTime": 0.008, "Manufacturer": "\\ud800"}'),
        SIDECAR,
        "JSON",
        "half of a character",
        16,
    ),
    Case(
        "intended for an object",
        lambda s: s.metadata(IntendedFor=[{"x": 1}]),
        "MEGRE.json",
        "IntendedFor",
        "[{'x': 1}] is no path",
        16,
    ),
    Case("intended for a number", lambda s: s.metadata(IntendedFor=5), "MEGRE", "IntendedFor", "5 is", 16),
    Case(
        "intended for null",
        lambda s: s.sidecar('{"EchoTime": 0.008, "IntendedFor": null}'),
        SIDECAR,
        "IntendedFor",
        "None is no path",
        16,
    ),
    Case(
        "sidecar with entities",
        lambda s: s.sidecar('{"echo": "7", "suffix": "T1w"}'),
        SIDECAR,
        "",
        "remove the field",
        16,
        2,
    ),
]


@pytest.mark.parametrize("case", [*IMAGES, *FILES, *METADATA], ids=lambda case: case.name)
def test_a_bad_subject_is_named_and_the_others_go_on(study, case, capsys):
    case.spoil(study)
    before, started = study.state(), time.monotonic()
    run = [
        str(study.root),
        str(study.folder / "out"),
        "participant",
        "-w",
        str(study.folder / "work"),
        *QUICK,
    ]
    assert main([*run, "--dry-run"]) == ExitCode.SUBJECT_FAILED
    both = capsys.readouterr().err
    assert main([*run, "--participant-label", "02"]) == case.code
    alone = capsys.readouterr().err
    assert "sub-01: 2 echo time(s)" in both
    for said in (both, alone):
        assert "Traceback" not in said
        line = next(line for line in said.splitlines() if "ERROR " in line and case.words in line)
        assert case.file in line
        assert f": {case.field}" in line
        assert "Fix: " in line
        assert len(line) < 500
        assert said.count("ERROR ") == case.n_messages
    assert study.state() == before
    assert not (study.folder / "out").exists()
    assert time.monotonic() - started < 30, "a bomb went off"
