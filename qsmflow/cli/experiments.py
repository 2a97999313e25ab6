"""``qsmflow-experiments``: the papers' experiments run again, as tables and figures beside their numbers."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from qsmflow.cli.arguments import Parser, absolute_path, memory, number
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.guard import guarded
from qsmflow.cli.resources import available_cores, resolve_gpu
from qsmflow.core.dipole import b0_direction
from qsmflow.core.inversion.medi import SIMULATION
from qsmflow.core.units import hertz_per_ppm
from qsmflow.nets.bundle import Bundle, load_bundle
from qsmflow.sim.mgre import MOTION_MODELS
from qsmflow.sim.random_shapes import ShapeSettings
from qsmflow.train.experiments import deepqsm, motion
from qsmflow.train.experiments.images import direction_as_read, tensor_of
from qsmflow.train.experiments.inversions import LocalField, Method, medi, network, refitted, tkd
from qsmflow.train.experiments.published import DEEPQSM_TKD_THRESHOLD
from qsmflow.train.experiments.results import Result, write_result
from qsmflow.train.experiments.scans import SubjectScans, read_scans, simulate_separate_pairs
from qsmflow.train.experiments.tables import rendered
from qsmflow.train.motion_data import find_pairs
from qsmflow.train.pairs import PairSettings, draw_protocol, write_pairs
from qsmflow.train.splits import split_subjects
from qsmflow.train.volumes import UnusableData, read_on_grid, read_volume
from qsmflow.version import __version__

PROGRAM = "qsmflow-experiments"
DEEPQSM_MODELS = ("deepqsm-shapes", "deepqsm-head")
MOTION_NETWORKS = ("motion-unet", "motion-prenet")
#: Of still and of moved scans.
ENTITIES = ("acq-still", "acq-motion")
#: Name of the method that the others are measured by.
TKD = f"TKD {DEEPQSM_TKD_THRESHOLD:g}"
#: Simulated subjects and their scans in motion.
SUBJECTS, MOTIONS = 4, 3
#: Goes into every seed, so that nothing is drawn again that networks were trained on.
_HELD_OUT = 20190329
#: Columns of the tables where there is no terminal.
_WIDTH = 170


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments of a paper.

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
    check_arguments(arguments)
    arguments.device = torch.device("cuda" if resolve_gpu(arguments.device) else "cpu")
    torch.set_num_threads(arguments.threads)
    screen = Console(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        for result in arguments.experiments(arguments, console):
            for table in result.tables:
                screen.print(rendered(table))
                screen.print()
            write_result(result, arguments.out)
    except UnusableData as error:
        raise Stop(ExitCode.BAD_DATA, str(error)) from error
    except FileNotFoundError as error:
        raise Stop(ExitCode.NO_INPUT, str(error)) from error
    print(arguments.out)
    return ExitCode.DONE


def build_parser() -> argparse.ArgumentParser:
    """The command line.

    Returns
    -------
    argparse.ArgumentParser
        Raises :class:`Stop` with the usage exit code on wrong arguments.

    Examples
    --------
    >>> build_parser().parse_args(["deepqsm", "--out", "tables", "--only", "1"]).only
    [1]
    """
    parser = Parser(
        prog=PROGRAM,
        description="Run the experiments of the papers again and set the results beside their numbers.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    papers = parser.add_subparsers(required=True, metavar="{deepqsm,motion}", parser_class=Parser)
    for name, add_own, experiments, about in (
        ("deepqsm", _add_deepqsm, _deepqsm, "unseen shapes, a brain's field, a measured field, lesions"),
        ("motion", _add_motion, _motion, "simulated pairs, and pairs with the head in different places"),
    ):
        paper = papers.add_parser(name, help=about, description=f"Experiments: {about}.", allow_abbrev=False)
        paper.set_defaults(experiments=experiments, paper=name)
        _add_run(paper)
        add_own(paper)
    return parser


def _add_run(parser):
    group = parser.add_argument_group("run")
    group.add_argument("--out", type=absolute_path, required=True, help="folder of TSV and PNG files")
    group.add_argument("--seed", type=number(int, 0), default=1, metavar="N", help="of all that is random")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    group.add_argument("--threads", type=number(int, 1), default=available_cores(), metavar="N")
    group.add_argument("--mem", type=memory, metavar="AMOUNT", help="for a network, such as 4G")


def _add_deepqsm(parser):
    positive = number(float, 0, exclusive=True)
    group = parser.add_argument_group("experiments")
    group.add_argument("--only", type=int, nargs="+", choices=(1, 2, 3, 4), default=(1, 2, 3, 4))
    group.add_argument(
        "--deepqsm-model", nargs="+", default=DEEPQSM_MODELS, metavar="NAME_OR_FOLDER", help="networks"
    )
    group.add_argument("--samples", type=number(int, 1), default=20, metavar="N", help="of experiment 1")
    group.add_argument("--sloppy", action="store_true", help="few coarse voxels: for tests")
    group = parser.add_argument_group("own images (NIfTI)")
    group.add_argument(
        "--chi", type=absolute_path, metavar="FILE", help="susceptibility for experiment 2, ppm"
    )
    group.add_argument("--field", type=absolute_path, metavar="FILE", help="local field for experiment 3")
    group.add_argument("--truth", type=absolute_path, metavar="FILE", help="its susceptibility, ppm")
    group.add_argument("--mask", type=absolute_path, metavar="FILE", help="brain of --chi or --field")
    group.add_argument(
        "--magnitude", type=absolute_path, metavar="FILE", help="where MEDI finds edges; none without it"
    )
    group.add_argument("--field-units", choices=("ppm", "Hz"), default="ppm", help="of --field")
    group.add_argument("--field-strength", type=positive, metavar="T", help="needed for a field in Hz")
    group.add_argument(
        "--b0-direction",
        type=float,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="in voxel axes of the files; that of their affine unless given",
    )


def _add_motion(parser):
    group = parser.add_argument_group("experiments")
    group.add_argument(
        "--only", type=int, nargs="+", choices=(6, 7), default=(6, 7), help="6 makes 3 as well"
    )
    group.add_argument(
        "--motion-models",
        nargs=2,
        default=MOTION_NETWORKS,
        metavar=("UNET", "PRENET"),
        help="names or folders of the networks",
    )
    group = parser.add_argument_group("pairs")
    group.add_argument(
        "--pairs-data", type=absolute_path, metavar="DIR", help="made by qsmflow-train pairs, for figure 6"
    )
    group.add_argument(
        "--all-subjects",
        action="store_true",
        help="of --pairs-data, not only those that qsmflow-train keeps for the test",
    )
    group.add_argument(
        "--pairs", type=absolute_path, metavar="DIR", help="derivatives of qsmflow, for figure 7"
    )
    group.add_argument("--still", default=ENTITIES[0], metavar="ENTITIES", help="of still scans")
    group.add_argument("--moved", default=ENTITIES[1], metavar="ENTITIES", help="of scans in motion")
    group = parser.add_argument_group("simulated pairs, where none are given")
    group.add_argument("--subjects", type=number(int, 1), metavar="N", help=f"default: {SUBJECTS}")
    group.add_argument("--motions", type=number(int, 1), metavar="M", help=f"a subject; default: {MOTIONS}")
    group.add_argument(
        "--motion-model",
        choices=MOTION_MODELS,
        help="move the complex echoes (default), or the head and make its field anew",
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse arguments that miss each other or would change nothing.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of :func:`build_parser`.

    Raises
    ------
    Stop
        All that is wrong, at once.

    Examples
    --------
    >>> check_arguments(build_parser().parse_args(["deepqsm", "--out", "x", "--chi", "chi.nii"]))
    Traceback (most recent call last):
    qsmflow.cli.exit_codes.Stop: --chi needs --mask
    """
    rules = _deepqsm_rules(arguments) if arguments.paper == "deepqsm" else _motion_rules(arguments)
    problems = [message for message, is_broken in rules.items() if is_broken]
    if problems:
        raise Stop(ExitCode.USAGE, "; ".join(problems))


