"""One page a data set: how every measure is spread over the subjects, and who lies apart.

Plots are SVG whose positions are per cent of the width, so that they stretch with the page and dots do not.
"""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from qsmflow.bids.files import write_text
from qsmflow.bids.findings import Finding
from qsmflow.bids.tables import SERIES
from qsmflow.reports import regions
from qsmflow.reports.html import humanise, table
from qsmflow.version import __version__

TEMPLATES = Path(__file__).parents[1] / "data" / "report"
PAGE = "group.html"
#: Columns that tell what a row is of, by table; every other column holds what was measured.
LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "iqms": tuple(SERIES),
        "motion": (*SERIES, "reference", "map"),
        "rois": (*SERIES, "atlas", "index", "name", "map"),
    }
)
#: Column of the region table that is shown.
REGION_VALUE = "mean"

#: Tukey's fences lie so many interquartile ranges outside the quartiles.
FENCE = 1.5
#: Dots that are links of their own; of what comes after them, only those outside the fences are.
LINKED_DOTS = 25_000

#: Scores of both maps of a scan, and whether higher ones are better.
PAIRED = MappingProxyType(
    {"ssim": True, "psnr": True, "rmse": False, "nrmse": False, "hfen": False, "xsim": True}
)
#: Means over uncorrected and over corrected maps in the motion paper: its simulated test set (Figure 6) and
#: its four volunteers (Figure 7). The experiments have them too, and reports may not import those.
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "simulated": {"ssim": (0.9006, 0.9227), "psnr": (35.37, 37.45), "rmse": (0.0180, 0.0141)},
        "volunteers": {"ssim": (0.8167, 0.8450), "psnr": (34.26, 36.39), "rmse": (0.0195, 0.0152)},
    }
)

STRIP_HEIGHT, PAIR_HEIGHT = 34.0, 270.0  # px
UNLABELLED = "without label"


@dataclass(frozen=True)
class GroupTable:
    """Rows of all subjects.

    Attributes
    ----------
    rows : pandas.DataFrame
        Text as it stands in the subjects' tables; what is missing is missing.
    columns : mapping
        What each column means: ``Description``, ``Units`` and whatever else the sidecars tell.
    """

    rows: pd.DataFrame
    columns: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What the page tells of a subject beside its measures.

    Attributes
    ----------
    name : str
        With ``sub-``.
    has_report : bool
        Whether there is a page to link to.
    failed_steps : int or None
        Crash files of its latest run; None where no run left a log.
    """

    name: str
    has_report: bool = False
    failed_steps: int | None = None


@dataclass(frozen=True)
class Distribution:
    """Summary of a sample.

    Attributes
    ----------
    n : int
        Values.
    mean, sd : float
        The standard deviation is that of a sample, NaN for one value.
    quartiles : tuple of float
        First, second (the median) and third, interpolated linearly.
    fences : tuple of float
        Beyond these a value lies apart.
    whiskers : tuple of float
        Lowest and highest value within the fences.
    """

    n: int
    mean: float
    sd: float
    quartiles: tuple[float, float, float]
    fences: tuple[float, float]
    whiskers: tuple[float, float]


def describe(values: ArrayLike) -> Distribution:
    """Quartiles, Tukey's fences and moments of a sample.

    A value lies apart if it is more than 1.5 interquartile ranges below the first or above the third
    quartile.

    Parameters
    ----------
    values : (n,) array of float
        At least one, all finite.

    Returns
    -------
    Distribution
        In the unit of the values.

    References
    ----------
    Tukey 1977, Exploratory Data Analysis, Addison-Wesley, section 2D.

    Examples
    --------
    >>> found = describe([1, 2, 3, 4, 100])
    >>> found.quartiles, found.fences, found.whiskers
    ((2.0, 3.0, 4.0), (-1.0, 7.0), (1.0, 4.0))
    """
    values = np.asarray(values, float)
    first, median, third = np.percentile(values, (25, 50, 75)).tolist()
    reach = FENCE * (third - first)
    fences = (first - reach, third + reach)
    within = values[(values >= fences[0]) & (values <= fences[1])]
    return Distribution(
        n=len(values),
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        quartiles=(first, median, third),
        fences=fences,
        whiskers=(float(within.min()), float(within.max())),
    )


@dataclass(frozen=True)
class Scale:
    """Round numbers along an axis, the first and the last of which are its ends.

    Attributes
    ----------
    ticks : tuple of float
        Increasing.

    Examples
    --------
    >>> scale = Scale.around([0.3, 3.6])
    >>> scale.labels, float(scale.fraction(1.0))
    (('0', '1', '2', '3', '4'), 0.25)
    >>> Scale.around([1.2e6, 2e6]).labels
    ('1.2M', '1.4M', '1.6M', '1.8M', '2M')
    """

    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: ArrayLike) -> "Scale":
        """The scale that holds all values, with some room where they are all one."""
        low, high = float(np.min(values)), float(np.max(values))
        room = 0.0 if high > low else abs(low) / 10 or 1.0
        locator = MaxNLocator(nbins=5, steps=(1, 2, 2.5, 5, 10))
        return cls(tuple(locator.tick_values(low - room, high + room).tolist()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Text of every tick, thousands as k and millions as M where they are many."""
        step, largest = self.ticks[1] - self.ticks[0], max(map(abs, self.ticks))
        unit, prefix = (1e6, "M") if largest >= 1e6 else (1e3, "k") if largest >= 1e4 else (1, "")
        # Ticks are sums of steps: 0.30000000000000004 is 0.3. Adding zero makes -0.0 positive.
        return tuple(f"{round(tick / step, 6) * step / unit + 0.0:.6g}{prefix}" for tick in self.ticks)

    def fraction(self, values: ArrayLike) -> NDArray[np.float64]:
        """Position on the axis, from 0 to 1."""
        return (np.asarray(values, float) - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])

    def percent(self, values: ArrayLike) -> NDArray[np.float64]:
        """Position in per cent of a plot's width, with room for dots at both ends."""
        return 2 + 96 * self.fraction(values)


