"""What the report says of image quality."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from qsmflow.bids.tables import SERIES, Column
from qsmflow.core.quality.table import METRICS
from qsmflow.reports.html import format_value, table

COLUMNS = {
    **SERIES,
    **{name: Column(metric.description, metric.unit, metric.label) for name, metric in METRICS.items()},
}
_BETTER = {True: "more", False: "less", None: "neither"}


def quality_table(rows: Sequence[Mapping]) -> Markup:
    """Image-quality metrics of a series.

    Parameters
    ----------
    rows : sequence of mapping
        One, with cells by the names of :data:`COLUMNS`.

    Returns
    -------
    Markup
        HTML fragment.

    Examples
    --------
    >>> "n/a" in quality_table([dict.fromkeys(METRICS) | {"series": "sub-01"}])
    True
    """
    (row,) = rows
    cells = [
        (metric.label, _value(row[name], metric.unit), _BETTER[metric.more_is_better], metric.description)
        for name, metric in METRICS.items()
    ]
    note = Markup(
        '<p class="hint">Compare these with those of other scans of the same protocol and inversion; '
        "none of them is a verdict.</p>\n"
    )
    header = ("Metric", "Value", "Better is", "What it is")
    return note + table(header, cells, caption="Image-quality metrics without a reference")


def _value(value: float | None, unit: str) -> str:
    return "n/a" if value is None else format_value(float(value)) + ("" if unit == "1" else f" {unit}")