def _deepqsm_rules(given: argparse.Namespace) -> dict[str, bool]:
    """Message and whether it applies."""
    own = given.chi or given.field
    return {
        "--chi needs --mask": bool(given.chi and not given.mask),
        "--field needs --truth and --mask": bool(given.field and not (given.truth and given.mask)),
        "--truth needs --field": bool(given.truth and not given.field),
        "--mask, --magnitude and --b0-direction need --chi or --field": bool(
            (given.mask or given.magnitude or given.b0_direction) and not own
        ),
        "--field-units Hz needs --field and --field-strength": given.field_units == "Hz"
        and not (given.field and given.field_strength),
        "--field-strength is for --field-units Hz": bool(given.field_strength) and given.field_units != "Hz",
        "--b0-direction needs a length": given.b0_direction is not None and not any(given.b0_direction),
        "--chi is for experiment 2": bool(given.chi) and 2 not in given.only,
        "--field is for experiment 3": bool(given.field) and 3 not in given.only,
    }


def _motion_rules(given: argparse.Namespace) -> dict[str, bool]:
    folders = {6: given.pairs_data, 7: given.pairs}
    simulates = any(folders[figure] is None for figure in given.only)
    wants = any((given.subjects, given.motions, given.motion_model))
    return {
        "--all-subjects needs --pairs-data": given.all_subjects and not given.pairs_data,
        "--pairs-data is for figure 6": bool(given.pairs_data) and 6 not in given.only,
        "--still and --moved are for --pairs-data or --pairs": (given.still, given.moved) != ENTITIES
        and not any(folders.values()),
        "--pairs is for figure 7": bool(given.pairs) and 7 not in given.only,
        "nothing is simulated: leave out --subjects, --motions and --motion-model": wants and not simulates,
    }


