"""What the report says of a scan beside the reference scan of the same head."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from qsmflow.bids.tables import SERIES, Column
from qsmflow.reports.html import format_value, table

#: Scores and what they mean, in the order of the table.
SCORES = {
    "rmse": Column("Root mean square error", "ppm"),
    "psnr": Column("Peak signal-to-noise ratio for a range of 1 ppm", "dB"),
    "ssim": Column("Structural similarity, mean over the mask, for a range of 1 ppm"),
    "nrmse": Column("Norm of the error over that of the reference, both without their means", "%"),
    "hfen": Column("High-frequency error norm: the same of the Laplacian of a Gaussian of both", "%"),
    "xsim": Column("Structural similarity made for susceptibility, mean over the mask"),
}
COLUMNS = {
    **SERIES,
    "reference": Column("Name of the series that it is compared with"),
    "map": Column("uncorrected: as reconstructed; corrected: after the motion correction"),
    **SCORES,
    "voxels": Column("Voxels in both masks, over which scores are taken"),
    "translation": Column("Way of the centre of the brain from this scan to the reference", "mm"),
    "rotation": Column("Angle between the two positions of the head", "degree"),
}

_NOTE = (
    "The scan was registered to the reference by its magnitude and its maps were resampled once. Turning the "
    "head changes the field and not the susceptibility, so what is left is noise, motion, and what the field "
    "of one direction does not tell."
)


def comparison_table(rows: Sequence[Mapping]) -> Markup:
    """Scores of the maps of a scan against the reference.

    Parameters
    ----------
    rows : sequence of mapping
        Cells by the names of :data:`COLUMNS`, a row for each map.

    Returns
    -------
    Markup
        HTML fragment.

    Examples
    --------
    >>> row = dict.fromkeys(COLUMNS, 0.5) | {"map": "uncorrected", "reference": "sub-01_acq-still"}
    >>> "sub-01_acq-still" in comparison_table([row])
    True
    """
    first = rows[0]
    moved = Markup(
        "<p>Compared with <code>{}</code>, from which it lies {} mm and {}° away. {}</p>\n"
    ).format(first["reference"], format_value(first["translation"]), format_value(first["rotation"]), _NOTE)
    header = ("Map", *(_heading(name, column) for name, column in SCORES.items()))
    cells = [(row["map"], *(format_value(row[name]) for name in SCORES)) for row in rows]
    return moved + table(header, cells, caption=f"Scores over {first['voxels']} voxels of both masks")


def _heading(name: str, column: Column) -> str:
    return name.upper() + (f" ({column.units})" if column.units else "")
