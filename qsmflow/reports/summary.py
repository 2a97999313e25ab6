"""Tables and hints of one series: what was scanned, what was done, how far to trust it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from markupsafe import Markup

from qsmflow.reports.consensus import reporting_list
from qsmflow.reports.html import format_value, humanise, table
from qsmflow.reports.motion import motion_table


@dataclass(frozen=True)
class Fact:
    """How one fact of the acquisition is written.

    Attributes
    ----------
    label : str
        Its name in the table.
    unit : str
        Unit as shown.
    scale : float
        Factor from the stored to the shown unit.
    separator : str
        Stands between the entries of a list.
    """

    label: str
    unit: str = ""
    scale: float = 1.0
    separator: str = ", "


ACQUISITION: Mapping[str, Fact] = MappingProxyType(
    {
        "MagneticFieldStrength": Fact("Field strength", "T"),
        "EchoTimes": Fact("Echo times", "ms", 1e3),
        "RepetitionTime": Fact("Repetition time", "ms", 1e3),
        "FlipAngle": Fact("Flip angle", "degrees"),
        "MatrixSize": Fact("Matrix", separator=" × "),
        "VoxelSize": Fact("Voxel size", "mm", separator=" × "),
        "Orientation": Fact("Voxel axes"),
        "B0Direction": Fact("B0 in voxel axes"),
        "B0Angle": Fact("Tilt of the slices to B0", "degrees"),
        "PhaseRange": Fact("Phase range detected"),
        "PhaseSign": Fact("Phase sign"),
        "Bipolar": Fact("Bipolar readout"),
        "Manufacturer": Fact("Manufacturer"),
        "ManufacturersModelName": Fact("Scanner"),
        "SoftwareVersions": Fact("Scanner software"),
        "ReceiveCoilName": Fact("Receive coil"),
        "PulseSequenceType": Fact("Sequence"),
        "MRAcquisitionType": Fact("Acquisition type"),
        "PixelBandwidth": Fact("Pixel bandwidth", "Hz"),
        "SourceFiles": Fact("Files", separator="\n"),
    }
)
#: What the first screen says of the acquisition and of what was done with it.
GLANCE = ("EchoTimes", "MagneticFieldStrength", "VoxelSize", "B0Angle", "PhaseSign")
CHOSEN = ("Background field removal", "Dipole inversion", "Referencing", "Motion correction")


def trust_hints(records: Sequence[Mapping], warnings: Sequence[str] = ()) -> tuple[str, ...]:
    """Reasons to look twice: warnings of the stages and solvers that did not reach their tolerance.

    Parameters
    ----------
    records : sequence of mapping
        Stages in the order they ran, each as ``StageRecord.to_dict()``.
    warnings : sequence of str
        Further ones, of the pictures for example.

    Returns
    -------
    tuple of str
        Plain text, without repetition; empty where nothing was noticed.

    Examples
    --------
    >>> trust_hints([{"stage": "PDF", "converged": False, "n_iterations": 100, "residual": 0.25}])
    ('PDF: stopped after 100 steps before it reached its tolerance (residual 0.25)',)
    """
    hints = []
    for record in records:
        hints += [f"{record['stage']}: {warning}" for warning in record.get("warnings") or ()]
        if record.get("converged") is False:
            hints.append(
                f"{record['stage']}: stopped after {record.get('n_iterations')} steps before it reached its "
                f"tolerance (residual {format_value(record.get('residual'))})"
            )
    return tuple(dict.fromkeys([*hints, *warnings]))


def summary(acquisition: Mapping, records: Sequence[Mapping], warnings: Sequence[str] = ()) -> Markup:
    """What was done at a glance, and the hints of :func:`trust_hints`.

    Parameters
    ----------
    acquisition : mapping
        Facts of the series; see :data:`ACQUISITION` for the names that are known.
    records : sequence of mapping
        Stages in the order they ran, each as ``StageRecord.to_dict()``.
    warnings : sequence of str
        Further reasons to look twice.

    Returns
    -------
    Markup
        HTML fragment.

    Examples
    --------
    >>> "Nothing unusual" in summary({}, [{"stage": "PDF", "algorithm": "Projection"}])
    True
    """
    hints = trust_hints(records, warnings)
    done = {record["stage"]: record["algorithm"] for record in records}
    facts = {
        ACQUISITION[key].label: _fact(key, acquisition[key])
        for key in GLANCE
        if acquisition.get(key) is not None
    } | {stage: done[stage] for stage in CHOSEN if stage in done}
    return Markup(
        '<div class="first">\n<div><h4>Whether to trust it</h4>\n{hints}</div>\n<div><h4>What was done</h4>\n'
        '<dl class="glance">\n{facts}\n</dl>\n'
        '<details class="plain print"><summary>Every step ({count})</summary>\n'
        '<ol class="chain">\n{steps}\n</ol></details></div>\n</div>'
    ).format(
        facts=_join("<div><dt>{}</dt><dd>{}</dd></div>", facts.items()),
        count=len(records),
        steps=_join(
            "<li><strong>{}</strong> {}</li>", ((record["stage"], record["algorithm"]) for record in records)
        ),
        hints=_hint_box(hints),
    )


def acquisition_table(acquisition: Mapping, records: Sequence[Mapping] = ()) -> Markup:
    """Every fact of the acquisition; names that are not known are shown in words.

    Parameters
    ----------
    acquisition : mapping
        Facts of the series, stored in SI units where :data:`ACQUISITION` gives a scale.
    records : sequence of mapping
        Not needed here; every fragment is called alike.

    Returns
    -------
    Markup
        HTML fragment.

    Examples
    --------
    >>> "4, 8 ms" in acquisition_table({"EchoTimes": [0.004, 0.008]})
    True
    """
    known = [key for key in ACQUISITION if key in acquisition]
    other = [key for key in acquisition if key not in ACQUISITION]
    rows = [(ACQUISITION[key].label, _fact(key, acquisition[key])) for key in known]
    rows += [(humanise(key).capitalize(), format_value(acquisition[key])) for key in other]
    return table(("Parameter", "Value"), rows, caption="Acquisition and what was detected in it")


def convergence_table(acquisition: Mapping, records: Sequence[Mapping]) -> Markup:
    """How each solver ended.

    Parameters
    ----------
    acquisition : mapping
        Not needed here; every fragment is called alike.
    records : sequence of mapping
        Stages in the order they ran, each as ``StageRecord.to_dict()``.

    Returns
    -------
    Markup
        HTML fragment.

    Examples
    --------
    >>> record = {"stage": "PDF", "algorithm": "Projection", "n_iterations": 12, "converged": True}
    >>> "<td data-label=\\"Steps\\">12</td>" in convergence_table({}, [record])
    True
    """
    rows = [
        (
            record["stage"],
            "–" if record.get("n_iterations") is None else str(record["n_iterations"]),
            _ended(record.get("converged")),
            "–" if record.get("residual") is None else format_value(float(record["residual"])),
            format_value(record.get("figures") or {}) or "–",
        )
        for record in records
    ]
    header = ("Stage", "Steps", "Reached its tolerance", "Residual", "Measured")
    return table(header, rows, caption="How the solvers ended")


FRAGMENTS: Mapping[str, Callable[..., Markup]] = MappingProxyType(
    {
        "summary": summary,
        "acquisition": acquisition_table,
        "convergence": convergence_table,
        "motion": motion_table,
        "consensus": reporting_list,
    }
)


def _fact(key: str, value) -> str:
    """A known fact with its unit."""
    fact = ACQUISITION[key]
    if value is None:
        return format_value(value)
    entries = value if isinstance(value, list | tuple) else [value]
    scaled = [fact.scale * entry if fact.scale != 1 else entry for entry in entries]
    return f"{fact.separator.join(map(format_value, scaled))} {fact.unit}".strip()


def _ended(converged: bool | None) -> Markup:
    """Yes, no, or a dash for a stage without iterations; never by colour alone."""
    words = {True: ("good", "✓ yes"), False: ("bad", "✗ no"), None: ("none", "–")}
    return Markup('<span class="{}">{}</span>').format(*words[converged])


def _join(pattern: str, rows: Iterable[tuple]) -> Markup:
    """Rows put into a pattern of HTML, one a line."""
    return Markup("\n").join(Markup(pattern).format(*row) for row in rows)


def _hint_box(hints: Sequence[str]) -> Markup:
    """What speaks against trusting a map; never a verdict, for a good map is more than a quiet run."""
    if not hints:
        return Markup(
            '<div class="verdict good" role="status"><strong>Nothing unusual was noticed.</strong> '
            "The solvers reached their tolerances and no stage gave a warning. That is a hint, no verdict: "
            "look at the maps all the same.</div>"
        )
    count = "1 warning" if len(hints) == 1 else f"{len(hints)} warnings"
    return Markup(
        '<div class="verdict bad" role="status"><strong>Look twice: {}.</strong>\n<ul>\n{}\n</ul>'
        "These are hints and no verdict.</div>"
    ).format(count, _join("<li>{}</li>", ((hint,) for hint in hints)))