@dataclass(frozen=True)
class Lane:
    """Values that belong together: one row of a panel.

    Attributes
    ----------
    label : str
        Heads the row.
    acquisition : str
        Which the page can be narrowed down to.
    rows : pandas.DataFrame
        ``participant_id``, ``series`` and ``value``, one row a dot.
    """

    label: str
    acquisition: str
    rows: pd.DataFrame


@dataclass
class Links:
    """Where dots lead to, how many may still do so, and who lay apart how often.

    Attributes
    ----------
    reports : mapping
        Page of each participant that has one.
    left : int
        Dots that may still be links of their own.
    apart : collections.Counter
        Values outside the fences by participant.
    """

    reports: Mapping[str, str]
    left: int = LINKED_DOTS
    apart: Counter = field(default_factory=Counter)

    def anchor(self, participant: str) -> str:
        """Start of a dot's link; it is no stop of the tabulator, for which names are listed elsewhere."""
        page = self.reports.get(participant)
        return f'<a href="{escape(page)}" tabindex="-1">' if page else "<a>"

    def name(self, participant: str, text: str) -> Markup:
        """Text that leads to the participant's report where there is one."""
        page = self.reports.get(participant)
        return Markup('<a href="{}">{}</a>').format(page, text) if page else escape(text)

    def take(self, count: int) -> bool:
        """Whether so many further dots may be links."""
        granted = count <= self.left
        self.left -= count if granted else 0
        return granted