def _deepqsm(arguments: argparse.Namespace, console: Console) -> Iterator[Result]:
    """The experiments of DeepQSM, one after the other."""
    networks = _networks(arguments)
    experiments: dict[int, tuple[str, Callable[[], Result]]] = {
        1: ("unseen shapes", lambda: _shapes(arguments, networks)),
        2: ("the field of a brain's susceptibility", lambda: _forward(arguments, networks)),
        3: ("a measured field", lambda: _measured(arguments, networks)),
        4: ("a subject with lesions", lambda: _lesions(arguments, networks)),
    }
    for which in sorted(set(arguments.only)):
        title, run = experiments[which]
        if which == 3 and not arguments.field:
            console.print("experiment 3 is left out: give --field, --truth and --mask", highlight=False)
            continue
        console.print(f"experiment {which}: {title}", highlight=False)
        yield run()


def _shapes(arguments: argparse.Namespace, networks: Mapping[str, Method]) -> Result:
    return deepqsm.unseen_shapes(
        {**networks, TKD: tkd()},
        samples=arguments.samples,
        seed=held_out_seed(arguments.seed, 1),
        settings=ShapeSettings(shape=(32, 32, 32)) if arguments.sloppy else None,
        device=arguments.device,
    )


def _forward(arguments: argparse.Namespace, networks: Mapping[str, Method]) -> Result:
    if arguments.chi:
        brain = _own_brain(arguments, arguments.chi)
    else:
        scan = deepqsm.brain_protocol(sloppy=arguments.sloppy)
        brain = deepqsm.digital_brain(scan, seed=held_out_seed(arguments.seed, 2), device=arguments.device)
    edges = "" if brain.magnitude is not None else " without edges (TV)"
    refits = {f"{name}, refitted to the exact field": refitted(method) for name, method in networks.items()}
    methods = {**networks, **refits, TKD: tkd(), f"MEDI{edges}, simulation preset": medi(SIMULATION)}
    return deepqsm.forward_brain(brain, methods, against=TKD)


def _measured(arguments: argparse.Namespace, networks: Mapping[str, Method]) -> Result:
    brain = _own_brain(arguments, arguments.truth)
    field = tensor_of(read_on_grid(arguments.field, like=read_volume(arguments.truth))).to(arguments.device)
    scale = hertz_per_ppm(arguments.field_strength) if arguments.field_units == "Hz" else 1.0
    problem = LocalField(
        torch.where(brain.mask, field / scale, 0),
        brain.mask,
        brain.voxel_size,
        brain.b0_direction,
        brain.magnitude,
    )
    return deepqsm.measured_field(problem, brain.susceptibility, {**networks, TKD: tkd()}, against=TKD)


def _lesions(arguments: argparse.Namespace, networks: Mapping[str, Method]) -> Result:
    return deepqsm.lesions(
        deepqsm.brain_protocol(sloppy=arguments.sloppy),
        {**networks, TKD: tkd()},
        against=TKD,
        seed=held_out_seed(arguments.seed, 4),
        device=arguments.device,
    )


