"""What the report says of the regions of a label image."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from markupsafe import Markup

from qsmflow.bids.tables import SERIES, Column
from qsmflow.reports.html import format_value, table

COLUMNS = {
    **SERIES,
    "atlas": Column("Label image"),
    "index": Column("Label of the region"),
    "name": Column("Name of the region"),
    "map": Column("Map that was measured, as in its file name"),
    "mean": Column("Mean over the region", "ppm for Chimap, 1/s for R2starmap"),
    "sd": Column("Standard deviation over the region", "ppm for Chimap, 1/s for R2starmap"),
    "median": Column("Median over the region", "ppm for Chimap, 1/s for R2starmap"),
    "volume": Column("Volume of the voxels that were measured", "ml"),
    "voxels": Column("Number of these voxels"),
}
#: Units of the maps that are measured, by the names of the table.
UNITS = MappingProxyType({"Chimap": "ppm", "desc-motioncorrected_Chimap": "ppm", "R2starmap": "1/s"})


def region_table(rows: Sequence[Mapping]) -> Markup:
    """A table for each atlas, with a row for each region and its maps side by side.

    Parameters
    ----------
    rows : sequence of mapping
        Cells by the names of :data:`COLUMNS`, a row for each region and map.

    Returns
    -------
    Markup
        HTML fragment.

    Examples
    --------
    >>> row = {"atlas": "a", "index": 3, "name": "caudate", "map": "Chimap", "mean": 0.05, "sd": 0.02}
    >>> html = region_table([row | {"median": 0.05, "volume": 3.5}])
    >>> "caudate" in html, "0.05 ± 0.02" in html
    (True, True)
    """
    if not rows:
        return Markup("<p>No region of the label images lies in the brain.</p>")
    parts = []
    for atlas, members in groupby(sorted(rows, key=lambda row: row["atlas"]), key=lambda row: row["atlas"]):
        here = list(members)
        maps = [name for name in UNITS if any(row["map"] == name for row in here)]
        found = {(row["index"], row["map"]): row for row in here}
        first = {row["index"]: row for row in reversed(here)}
        cells = [
            (
                row["name"] or index,
                *(_mean(found.get((index, name))) for name in maps),
                f"{row['volume']:.2f}",
            )
            for index, row in sorted(first.items())
        ]
        header = ("Region", *(f"{name} ({UNITS[name]})" for name in maps), "Volume (ml)")
        parts.append(table(header, cells, caption=f"Mean ± standard deviation in the regions of {atlas}"))
    return Markup("\n").join(parts)


def _mean(row: Mapping | None) -> str:
    return "n/a" if row is None else f"{format_value(row['mean'])} ± {format_value(row['sd'])}"
