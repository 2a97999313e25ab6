"""Small pieces of HTML, escaped by construction."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup

_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def format_value(value) -> str:
    """Write a parameter as a reader wants it: four digits, yes or no, commas.

    Parameters
    ----------
    value : object
        Number, text, truth value, None, sequence or mapping of these.

    Returns
    -------
    str
        Plain text, not escaped.

    Examples
    --------
    >>> format_value(0.0123456), format_value([1.0, 2]), format_value(None), format_value(True)
    ('0.01235', '1, 2', 'not stated', 'yes')
    >>> format_value({"rtol": 1e-6})
    'rtol = 1e-06'
    """
    if value is None:
        return "not stated"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{humanise(key)} = {format_value(entry)}" for key, entry in value.items())
    if isinstance(value, np.ndarray):
        return format_value(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(format_value(entry) for entry in value)
    return str(value)


def humanise(name: str) -> str:
    """Turn an identifier into words; abbreviations stay in capitals.

    Examples
    --------
    >>> humanise("echo_times"), humanise("MagneticFieldStrength"), humanise("CSFMask")
    ('echo times', 'magnetic field strength', 'CSF mask')
    """
    words = _WORD_BORDER.sub(" ", str(name)).replace("_", " ").split()
    return " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in words)


def table(header: Sequence, rows: Iterable[Sequence], *, caption: str) -> Markup:
    """An HTML table whose first column heads its rows.

    Parameters
    ----------
    header : sequence
        Column names.
    rows : iterable of sequence
        Cells; text is escaped, :class:`~markupsafe.Markup` is kept.
    caption : str
        What the table shows, read out by screen readers.

    Returns
    -------
    Markup
        The table in a box that scrolls sideways on narrow screens.

    Examples
    --------
    >>> "&lt;b&gt;" in table(["a", "b"], [["x", "<b>"]], caption="c")
    True
    """
    columns = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in header)
    body = Markup("\n").join(_row(cells, header) for cells in rows)
    return Markup(
        '<div class="scroll" role="group" tabindex="0" aria-label="{caption}">'
        "<table><caption>{caption}</caption>\n"
        "<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    ).format(caption=caption, columns=columns, body=body)


def _row(cells: Sequence, header: Sequence) -> Markup:
    """One table row; where there are several values, narrow screens show their names beside them."""
    first, *others = cells
    cell = Markup('<td data-label="{}">{}</td>' if len(others) > 1 else "<td>{1}</td>")
    rest = Markup("").join(cell.format(name, value) for name, value in zip(header[1:], others, strict=True))
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(first, rest)
