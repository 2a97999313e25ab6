"""From arguments and a configuration file to frozen settings."""

import argparse
import json
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from qsmflow.bids.names import ACQUISITION_ENTITIES, RAW_DATASET, is_label
from qsmflow.cli.arguments import Parser, absolute_path, memory, number
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.resources import available_cores, available_memory
from qsmflow.version import __version__
from qsmflow.workflows.settings import Settings

_DATASET_NAME = re.compile(r"[\w.-]*\w")


def _label(prefix: str) -> Callable:
    """Converter for a BIDS label with or without its prefix."""

    def convert(text: str) -> str:
        label = text.removeprefix(f"{prefix}-")
        if not is_label(label):
            raise argparse.ArgumentTypeError(f"'{text}' is no BIDS label (letters and digits only)")
        return label

    return convert


def _named_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise argparse.ArgumentTypeError(f"'{text}' must be NAME=PATH")
    if name == RAW_DATASET or not _DATASET_NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"'{name}' cannot name a data set; take letters and digits, but not '{RAW_DATASET}', the input"
        )
    return name, absolute_path(path)


def _labels(text: str) -> dict[str, str]:
    """Labels by entity, written ``entity=label`` or as a JSON object."""
    if text.lstrip().startswith("{"):
        try:
            labels = json.loads(text)
        except (RecursionError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"'{text[:80]}' is no valid JSON ({error})") from None
    else:
        entity, separator, label = text.partition("=")
        labels = {entity: label} if separator else {}
    unknown = [entity for entity in labels if entity not in ACQUISITION_ENTITIES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"'{unknown[0]}' is none of the entities {', '.join(ACQUISITION_ENTITIES)}"
        )
    if not labels or not all(is_label(str(label)) for label in labels.values()):
        raise argparse.ArgumentTypeError(f"'{text}' must be ENTITY=LABEL, such as acquisition=still")
    return {entity: str(label) for entity, label in labels.items()}


class _Merge(argparse.Action):
    """Joins the mappings that an argument's values stand for."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, {key: value for each in values for key, value in each.items()})


def _model(text: str) -> str:
    """A shipped model's name as it is, a folder as a path that stays right wherever the work is done."""
    return str(absolute_path(text)) if Path(text).name != text else text


