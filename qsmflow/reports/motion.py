"""What the report says of motion and of how well each map explains the field."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from qsmflow.reports.html import format_value, table

#: Stage of the motion correction.
CORRECTION = "Motion correction"
#: Stages that measure the data residual: of the map as reconstructed, and of the corrected one.
RESIDUALS = ("Data residual", "Data residual after motion correction")

_CAVEAT = (
    "The correction is learned from simulations and is not a measurement: it may take away what is real and "
    "put in what is not. The map without it is always written, and unchanged. The field holds the motion "
    "as well, so a corrected map may well explain less of it."
)


def motion_table(acquisition: Mapping, records: Sequence[Mapping]) -> Markup:
    """Severity of motion, what was decided, and the data residual of every map.

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
    >>> "was switched off" in motion_table({}, [])
    True
    """
    found = {record["stage"]: record for record in records}
    correction = found.get(CORRECTION)
    if correction is None:
        verdict = Markup("<p>Motion correction was switched off; nothing here tells of motion.</p>\n")
    else:
        figures, threshold = correction["figures"], correction["parameters"]["SeverityThreshold"]
        verdict = Markup(
            "<p><strong>Severity {} %, {}.</strong> This is the size of the artefacts, relative to the "
            "map, as a network estimates it; from {} % on, <code>auto</code> writes a corrected map.</p>\n"
            '<p class="hint">{}</p>\n'
        ).format(
            format_value(float(figures["SeverityPercent"])),
            figures["Decision"],
            format_value(float(threshold)),
            _CAVEAT,
        )
    names = ("as reconstructed", "corrected")
    rows = [
        (name, format_value(float(found[stage]["residual"])))
        for name, stage in zip(names, RESIDUALS, strict=True)
        if stage in found
    ]
    header = ("Map", "‖W(d∗χ − b)‖ / ‖W b‖")
    caption = "Part of the local field that each map leaves unexplained, weighted by the noise"
    return verdict + (table(header, rows, caption=caption) if rows else Markup(""))
