"""``qsmflow-train``: networks trained on simulated heads or on a user's own maps, and the data for it."""

import argparse
import re
import shlex
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from qsmflow.cli.arguments import Parser, absolute_path, number
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.guard import guarded
from qsmflow.cli.resources import available_cores, check_folder, resolve_gpu
from qsmflow.nets.bundle import ARCHITECTURES, Bundle, load_bundle
from qsmflow.sim.mgre import MOTION_MODELS
from qsmflow.train.heads import write_heads
from qsmflow.train.lessons import read_origin
from qsmflow.train.pairs import PairSettings, write_pairs
from qsmflow.train.settings import FRESH, PRESETS, TrainingSettings
from qsmflow.train.volumes import UnusableData
from qsmflow.version import __version__

if TYPE_CHECKING:
    from qsmflow.train.fit import RunSettings
    from qsmflow.train.lessons import Lesson

PROGRAM = "qsmflow-train"
#: Word that stands for random shapes among the data sets.
SHAPES = "shapes"
#: Processes that make batches beside a GPU; a CPU makes them in between its steps.
GPU_WORKERS = 8
_PRECISIONS = {"auto": "auto", "bf16": "bfloat16", "float32": "float32"}
_SUMMARIES = {
    "deepqsm": "Makes a susceptibility map of a local field: U-Nets take turns with a fit to the field.",
    "unet": "Removes artefacts of motion from susceptibility maps, by a U-Net on the volume.",
    "prenet": "Removes what artefacts of motion a U-Net has left in susceptibility maps, slice by slice.",
}
_SIMULATED_LIMIT = "Trained on simulations only."
_MEASURED_LIMIT = "Trained on the data sets named here, and not tested beyond them."


def main(argv: Sequence[str] | None = None) -> int:
    """Train a network, or make data for it.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process unless given.

    Returns
    -------
    int
        Exit code; see :class:`qsmflow.cli.exit_codes.ExitCode`. 128 and the number of the signal that ended
        a training, if one did.
    """
    return guarded(PROGRAM, _main, argv)


def _main(argv: Sequence[str], *, console: Console) -> int:
    arguments = build_parser().parse_args(argv)
    arguments.device = "cuda" if resolve_gpu(arguments.device) else "cpu"
    if arguments.task in _MAKERS:
        return _make(arguments, console=console)
    return _train(arguments, command=shlex.join([PROGRAM, *argv]), console=console)


def build_parser() -> argparse.ArgumentParser:
    """The command line.

    Returns
    -------
    argparse.ArgumentParser
        Raises :class:`Stop` with the usage exit code on wrong arguments.

    Examples
    --------
    >>> arguments = build_parser().parse_args(["unet", "--data", "pairs", "--out", "model"])
    >>> arguments.task, arguments.still
    ('unet', 'acq-still')
    """
    parser = Parser(
        prog=PROGRAM,
        description="Train the networks of qsmflow, on simulated heads or on your own maps.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    for task, text in (
        ("deepqsm", "dipole inversion: local field to susceptibility"),
        ("unet", "motion correction, first network: volumes"),
        ("prenet", "motion correction, second network: slices that the first has corrected"),
    ):
        _add_training(tasks.add_parser(task, help=text, description=text, allow_abbrev=False), task)
    for task, text in (
        ("heads", "make susceptibility maps of digital heads, for deepqsm"),
        ("pairs", "make maps of digital heads that lie still and that move, for unet and prenet"),
    ):
        _add_making(tasks.add_parser(task, help=text, description=text, allow_abbrev=False), task)
    return parser