def build_parser() -> argparse.ArgumentParser:
    """The command line; no flag has a default here, so that only what was given is known.

    Returns
    -------
    argparse.ArgumentParser
        Raises :class:`Stop` with the usage exit code on wrong arguments.

    Examples
    --------
    >>> build_parser().parse_args(["in", "out", "participant", "--inversion", "tkd"]).inversion
    'tkd'
    """
    parser = Parser(
        prog="qsmflow",
        description="Susceptibility maps and a report from multi-echo gradient-echo MRI in BIDS.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=absolute_path, help="raw BIDS data set; never written to")
    parser.add_argument("out_dir", type=absolute_path, help="derivative data set to write")
    parser.add_argument(
        "analysis_level",
        choices=["participant", "group"],
        help="participant: maps and a report of each; group: what was measured in all of them",
    )
    parser.add_argument("--version", action="version", version=f"qsmflow {__version__}")
    for add_group in (_add_input, _add_stages, _add_resources, _add_run):
        add_group(parser)
    return parser


def _add_input(parser):
    group = parser.add_argument_group("input")
    group.add_argument("--participant-label", nargs="+", type=_label("sub"), metavar="LABEL")
    group.add_argument("--session-label", "--session-id", nargs="+", type=_label("ses"), metavar="LABEL")
    group.add_argument(
        "--bids-filter-file",
        type=absolute_path,
        metavar="JSON",
        help='entities to select by, for example {"megre": {"acquisition": "still"}}',
    )
    group.add_argument(
        "--bids-database-dir", type=absolute_path, metavar="DIR", help="keep the index of the input"
    )
    group.add_argument("--skip-bids-validation", action=argparse.BooleanOptionalAction)
    group.add_argument(
        "--mask-file", type=absolute_path, metavar="NIFTI", help="brain mask for what is selected"
    )
    group.add_argument(
        "--reference-filter",
        nargs="+",
        type=_labels,
        action=_Merge,
        metavar="ENTITY=LABEL",
        help="the scan of each subject that the others are compared with, for example acquisition=still "
        'or {"acquisition": "still"}',
    )
    group.add_argument(
        "-d",
        "--derivatives",
        nargs="+",
        type=_named_path,
        metavar="NAME=PATH",
        help="derivative data sets whose desc-brain_mask is used for the same acquisition; that called atlas "
        "holds label images (*_dseg) in whose regions the maps are measured",
    )
    group.add_argument(
        "--field-strength",
        type=number(float, 0, exclusive=True, maximum=25),
        metavar="T",
        help="where the JSON lacks it",
    )


def _add_stages(parser):
    group = parser.add_argument_group("stages")
    positive, not_negative = number(float, 0, exclusive=True), number(float, 0)
    group.add_argument(
        "--phase-sign", choices=["auto", "+1", "-1"], help="+1: paramagnetic raises the phase (default: auto)"
    )
    group.add_argument(
        "--bipolar",
        action=argparse.BooleanOptionalAction,
        help="odd and even echoes were read in opposite directions",
    )
    group.add_argument("--background", choices=["pdf", "vsharp"], help="its removal (default: pdf)")
    group.add_argument("--inversion", choices=["medi", "tv", "tkd", "deepqsm"], help="default: medi")
    group.add_argument("--reference", choices=["csf", "brain", "none"], help="zero of χ (default: csf)")
    group.add_argument("--tkd-threshold", type=positive, metavar="X", help="default: 0.19")
    group.add_argument(
        "--tv-lambda",
        type=positive,
        metavar="X",
        help="weight of the total variation (default: from the noise)",
    )
    group.add_argument("--medi-preset", choices=["in-vivo", "simulation"], help="default: in-vivo")
    group.add_argument(
        "--medi-lambda", type=positive, metavar="X", help="of the regularisation (default: from the noise)"
    )
    group.add_argument(
        "--medi-nonlinear", action=argparse.BooleanOptionalAction, help="compare phasors, not fields"
    )
    group.add_argument("--medi-merit", action=argparse.BooleanOptionalAction, help="down-weight outliers")
    group.add_argument(
        "--medi-outside-sources",
        action=argparse.BooleanOptionalAction,
        help="let sources around the mask correct the background removal",
    )
    group.add_argument(
        "--medi-smv-radius", type=not_negative, metavar="MM", help="spherical mean value; 0: off"
    )
    group.add_argument(
        "--medi-csf-lambda", type=not_negative, metavar="X", help="uniform CSF (MEDI+0); 0: off"
    )
    group.add_argument(
        "--deepqsm-model",
        type=_model,
        metavar="NAME|FOLDER",
        help="a shipped network or one of your own (default: deepqsm-head)",
    )
    group.add_argument(
        "--motion-correction",
        choices=["auto", "on", "off"],
        help="write a corrected map as well: where motion is severe, always, never (default: auto)",
    )
    group.add_argument(
        "--motion-models",
        nargs=2,
        type=_model,
        metavar=("UNET", "PRENET"),
        help="shipped networks or folders of your own (default: motion-unet motion-prenet)",
    )
    group.add_argument(
        "--sloppy", action=argparse.BooleanOptionalAction, help="few iterations, for trying out"
    )
    group.add_argument("--random-seed", type=number(int, 0), metavar="N", help="default: 0")


def _add_resources(parser):
    group = parser.add_argument_group("resources")
    group.add_argument("--nprocs", type=number(int, 1), metavar="N", help="processes at once")
    group.add_argument(
        "--omp-nthreads",
        type=number(int, 1),
        metavar="N",
        help="threads of one stage (default: what processes are left over for)",
    )
    group.add_argument("--mem", dest="mem_gb", type=memory, metavar="SIZE", help="1.5G, 8g, 4000 (MB)")
    group.add_argument(
        "--low-mem", action=argparse.BooleanOptionalAction, help="fit the echoes slab by slab from disk"
    )
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], help="default: auto")
    group.add_argument(
        "--use-plugin", type=absolute_path, metavar="YAML", help="Nipype plugin and its arguments"
    )