def _own_brain(arguments: argparse.Namespace, chi: Path) -> deepqsm.Brain:
    """Susceptibility, mask and magnitude of the user's files."""
    truth = read_volume(chi)
    mask = tensor_of(read_on_grid(arguments.mask, like=truth)) > 0
    if not mask.any():
        raise UnusableData(f"{arguments.mask}: the mask is empty")
    direction = b0_direction(truth.affine)
    if arguments.b0_direction:
        direction = direction_as_read(chi, arguments.b0_direction)
    device, magnitude = arguments.device, None
    if arguments.magnitude:
        magnitude = tensor_of(read_on_grid(arguments.magnitude, like=truth)).to(device)
    return deepqsm.Brain(tensor_of(truth).to(device), mask.to(device), truth.voxel_size, direction, magnitude)


def _motion(arguments: argparse.Namespace, console: Console) -> Iterator[Result]:
    """The experiments of the motion paper, one after the other."""
    bundles = [_bundle(name, device=arguments.device) for name in arguments.motion_models]
    corrections = motion.correctors(*bundles, memory_gb=arguments.mem)
    if 6 in arguments.only:
        yield motion.simulated_pairs(_told(_pairs_on_one_grid(arguments), 6, console), corrections)
    if 7 in arguments.only:
        yield motion.separate_pairs(_told(_pairs_apart(arguments), 7, console), corrections)


def _pairs_on_one_grid(arguments: argparse.Namespace) -> Iterator[SubjectScans]:
    if arguments.pairs_data:
        found = find_pairs([arguments.pairs_data], still=arguments.still, moved=arguments.moved)
        if not arguments.all_subjects:
            test = split_subjects(files.subject for files in found).test
            found = [files for files in found if files.subject in test]
        if not found:
            raise UnusableData(
                f"{arguments.pairs_data}: none of its subjects is one that qsmflow-train keeps for the test; "
                "use --all-subjects if no network was trained on it"
            )
        yield from (read_scans(files, device=arguments.device) for files in found)
        return
    settings = PairSettings(
        motions=arguments.motions or MOTIONS, motion_model=arguments.motion_model or "signal"
    )
    # A name of its own for all that the pairs depend on, since what is there is not made again.
    name = f"pairs_{settings.motion_model}_motions-{settings.motions}_seed-{arguments.seed}"
    labels = write_pairs(
        arguments.out / name,
        subjects=range(1, (arguments.subjects or SUBJECTS) + 1),
        settings=settings,
        seed=held_out_seed(arguments.seed, 6),
        device=arguments.device,
    )
    for label in labels:
        [files] = [files for files in find_pairs([arguments.out / name]) if files.subject == label]
        yield read_scans(files, device=arguments.device)


def _pairs_apart(arguments: argparse.Namespace) -> Iterator[SubjectScans]:
    if arguments.pairs:
        for files in find_pairs([arguments.pairs], still=arguments.still, moved=arguments.moved):
            yield read_scans(files, magnitudes=True, device=arguments.device)
        return
    for subject in range(1, (arguments.subjects or SUBJECTS) + 1):
        seed = held_out_seed(arguments.seed, 7, subject)
        yield simulate_separate_pairs(
            draw_protocol(PairSettings(), np.random.default_rng(seed)),
            seed=seed,
            motions=arguments.motions or MOTIONS,
            motion_model=arguments.motion_model or "signal",
            device=arguments.device,
        )


def _told(subjects: Iterable[SubjectScans], figure: int, console: Console) -> Iterator[SubjectScans]:
    """The same subjects, each announced."""
    for subject in subjects:
        console.print(
            f"figure {figure}: {subject.label}, {len(subject.moved)} scans in motion", highlight=False
        )
        yield subject


def held_out_seed(*numbers: int) -> int:
    """A seed that training does not use, another one for other numbers.

    Examples
    --------
    >>> held_out_seed(1, 2) == held_out_seed(1, 2), held_out_seed(1, 2) == held_out_seed(1, 3)
    (True, False)
    """
    return int(np.random.SeedSequence((_HELD_OUT, *numbers)).generate_state(1)[0]) >> 1


def _networks(arguments: argparse.Namespace) -> dict[str, Method]:
    """Networks by the name on their card."""
    methods = {}
    for given in arguments.deepqsm_model:
        bundle = _bundle(given, device=arguments.device)
        if bundle.card.name in methods:
            raise Stop(ExitCode.USAGE, f"--deepqsm-model: two models are called {bundle.card.name}")
        methods[bundle.card.name] = network(bundle, memory_gb=arguments.mem)
    return methods


def _bundle(name_or_folder: str, *, device: torch.device) -> Bundle:
    try:
        return load_bundle(name_or_folder, device=device)
    except ValueError as error:
        raise Stop(ExitCode.BAD_DATA, str(error)) from error