def build_group_page(
    out_dir: Path,
    *,
    subjects: Sequence[Subject],
    tables: Mapping[str, GroupTable],
    findings: Sequence[Finding] = (),
    command_line: str = "not stated",
) -> Path:
    """Write group.html, which needs no other file and no network.

    Parameters
    ----------
    out_dir : Path
        Derivative data set.
    subjects : sequence of Subject
        All, those without measures as well.
    tables : mapping
        By the names of :data:`LABELS`; those without rows are left out.
    findings : sequence of Finding
        What could not be read.
    command_line : str
        What was typed.

    Returns
    -------
    Path
        The page.
    """
    links = Links({subject.name: quote(f"{subject.name}.html") for subject in subjects if subject.has_report})
    found = {
        name: GroupTable(each.rows.fillna({"acquisition": UNLABELLED}), each.columns)
        for name, each in tables.items()
    }
    # In the order of the page: dots are links until there are too many.
    iqms = measure_panels(found["iqms"], LABELS["iqms"], links=links) if "iqms" in found else []
    overview = _overview(subjects, found, apart=links.apart, links=links)
    pairs = score_pairs(found["motion"], links=links) if "motion" in found else []
    moved = _scan_panels(found["motion"], without=pairs, links=links) if "motion" in found else []
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = "".join((TEMPLATES / name).read_text("utf-8") for name in ("report.css", "group.css"))
    page = environment.get_template("group.html.j2").render(
        style=Markup(style),
        glance=_glance(subjects, found),
        acquisitions=_acquisitions(found),
        findings=findings,
        failed=[subject.name for subject in subjects if subject.failed_steps],
        overview=overview,
        iqms=iqms,
        pairs=pairs,
        means=_means_table(pairs),
        moved=moved,
        regions=region_panels(found["rois"], links=links) if "rois" in found else [],
        fence=FENCE,
        strip_height=STRIP_HEIGHT,
        pair_height=PAIR_HEIGHT,
        about={
            "Version": f"qsmflow {__version__}",
            "Command": command_line,
            "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        },
    )
    write_text(Path(out_dir) / PAGE, page)
    return Path(out_dir) / PAGE


def _acquisitions(tables: Mapping[str, GroupTable]) -> list[str]:
    return sorted({label for each in tables.values() for label in each.rows["acquisition"].unique()})


def _glance(subjects: Sequence[Subject], tables: Mapping[str, GroupTable]) -> dict[str, str]:
    """What the page is about, in four entries."""
    series = {name for each in tables.values() for name in each.rows["series"].unique()}
    return {
        "Participants": str(len(subjects)),
        "Series": str(len(series)),
        "Acquisitions": ", ".join(_acquisitions(tables)) or "none",
        "Latest run failed": str(sum(bool(subject.failed_steps) for subject in subjects)),
    }


def _overview(
    subjects: Sequence[Subject], tables: Mapping[str, GroupTable], *, apart: Counter, links: Links
) -> Markup:
    """Every subject with its report."""
    columns = ["participant_id", "series"]
    every = pd.concat([pd.DataFrame(columns=columns), *(each.rows[columns] for each in tables.values())])
    counts = every.drop_duplicates()["participant_id"].value_counts()
    rows = [
        (
            links.name(subject.name, subject.name),
            str(counts.get(subject.name, 0)),
            str(apart[subject.name]),
            _latest_run(subject),
        )
        for subject in subjects
    ]
    header = ("Participant", "Series", "Quality values outside the fences", "Latest run")
    return table(header, rows, caption="All participants, each with its report")


def _latest_run(subject: Subject) -> Markup:
    """How it ended; never by colour alone."""
    if subject.failed_steps is None:
        return Markup("no log")
    if subject.failed_steps == 0:
        return Markup('<span class="good">✓ done</span>')
    steps = "1 step" if subject.failed_steps == 1 else f"{subject.failed_steps} steps"
    return Markup('<span class="bad">✗ {} failed</span>').format(steps)


def _numbers(rows: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Columns that hold numbers, as numbers; what is missing or infinite is NaN."""
    numbers = rows.drop(columns=list(labels)).apply(pd.to_numeric, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers)).dropna(axis="columns", how="all")


def measure_panels(found: GroupTable, labels: Sequence[str], *, links: Links) -> list[dict]:
    """What the template shows of each measured column, with a lane for each acquisition.

    Parameters
    ----------
    found : GroupTable
        A missing acquisition has a name already.
    labels : sequence of str
        Columns that are no measures.
    links : Links
        Takes note of who lies apart.

    Returns
    -------
    list of dict
        In the order of the columns; those without any number are left out.
    """
    numbers = _numbers(found.rows, labels)
    panels = []
    for name in numbers:
        rows = found.rows[["participant_id", "series", "acquisition"]].assign(value=numbers[name])
        lanes = [Lane(which, which, chosen) for which, chosen in rows.groupby("acquisition")]
        panels.append(
            {
                "title": _heading(name, found.columns),
                "name": name,
                "first": "Acquisition",
                **_meaning(name, found.columns),
                **_panel(lanes, links=links),
            }
        )
    return panels


def _scan_panels(motion: GroupTable, *, without: Sequence[Mapping], links: Links) -> list[dict]:
    """Panels of the comparison's columns that are not shown in pairs, one dot a scan."""
    shown = {pair["name"] for pair in without}
    rows = motion.rows[motion.rows["map"] == "uncorrected"].drop(columns=list(shown))
    return measure_panels(GroupTable(rows, motion.columns), LABELS["motion"], links=links)


def region_panels(rois: GroupTable, *, links: Links) -> list[dict]:
    """What the template shows of each atlas and map: a lane for each region and acquisition.

    Parameters
    ----------
    rois : GroupTable
        A missing acquisition has a name already.
    links : Links
        Where dots lead to.

    Returns
    -------
    list of dict
        Regions are in the order of the atlas.
    """
    rows = rois.rows.assign(
        value=_numbers(rois.rows, LABELS["rois"]).get(REGION_VALUE, np.nan),
        index=pd.to_numeric(rois.rows["index"], errors="coerce"),
    )
    several = rows["acquisition"].nunique() > 1
    panels = []
    for (atlas, name), chosen in rows.dropna(subset="value").groupby(["atlas", "map"]):
        lanes = [
            Lane(f"{region}, {which}" if several else str(region), which, values)
            for (_, region, which), values in chosen.groupby(["index", "name", "acquisition"], dropna=False)
        ]
        unit = regions.UNITS.get(name, "")
        panels.append(
            {"title": f"{atlas}: {name}", "first": "Region", "unit": unit, **_panel(lanes, links=links)}
        )
    return panels


def _heading(name: str, columns: Mapping[str, Mapping]) -> str:
    """A measure's long name where its sidecar gives one, else its column's in words."""
    words = str(columns.get(name, {}).get("LongName") or humanise(name))
    return words.upper() if name in PAIRED else words[:1].upper() + words[1:]


def _meaning(name: str, columns: Mapping[str, Mapping]) -> dict[str, str]:
    """Unit and description of a column, empty where nobody wrote them; a pure number has no unit."""
    told = columns.get(name, {})
    unit = told.get("Units")
    return {
        "unit": "" if unit in (None, "1") else str(unit),
        "description": str(told.get("Description") or ""),
    }


def _panel(lanes: Sequence[Lane], *, links: Links) -> dict:
    """Lanes on one scale, with their summaries; those without a value are left out."""
    known = [lane for lane in lanes if lane.rows["value"].notna().any()]
    scale = Scale.around(np.concatenate([lane.rows["value"].dropna() for lane in known]))
    rows = [_summary_row(lane, scale=scale, links=links) for lane in known]
    return {"rows": rows, "ticks": list(zip(scale.percent(scale.ticks), scale.labels, strict=True))}


def _summary_row(lane: Lane, *, scale: Scale, links: Links) -> dict:
    """Numbers, dots and names of one lane."""
    rows = lane.rows.dropna(subset="value")
    missing = len(lane.rows) - len(rows)
    spread = describe(rows["value"])
    outside = ~rows["value"].between(*spread.fences)
    apart = rows[outside].sort_values("value")
    links.apart.update(apart["participant_id"])
    low, high, first, median, third = scale.percent([*spread.whiskers, *spread.quartiles])
    return {
        "label": lane.label,
        "acquisition": lane.acquisition,
        "n": f"{spread.n} ({missing} n/a)" if missing else str(spread.n),
        "median": _short(spread.quartiles[1]),
        "quartiles": f"{_short(spread.quartiles[0])} to {_short(spread.quartiles[2])}",
        "mean": _short(spread.mean),
        "sd": _short(spread.sd) if spread.n > 1 else "–",
        "apart": [
            (links.name(row.participant_id, row.series), _short(row.value, digits=4))
            for row in apart.itertuples()
        ],
        "plot": {"low": low, "high": high, "first": first, "median": median, "third": third},
        **_dots(rows, outside.to_numpy(), scale=scale, links=links),
    }


def _short(value: float, *, digits: int = 3) -> str:
    """A number as it is read: large ones in full, others with few digits.

    Examples
    --------
    >>> _short(1834567.0), _short(0.03456), _short(-12.0)
    ('1,834,567', '0.0346', '-12')
    """
    value += 0.0  # makes -0.0 positive
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def _jitter(series: str) -> float:
    """Number from −1 to 1, for one series the same in every plot and on every day."""
    return zlib.crc32(series.encode()) % 2001 / 1000 - 1


def _dots(rows: pd.DataFrame, outside: NDArray[np.bool_], *, scale: Scale, links: Links) -> dict[str, Markup]:
    """SVG of a lane's dots, those outside the fences as rings, and the path of dots that are no links."""
    linked = links.take(len(rows))
    dots, path = [], []
    values, across = rows["value"].to_numpy(), scale.percent(rows["value"])
    names = zip(rows["participant_id"], rows["series"], strict=True)
    for (participant, series), value, x, ring in zip(names, values, across, outside, strict=True):
        y = STRIP_HEIGHT / 2 * (1 + 0.62 * _jitter(series))
        if linked or ring:
            look = 'class="apart" r="4.5"' if ring else 'r="3"'
            title = f"<title>{escape(series)}: {_short(value, digits=4)}</title>"
            dots.append(
                f'{links.anchor(participant)}<circle {look} cx="{x:.2f}%" cy="{y:.1f}">{title}</circle></a>'
            )
        else:
            path.append(f"M{10 * x:.0f} {y:.0f}h0")
    return {"dots": Markup("".join(dots)), "path": "".join(path)}


def score_pairs(motion: GroupTable, *, links: Links) -> list[dict]:
    """What the template shows of each score that uncorrected and corrected maps have, by acquisition.

    Scans without a corrected map are left out: a mean over other scans could not be compared.

    Parameters
    ----------
    motion : GroupTable
        A missing acquisition has a name already.
    links : Links
        Where dots lead to.

    Returns
    -------
    list of dict
        In the order of :data:`PAIRED`; none where no scan has both maps.
    """
    numbers = _numbers(motion.rows, LABELS["motion"])
    key = ["participant_id", "acquisition", "series", "reference"]
    found = []
    for name in (name for name in PAIRED if name in numbers):
        values = motion.rows[[*key, "map"]].assign(value=numbers[name]).dropna(subset="value")
        before, after = (
            values.loc[values["map"] == which, [*key, "value"]] for which in ("uncorrected", "corrected")
        )
        both = before.merge(after, on=key, suffixes=("_before", "_after"))
        if both.empty:
            continue
        published = {source: means[name] for source, means in PUBLISHED.items() if name in means}
        every = [*both["value_before"], *both["value_after"], *np.ravel(list(published.values()))]
        scale = Scale.around(every)
        found += [
            {
                "name": name,
                "acquisition": acquisition,
                "alone": int((before["acquisition"] == acquisition).sum()) - len(chosen),
                "published": published,
                **_meaning(name, motion.columns),
                **_pair(chosen, name=name, published=published, scale=scale, links=links),
            }
            for acquisition, chosen in both.groupby("acquisition")
        ]
    return found


def _pair(
    chosen: pd.DataFrame,
    *,
    name: str,
    published: Mapping[str, tuple[float, float]],
    scale: Scale,
    links: Links,
) -> dict:
    """Means, boxes and lines of one score; heights are px from the top of the plot."""
    before, after = chosen["value_before"], chosen["value_after"]
    means = (float(before.mean()), float(after.mean()))
    better = after > before if PAIRED[name] else after < before
    boxes = []
    for values in (before, after):
        spread = describe(values)
        heights = _height(scale, [*spread.whiskers, *spread.quartiles])
        boxes.append(dict(zip(("low", "high", "first", "median", "third"), heights, strict=True)))
    return {
        "n": len(chosen),
        "higher": PAIRED[name],
        "better": int(better.sum()),
        "means": means,
        "boxes": boxes,
        "marks": {kind: _height(scale, each) for kind, each in {"mean": means, **published}.items()},
        "ticks": list(zip(_height(scale, scale.ticks), scale.labels, strict=True)),
        "lines": _pair_lines(chosen, scale=scale, links=links),
    }


def _height(scale: Scale, values: ArrayLike) -> NDArray[np.float64]:
    """Distance from the top of a pair plot, px, with room for names below."""
    return 12 + (PAIR_HEIGHT - 38) * (1 - scale.fraction(values))


def _pair_lines(chosen: pd.DataFrame, *, scale: Scale, links: Links) -> Markup:
    """SVG of a line for each scan with a dot at both ends."""
    linked = links.take(2 * len(chosen))
    starts, ends = (_height(scale, chosen[name]) for name in ("value_before", "value_after"))
    lines = []
    for row, y1, y2 in zip(chosen.itertuples(), starts, ends, strict=True):
        x1, x2 = (middle + 3 * _jitter(row.series) for middle in (36, 64))
        lines.append(
            f"{links.anchor(row.participant_id) if linked else '<a>'}"
            f'<line x1="{x1:.2f}%" x2="{x2:.2f}%" y1="{y1:.1f}" y2="{y2:.1f}"/>'
            f'<circle cx="{x1:.2f}%" cy="{y1:.1f}" r="3"/><circle cx="{x2:.2f}%" cy="{y2:.1f}" r="3"/>'
            f"<title>{escape(row.series)}: {_short(row.value_before, digits=4)} → "
            f"{_short(row.value_after, digits=4)}</title></a>"
        )
    return Markup("".join(lines))


def _means_table(pairs: Sequence[Mapping]) -> Markup:
    """Means of this data set beside those of the motion paper."""

    def change(means: tuple[float, float] | None) -> str:
        return "–" if means is None else " → ".join(_short(mean, digits=4) for mean in means)

    rows = [
        (
            pair["name"].upper() + (f" ({pair['unit']})" if pair["unit"] else ""),
            pair["acquisition"],
            str(pair["n"]),
            change(pair["means"]),
            f"{pair['better']} of {pair['n']}",
            *(change(pair["published"].get(source)) for source in PUBLISHED),
        )
        for pair in pairs
    ]
    header = ("Score", "Acquisition", "Scans", "Mean here", "Better after correction")
    header += ("Motion paper, simulated (Figure 6)", "Motion paper, volunteers (Figure 7)")
    return table(header, rows, caption="Means over uncorrected → over corrected maps of the same scans")