def _add_run(parser):
    group = parser.add_argument_group("run")
    group.add_argument("-w", "--work-dir", type=absolute_path, metavar="DIR", help="default: ./work")
    group.add_argument("--clean-workdir", action=argparse.BooleanOptionalAction, help="empty it first")
    group.add_argument(
        "--config-file", type=absolute_path, metavar="TOML", help="settings; flags win over them"
    )
    group.add_argument("--stop-on-first-crash", action=argparse.BooleanOptionalAction)
    group.add_argument("--write-graph", action=argparse.BooleanOptionalAction, help="draw the workflow")
    group.add_argument("--reports-only", action=argparse.BooleanOptionalAction)
    group.add_argument("--boilerplate-only", action=argparse.BooleanOptionalAction)
    group.add_argument(
        "--dry-run", action=argparse.BooleanOptionalAction, help="check and tell, write nothing"
    )
    group.add_argument("--notrack", action="store_true", help="accepted; nothing is ever tracked")
    group.add_argument("-v", "--verbose", action="count", help="say more; twice: everything")


def config_arguments(path: Path) -> list[str]:
    """Arguments that a TOML file stands for; its keys are the names of the flags.

    Parameters
    ----------
    path : Path
        TOML file; booleans, numbers, texts, lists, and tables for ``derivatives`` and
        ``reference-filter``.

    Returns
    -------
    list of str
        To be put before the arguments of the command line, which therefore win.

    Raises
    ------
    Stop
        If the file is missing or is not TOML.
    """
    if not path.is_file():
        raise Stop(ExitCode.NO_INPUT, f"--config-file {path}: no such file")
    try:
        entries = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Stop(ExitCode.NO_INPUT, f"--config-file {path}: {error.strerror}") from error
    except (RecursionError, ValueError) as error:
        raise Stop(ExitCode.USAGE, f"--config-file {path} is not TOML: {error}") from error
    return [argument for key, value in entries.items() for argument in _arguments(key, value, path=path)]


def _arguments(key: str, value, *, path: Path) -> list[str]:
    """Arguments that one entry of a configuration file stands for."""
    flag = f"--{key.replace('_', '-')}"
    if flag in ("--help", "--version", "--config-file"):
        raise Stop(ExitCode.USAGE, f"--config-file {path}: '{key}' is no setting; remove it")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if any(isinstance(each, dict | list) for each in inner):
        raise Stop(ExitCode.USAGE, f"--config-file {path}: '{key}' holds lists in lists; make it flat")
    if flag == "--verbose" and isinstance(value, int):
        return ["-v"] * min(value, 2)
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, dict):
        return [flag, *(f"{name}={item}" for name, item in value.items())]
    if isinstance(value, list):
        return [flag, *map(str, value)] if value else []
    return [f"{flag}={value}"]


def parse_settings(argv: Sequence[str]) -> Settings:
    """Settings of a run, from the configuration file and the arguments that override it.

    Parameters
    ----------
    argv : sequence of str
        Arguments without the program's name.

    Returns
    -------
    Settings
        Complete: what was not given has its default, resources come from the machine.

    Raises
    ------
    Stop
        On wrong arguments (64) or a missing configuration file (66).

    Examples
    --------
    >>> settings = parse_settings(["in", "out", "participant", "--mem", "1.5G", "--nprocs", "2"])
    >>> settings.mem_gb, settings.nprocs, settings.inversion
    (1.5, 2, 'medi')
    """
    parser = build_parser()
    given = vars(parser.parse_args(argv))
    config_file = given.pop("config_file", None)
    if config_file is not None:
        positional = [str(given[name]) for name in ("bids_dir", "out_dir", "analysis_level")]
        base = vars(parser.parse_args([*positional, *config_arguments(config_file)]))
        given = base | given
    for ignored in ("notrack", "config_file"):
        given.pop(ignored, None)
    for name in ("participant_label", "session_label"):
        given[name] = tuple(given.get(name, ()))
    if "motion_models" in given:
        given["motion_models"] = tuple(given["motion_models"])
    for name in ("derivatives", "reference_filter"):
        given[name] = MappingProxyType(dict(given.get(name, ())))
    defaults = Settings(
        bids_dir=given["bids_dir"],
        out_dir=given["out_dir"],
        work_dir=Path("work").absolute(),
        nprocs=available_cores(),
        omp_nthreads=None,
        mem_gb=0.9 * available_memory(),
    )
    return replace(defaults, **given)
