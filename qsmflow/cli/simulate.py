"""``qsmflow-simulate``: digital subjects as a BIDS data set, with their truth."""

import argparse
import shlex
from collections.abc import Sequence

import torch
from rich.console import Console

from qsmflow.cli.arguments import Parser, absolute_path, number
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.guard import guarded
from qsmflow.cli.resources import available_cores, check_folder, resolve_gpu
from qsmflow.core.motion import ORDERS
from qsmflow.sim.dataset import write_dataset
from qsmflow.sim.lesions import LesionCounts
from qsmflow.sim.mgre import MOTION_MODELS, READOUT_SIGNS, MgreProtocol
from qsmflow.sim.phase_scaling import PHASE_SCALINGS
from qsmflow.sim.protocols import PROTOCOLS, protocol, with_slab
from qsmflow.sim.study import ACQUISITIONS, EXAMPLE_SCANS, MotionSettings, Scan, Study, cohort
from qsmflow.version import __version__

PROGRAM = "qsmflow-simulate"


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate a study.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process unless given.

    Returns
    -------
    int
        Exit code; see :class:`qsmflow.cli.exit_codes.ExitCode`.
    """
    return guarded(PROGRAM, _main, argv)


def _main(argv: Sequence[str], *, console: Console) -> ExitCode:
    arguments = build_parser().parse_args(argv)
    study = study_of(arguments)
    device = torch.device("cuda" if resolve_gpu(arguments.device) else "cpu")
    remedy = "--overwrite to replace files of the same name"
    check_folder(arguments.out_bids, may_hold_files=arguments.overwrite, remedy=remedy)
    torch.set_num_threads(arguments.threads)
    options = [text for text in argv if absolute_path(text) != arguments.out_bids]
    if "--threads" not in options:
        # Sums in another order differ in their last digits.
        options += ["--threads", str(arguments.threads)]
    made_by = f"Made anew, byte for byte, by\n\n    {shlex.join([PROGRAM, 'OUT_BIDS', *options])}\n"
    for done, scan in enumerate(
        write_dataset(arguments.out_bids, study, made_by=made_by, device=device), start=1
    ):
        console.print(f"{done}/{len(study.scans)} {scan.prefix}", highlight=False)
    print(arguments.out_bids)
    return ExitCode.DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line.

    Returns
    -------
    argparse.ArgumentParser
        Raises :class:`Stop` with the usage exit code on wrong arguments.

    Examples
    --------
    >>> build_parser().parse_args(["out", "--subjects", "3"]).subjects
    3
    """
    parser = Parser(
        prog=PROGRAM,
        description="Simulate multi-echo gradient-echo scans of digital heads as a BIDS data set.",
        allow_abbrev=False,
    )
    parser.add_argument("out_bids", type=absolute_path, help="folder of the data set; made if missing")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    for add_group in (_add_study, _add_scan, _add_anatomy, _add_motion, _add_run):
        add_group(parser)
    return parser


def _add_study(parser):
    group = parser.add_argument_group("study")
    group.add_argument(
        "--example",
        action="store_true",
        help="the data set of bids_examples: one subject scanned still and moving, one in two sessions",
    )
    # No defaults here: beside --example none of these may be given.
    group.add_argument("--subjects", type=number(int, 1), metavar="N", help="default: 1")
    group.add_argument("--first-subject", type=number(int, 1), metavar="N", help="its number; default: 1")
    group.add_argument("--sessions", type=number(int, 1), metavar="N", help="default: no ses- folders")
    group.add_argument(
        "--motion",
        choices=ACQUISITIONS,
        help="nobody moves (default), each subject is scanned still and moving, or all move",
    )