def _add_training(parser, task: str) -> None:
    data = parser.add_argument_group("data")
    what = f"BIDS derivatives, or the word {SHAPES}" if task == "deepqsm" else "BIDS derivatives"
    data.add_argument("--data", type=_data, nargs="+", required=True, metavar="DIR", help=what)
    data.add_argument("--out", type=absolute_path, required=True, metavar="DIR", help="names the model, too")
    if task == "deepqsm":
        fields = "made of the maps (default), or those that the data sets have as desc-local_fieldmap"
        data.add_argument("--fields", choices=["made", "measured"], default="made", help=fields)
    else:
        for flag, entity in (("--still", "acq-still"), ("--moved", "acq-motion")):
            text = f"entities of these maps; default: {entity}"
            data.add_argument(flag, default=entity, metavar="ENTITIES", help=text)
    if task == "prenet":
        data.add_argument(
            "--unet", required=True, metavar="MODEL", help="name or folder of the first network"
        )
    group = parser.add_argument_group("training")
    group.add_argument("--preset", choices=PRESETS[task], default="default")
    group.add_argument("--init", metavar="MODEL", help="name or folder of a network to start from")
    group.add_argument("--max-time", type=duration, metavar="TIME", help="minutes or HH:MM:SS")
    group.add_argument("--max-steps", type=number(int, 1), metavar="N")
    group.add_argument("--batch-size", type=number(int, 1), metavar="N")
    group.add_argument("--patch-size", type=number(int, 1), nargs=3, metavar=("X", "Y", "Z"), help="voxels")
    group.add_argument("--learning-rate", type=number(float, 0, exclusive=True), metavar="X")
    group.add_argument("--seed", type=number(int, 0), default=1, metavar="N", help="default: 1")
    group.add_argument("--resume", action="store_true", help="go on where the training in --out stopped")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--precision", choices=_PRECISIONS, default="auto")
    machine.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    machine.add_argument("--devices", type=number(int, 1), default=1, metavar="N", help="GPUs; default: 1")
    machine.add_argument("--compile", action="store_true", help="takes a minute; pays in long trainings")
    text = f"processes that make batches; default: none on a CPU, up to {GPU_WORKERS} beside a GPU"
    machine.add_argument("--workers", type=number(int, 0), metavar="N", help=text)


def _add_making(parser, task: str) -> None:
    parser.add_argument("--out", type=absolute_path, required=True, metavar="DIR")
    parser.add_argument("--subjects", type=number(int, 1), required=True, metavar="N")
    parser.add_argument("--first-subject", type=number(int, 1), default=1, metavar="N", help="default: 1")
    parser.add_argument("--seed", type=number(int, 0), default=1, metavar="N", help="default: 1")
    text = "of anatomy and tissue: 1 for what is published, more for beyond"
    parser.add_argument("--spread", type=number(float, 0), metavar="X", help=text)
    if task == "pairs":
        usual = PairSettings()
        text = f"scans in motion of each subject; default: {usual.motions}"
        parser.add_argument("--motions", type=number(int, 1), default=usual.motions, metavar="N", help=text)
        parser.add_argument("--motion-model", choices=MOTION_MODELS, default=usual.motion_model)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    text = "subjects at a time; default: 1"
    parser.add_argument("--workers", type=number(int, 1), default=1, metavar="N", help=text)


