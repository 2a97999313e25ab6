"""What a user has to know of a trained network, as JSON and as a page to read."""

import json
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_origin

from qsmflow.nets.deepqsm import DeepQSM, DeepQSMSettings
from qsmflow.nets.prenet import PReNet, PReNetSettings
from qsmflow.nets.unet import UNet, UNetSettings

#: Settings and network by the key that cards carry.
ARCHITECTURES = {
    "deepqsm": (DeepQSMSettings, DeepQSM),
    "unet": (UNetSettings, UNet),
    "prenet": (PReNetSettings, PReNet),
}
#: The only unit of the maps that go into networks and come out.
UNITS = "ppm"
#: Beyond any number in a card, steps and seeds included.
LARGEST = 2**63
#: Beyond any layer, channel or recursion of a network.
LARGEST_SETTING = 4096


@dataclass(frozen=True, kw_only=True)
class VoxelRange:
    """Voxels that a network has seen in training.

    Parameters
    ----------
    finest, coarsest : float
        Limits of each edge, mm.
    anisotropy : float
        Largest ratio of the longest edge to the shortest.

    Raises
    ------
    ValueError
        If the limits leave no voxel.

    Examples
    --------
    >>> VoxelRange(finest=0.8, coarsest=2.0, anisotropy=2.5).coarsest
    2.0
    """

    finest: float
    coarsest: float
    anisotropy: float

    def __post_init__(self):
        if not (0 < self.finest <= self.coarsest and self.anisotropy >= 1):
            raise ValueError(
                "voxel_range needs 0 < finest <= coarsest in mm and anisotropy >= 1, "
                f"got {self.finest}, {self.coarsest} and {self.anisotropy}"
            )

    def common(self, other: "VoxelRange") -> "VoxelRange":
        """What two networks have both seen; ValueError if nothing."""
        return VoxelRange(
            finest=max(self.finest, other.finest),
            coarsest=min(self.coarsest, other.coarsest),
            anisotropy=min(self.anisotropy, other.anisotropy),
        )


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """All that is known of a trained network beside its weights.

    Parameters
    ----------
    name : str
        Of the model.
    summary : str
        What it does, in a sentence.
    architecture : str
        A key of :data:`ARCHITECTURES`.
    settings : dict
        Fields of the architecture's settings; defaults stand in for those that are not there.
    voxel_range : VoxelRange
        Maps outside it are resampled before they are given to the network.
    data : dict
        Recipe of the training data: what was drawn, in which ranges, how many.
    seeds : dict
        Of everything random in data and training, by name.
    steps : int
        Optimiser steps.
    hours : float
        Of training.
    hardware : str
        On which it was trained.
    command : str
        That trains it again.
    scores : dict
        Test by test, names of scores with their values.
    limits : tuple of str
        What the model cannot do or was never tested on, a sentence each.
    curve : tuple of dict
        Losses on the way, each with its step.
    input_units, output_units : str
        ``"ppm"``.
    version, licence : str
        Of the weights.
    sha256 : str
        Of the file of the weights; filled in when it is written.

    Raises
    ------
    ValueError
        If there is no such architecture, its settings do not fit, or the units are not ppm.

    Examples
    --------
    >>> card = ModelCard(
    ...     name="small",
    ...     summary="Sharpens slices.",
    ...     architecture="prenet",
    ...     settings={"channels": 4},
    ...     voxel_range=VoxelRange(finest=1, coarsest=2, anisotropy=2),
    ...     data={"subjects": 3},
    ...     seeds={"training": 1},
    ...     steps=10,
    ...     hours=0.1,
    ...     hardware="two cores",
    ...     command="qsmflow-train prenet",
    ...     scores={"held out": {"RMSE (ppm)": 0.01}},
    ...     limits=("Trained on simulations only.",),
    ... )
    >>> ModelCard.from_json(card.to_json()) == card
    True
    """

    name: str
    summary: str
    architecture: str
    settings: dict[str, Any]
    voxel_range: VoxelRange
    data: dict[str, Any]
    seeds: dict[str, int]
    steps: int
    hours: float
    hardware: str
    command: str
    scores: dict[str, dict[str, float]]
    limits: tuple[str, ...]
    curve: tuple[dict[str, float], ...] = field(default=())
    input_units: str = UNITS
    output_units: str = UNITS
    version: str = "1"
    licence: str = "Apache-2.0"
    sha256: str = ""

    def __post_init__(self):
        if self.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"architecture {self.architecture!r} is unknown; use one of {known}")
        _checked(self.settings, of=ARCHITECTURES[self.architecture][0], field="settings", complete=False)
        sizes = [each for value in _with_tuples(self.settings).values() for each in _each(value)]
        if any(each > LARGEST_SETTING for each in sizes):
            raise ValueError(f"settings: {max(sizes):.3g} is larger than any network; use less")
        for name in ("input_units", "output_units"):
            if getattr(self, name) != UNITS:
                raise ValueError(f"{name} are {getattr(self, name)!r}; networks work on {UNITS}")

    @classmethod
    def untrained(cls, architecture: str, settings: Mapping[str, Any] | None = None, **known) -> "ModelCard":
        """Card of a network with fresh weights; what is ``known`` of it replaces what is told of those."""
        nothing = {
            "name": f"untrained-{architecture}",
            "summary": "Untrained.",
            "voxel_range": VoxelRange(finest=0.5, coarsest=10.0, anisotropy=5.0),
            "data": {},
            "seeds": {},
            "steps": 0,
            "hours": 0.0,
            "hardware": "none",
            "command": "none",
            "scores": {},
            "limits": (),
        }
        return cls(architecture=architecture, settings=dict(settings or {}), **nothing | known)

    def build(self):
        """The network with fresh weights."""
        settings_class, network_class = ARCHITECTURES[self.architecture]
        return network_class(settings_class(**_with_tuples(self.settings)))

    def to_json(self) -> str:
        """The card as JSON; NaN and infinity, which it has not, raise ValueError."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """The card of a JSON text; ValueError names what is unknown, missing or wrong in it."""
        values = _checked(json.loads(text), of=cls, field="the card")
        values["voxel_range"] = VoxelRange(
            **_checked(values["voxel_range"], of=VoxelRange, field="voxel_range")
        )
        return cls(**{name: tuple(v) if name in ("limits", "curve") else v for name, v in values.items()})

    def to_markdown(self) -> str:
        """The card as a page."""
        voxels = self.voxel_range
        parameters = sum(parameter.numel() for parameter in self.build().parameters())
        facts = {
            "Version": self.version,
            "Licence": self.licence,
            "Architecture": f"{self.architecture}, {parameters} parameters",
            "Settings": _inline(self.settings) or "defaults",
            "Input and output": f"{self.input_units} to {self.output_units}",
            "Voxels": f"edges of {voxels.finest:g} to {voxels.coarsest:g} mm, the longest at most "
            f"{voxels.anisotropy:g} times the shortest; others are resampled",
            "Trained": f"{self.steps} steps in {self.hours:g} hours on {self.hardware}",
            "Seeds": _inline(self.seeds),
            "SHA-256 of the weights": f"`{self.sha256}`",
        }
        sections = [
            f"# {self.name}\n\n{self.summary}",
            _table(("", ""), facts.items()),
            "## Limits\n\n" + "\n".join(f"- {limit}" for limit in self.limits),
            "## Scores\n\n"
            + _table(
                ("Test", "Score", "Value"),
                [
                    (test, score, f"{value:.4g}")
                    for test, scores in self.scores.items()
                    for score, value in scores.items()
                ],
            ),
            "## Data\n\n" + _table(("What", "Value"), ((k, _inline(v)) for k, v in self.data.items())),
            f"## Train it again\n\n```\n{self.command}\n```",
        ]
        if self.curve:
            rows = [[f"{value:.6g}" for value in point.values()] for point in self.curve]
            sections.append("## Curve\n\n" + _table(tuple(self.curve[0]), rows))
        return "\n\n".join(sections) + "\n"


def _checked(values, *, of: type, field: str, complete: bool = True) -> dict[str, Any]:
    """Values by the names of a dataclass's fields, none unknown and, unless told otherwise, none missing."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{field} must be an object of JSON, got {values!r}")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(of)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"{field} has unknown fields {', '.join(unknown)}; known are {', '.join(known)}")
    missing = [name for name, needed in known.items() if complete and needed and name not in values]
    if missing:
        raise ValueError(f"{field} lacks {', '.join(missing)}")
    for f in fields(of):
        if f.name in values and not _is_a(values[f.name], f.type):
            kind = getattr(f.type, "__name__", f.type)
            raise ValueError(f"{field}: {f.name} must be of type {kind}, got {reprlib.repr(values[f.name])}")
    return dict(values)


def _is_a(value, kind) -> bool:
    """Whether a value of JSON can stand for a field of a dataclass; numbers must be within reason."""
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if outer is tuple:
        return isinstance(value, list | tuple) and all(_is_a(each, inner[0]) for each in value)
    if outer in (int, float):
        allowed = int if outer is int else int | float
        return isinstance(value, allowed) and not isinstance(value, bool) and abs(value) < LARGEST
    if outer is dict or is_dataclass(outer):
        return isinstance(value, Mapping | outer)
    return isinstance(value, outer)


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with tuples for what JSON has as lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _each(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _inline(value) -> str:
    """A value of JSON as a phrase."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_inline(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_inline(inner) for inner in value)
    return str(value)


def _table(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