def _add_scan(parser):
    group = parser.add_argument_group("scan")
    positive = number(float, 0, exclusive=True)
    group.add_argument("--protocol", choices=PROTOCOLS, help="default: classic")
    group.add_argument(
        "--sloppy", action="store_true", help="few coarse voxels: for tests, not for looking at"
    )
    group.add_argument(
        "--echo-times",
        type=positive,
        nargs="+",
        metavar="S",
        help="seconds; those of the protocol unless given",
    )
    group.add_argument(
        "--field-strength", type=positive, metavar="T", help="that of the protocol unless given"
    )
    group.add_argument("--snr", type=positive, metavar="X", help="of the first echo in the brain")
    group.add_argument("--readout", choices=READOUT_SIGNS)
    group.add_argument("--acquisition-order", choices=ORDERS, help="of the lines of k-space")
    group.add_argument(
        "--acquired-share",
        type=positive,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="central share of k-space that is acquired; zeros fill the rest",
    )
    group.add_argument("--matrix", type=number(int, 1), nargs=3, metavar=("NX", "NY", "NZ"))
    group.add_argument("--voxel-size", type=positive, nargs=3, metavar=("X", "Y", "Z"), help="mm")
    group.add_argument(
        "--rotation",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="degrees by which the slab is turned about the axes of the scanner",
    )
    group.add_argument(
        "--phase-scaling", choices=PHASE_SCALINGS, default="unsigned", help="how phase is stored"
    )


def _add_anatomy(parser):
    group = parser.add_argument_group("anatomy")
    not_negative = number(int, 0)
    group.add_argument(
        "--spread",
        type=number(float, 0),
        default=1.0,
        metavar="X",
        help="of tissue and shape; 1: published ranges, more: beyond what is real, for training",
    )
    group.add_argument("--microbleeds", type=not_negative, default=0, metavar="N")
    group.add_argument("--calcifications", type=not_negative, default=0, metavar="N")
    group.add_argument("--iron-lesions", type=not_negative, default=0, metavar="N")


def _add_motion(parser):
    group = parser.add_argument_group("motion")
    usual, not_negative = MotionSettings(), number(float, 0)
    group.add_argument(
        "--motion-model",
        choices=MOTION_MODELS,
        default=usual.model,
        help="move the complex echoes (Eq. 5), or the head and make its field anew (Eq. 4)",
    )
    group.add_argument(
        "--motion-events", type=number(int, 1), nargs=2, default=usual.events, metavar=("MIN", "MAX")
    )
    group.add_argument("--max-translation", type=not_negative, default=usual.translation, metavar="MM")
    group.add_argument("--max-rotation", type=not_negative, default=usual.rotation, metavar="DEGREES")


def _add_run(parser):
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=number(int, 0), default=1, metavar="N", help="of all that is random")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    group.add_argument("--threads", type=number(int, 1), default=available_cores(), metavar="N")
    group.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")


def study_of(arguments: argparse.Namespace) -> Study:
    """The study that the arguments describe.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of :func:`build_parser`.

    Returns
    -------
    Study

    Raises
    ------
    Stop
        If they contradict each other.

    Examples
    --------
    >>> study = study_of(build_parser().parse_args(["out", "--subjects", "2", "--motion", "paired"]))
    >>> [scan.prefix for scan in study.scans]
    ['sub-01_acq-still', 'sub-01_acq-motion', 'sub-02_acq-still', 'sub-02_acq-motion']
    """
    fewest, most = arguments.motion_events
    if fewest > most:
        raise Stop(ExitCode.USAGE, f"--motion-events {fewest} {most}: the first must not be the larger one")
    return Study(
        protocol=_protocol(arguments),
        scans=_scans(arguments),
        seed=arguments.seed,
        spread=arguments.spread,
        lesions=LesionCounts(
            microbleeds=arguments.microbleeds,
            calcifications=arguments.calcifications,
            iron_lesions=arguments.iron_lesions,
        ),
        motion=MotionSettings(
            events=(fewest, most),
            translation=arguments.max_translation,
            rotation=arguments.max_rotation,
            model=arguments.motion_model,
        ),
        phase_scaling=arguments.phase_scaling,
    )


def _protocol(arguments: argparse.Namespace) -> MgreProtocol:
    def given(*names: str) -> dict:
        values = {name: getattr(arguments, name) for name in names}
        return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}

    default = "example" if arguments.example else "classic"
    settings = given("echo_times", "field_strength", "snr", "readout", "acquired_share", "acquisition_order")
    try:
        chosen = protocol(arguments.protocol or default, sloppy=arguments.sloppy, **settings)
    except ValueError as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    return with_slab(chosen, shape=arguments.matrix, **given("voxel_size", "rotation"))


def _scans(arguments: argparse.Namespace) -> tuple[Scan, ...]:
    names = ("subjects", "first_subject", "sessions", "motion")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not arguments.example:
        return cohort(**given)
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise Stop(ExitCode.USAGE, f"--example says who is scanned; leave out {flags}")
    return EXAMPLE_SCANS