def duration(text: str) -> float:
    """Seconds of a time given as minutes or HH:MM:SS, for ``type=`` of an argument.

    Examples
    --------
    >>> duration("90"), duration("01:30:00")
    (5400.0, 5400.0)
    """
    clock = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", text)
    if clock:
        seconds = 3600.0 * int(clock[1]) + 60 * int(clock[2]) + int(clock[3])
    else:
        seconds = 60 * number(float, 0)(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time to train in; write minutes or HH:MM:SS")
    return seconds


def _data(text: str) -> Path | str:
    return text if text == SHAPES else absolute_path(text)


def training_settings(arguments: argparse.Namespace) -> TrainingSettings:
    """The preset with what the arguments change in it.

    Examples
    --------
    >>> line = ["unet", "--data", "a", "--out", "b", "--preset", "paper", "--batch-size", "4"]
    >>> settings = training_settings(build_parser().parse_args(line))
    >>> settings.batch_size, settings.learning_rate
    (4, 5e-05)
    """
    given = {name: getattr(arguments, name) for name in ("batch_size", "learning_rate", "patch_size")}
    changed = {name: value for name, value in given.items() if value is not None}
    if "patch_size" in changed:
        changed["patch_size"] = tuple(changed["patch_size"])
    return replace(PRESETS[arguments.task][arguments.preset], **changed)


def _train(arguments: argparse.Namespace, *, command: str, console: Console) -> int:
    # Lightning takes seconds to import, which help and bad arguments need not wait for.
    from qsmflow.train import fit

    _check_data(arguments)
    may_hold_files = arguments.resume or not fit.is_first_process()
    check_folder(arguments.out, may_hold_files=may_hold_files, remedy="--resume to go on in it")
    settings, run = training_settings(arguments), _run_settings(arguments)
    torch.manual_seed(arguments.seed)
    try:
        init = _model(arguments.init, of=arguments.task, flag="--init") if arguments.init else None
        settings_class, network_class = ARCHITECTURES[arguments.task]
        fresh = settings_class(**FRESH.get((arguments.task, arguments.preset), {}))
        network = init.network.train() if init else network_class(fresh)
        settings = _fitted_to(network, settings, arguments)
        lesson = _lesson(arguments, network=network, settings=settings)
        fitted = fit.fit(
            network,
            lesson,
            architecture=arguments.task,
            out=arguments.out,
            settings=settings,
            run=run,
            console=console,
        )
    except FileNotFoundError as error:
        raise Stop(ExitCode.NO_INPUT, str(error)) from error
    except fit.Ended as error:
        console.print(f"{PROGRAM}: {error}", highlight=False)
        return 128 + signal.SIGTERM
    except (UnusableData, fit.Diverged) as error:
        raise Stop(ExitCode.BAD_DATA, str(error)) from error
    if fitted.is_first:
        origin = read_origin([one for one in arguments.data if one != SHAPES])
        recipe = {"data sets": list(origin.names), **({"started from": init.card.name} if init else {})}
        made = fit.export_bundle(
            arguments.out,
            fitted,
            architecture=arguments.task,
            summary=_SUMMARIES[arguments.task],
            lesson=replace(lesson, recipe={**recipe, **lesson.recipe}),
            settings=settings,
            seeds={"training": arguments.seed},
            command=command,
            limits=(_SIMULATED_LIMIT if origin.simulated else _MEASURED_LIMIT,),
        )
        print(made)
    if fitted.stopped_by is not None:
        console.print(f"{PROGRAM}: stopped at step {fitted.steps}; --resume goes on", highlight=False)
        return 128 + fitted.stopped_by
    return ExitCode.DONE


def _check_data(arguments: argparse.Namespace) -> None:
    """Stop if data are named that are not there or not for this."""
    folders = [one for one in arguments.data if one != SHAPES]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise Stop(ExitCode.NO_INPUT, f"--data {', '.join(missing)}: no such folder")
    if SHAPES not in arguments.data:
        return
    if arguments.task != "deepqsm":
        raise Stop(ExitCode.USAGE, f"--data {SHAPES} is for deepqsm; a folder of that name is ./{SHAPES}")
    if arguments.fields == "measured":
        raise Stop(ExitCode.USAGE, f"--fields measured: {SHAPES} have none; leave out --data {SHAPES}")


def _run_settings(arguments: argparse.Namespace) -> "RunSettings":
    from qsmflow.train.fit import RunSettings

    steps = arguments.max_steps
    if steps is None and arguments.max_time is None:
        steps = PRESETS[arguments.task][arguments.preset].steps
    workers = arguments.workers
    if workers is None:
        workers = min(GPU_WORKERS, available_cores() - 1) if arguments.device == "cuda" else 0
    return RunSettings(
        steps=steps,
        seconds=arguments.max_time,
        device=arguments.device,
        devices=arguments.devices,
        precision=_PRECISIONS[arguments.precision],
        compiled=arguments.compile,
        workers=workers,
        resume=arguments.resume,
    )


def _model(name_or_folder: str, *, of: str, flag: str, device: str = "cpu") -> Bundle:
    try:
        bundle = load_bundle(name_or_folder, device=device)
    except (FileNotFoundError, ValueError) as error:
        raise Stop(ExitCode.NO_INPUT, f"{flag}: {error}") from error
    if bundle.card.architecture != of:
        raise Stop(
            ExitCode.USAGE,
            f"{flag} {name_or_folder} is a {bundle.card.architecture}; name a model that is a {of}",
        )
    return bundle


def _fitted_to(
    network: torch.nn.Module, settings: TrainingSettings, arguments: argparse.Namespace
) -> TrainingSettings:
    """Settings that suit the network and the fields, or a stop that says why they do not."""
    if arguments.task == "deepqsm" and arguments.fields == "measured":
        if arguments.batch_size or arguments.patch_size:
            raise Stop(
                ExitCode.USAGE,
                "--fields measured takes whole brains; leave out --batch-size and --patch-size",
            )
        return replace(settings, batch_size=1)
    stride = getattr(network.settings, "stride", 1)
    patch_size = settings.patch_size or ()
    if any(size % stride for size in patch_size):
        raise Stop(ExitCode.USAGE, f"--patch-size: {patch_size} must be multiples of {stride}")
    if arguments.task == "prenet" and patch_size[2] != 1:
        raise Stop(ExitCode.USAGE, f"--patch-size: {patch_size} must end in 1, as prenet sees slices")
    return settings


def _lesson(
    arguments: argparse.Namespace, *, network: torch.nn.Module, settings: TrainingSettings
) -> "Lesson":
    from qsmflow.train import inversion_data, motion_data

    folders = [one for one in arguments.data if one != SHAPES]
    common = {"settings": settings, "seed": arguments.seed}
    if arguments.task == "deepqsm":
        maps = inversion_data.find_susceptibilities(folders) if folders else []
        if arguments.fields == "measured":
            return inversion_data.measured_lesson(maps, stride=network.settings.stride, **common)
        return inversion_data.field_lesson(maps, shapes=SHAPES in arguments.data, **common)
    files = motion_data.find_pairs(folders, still=arguments.still, moved=arguments.moved)
    if arguments.task == "unet":
        return motion_data.motion_lesson(files, **common)
    unet = _model(arguments.unet, of="unet", flag="--unet", device=arguments.device)
    cache = arguments.out / "cache"
    correct = motion_data.CorrectedPairs(unet, precision=_PRECISIONS[arguments.precision], cache=cache)
    return motion_data.motion_lesson(files, correct=correct, **common)


def _make(arguments: argparse.Namespace, *, console: Console) -> ExitCode:
    """Make data subject by subject; those that are there are left alone."""
    options = {"seed": arguments.seed, "device": torch.device(arguments.device)}
    if arguments.task == "pairs":
        settings = PairSettings(motions=arguments.motions, motion_model=arguments.motion_model)
        options["settings"] = (
            settings if arguments.spread is None else replace(settings, spread=arguments.spread)
        )
    elif arguments.spread is not None:
        options["spread"] = arguments.spread
    subjects = range(arguments.first_subject, arguments.first_subject + arguments.subjects)
    threads = max(1, available_cores() // arguments.workers)
    failed = 0
    # New processes, as CUDA does not survive a fork.
    pool = ProcessPoolExecutor(arguments.workers, get_context("spawn"), torch.set_num_threads, (threads,))
    with pool:
        waiting = {
            pool.submit(_make_one, arguments.task, arguments.out, subject, options): subject
            for subject in subjects
        }
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                error = future.exception()
                outcome = f"FAILED: {type(error).__name__}: {error}" if error else "done"
                failed += error is not None
                console.print(f"{done}/{len(waiting)} subject {waiting[future]}: {outcome}", highlight=False)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise Stop(ExitCode.SUBJECT_FAILED, "interrupted; the same command goes on") from None
    print(arguments.out)
    return ExitCode.SUBJECT_FAILED if failed else ExitCode.DONE


_MAKERS = {"heads": write_heads, "pairs": write_pairs}


def _make_one(task: str, out: Path, subject: int, options: dict) -> None:
    # An interrupt is for the process that hands out the work.
    with suppress(KeyboardInterrupt):
        for _ in _MAKERS[task](out, subjects=range(subject, subject + 1), **options):
            pass
