"""Tables of experiments: numbers with headings and notes, on the screen and in files."""

from dataclasses import dataclass
from pathlib import Path

import rich.table
from rich.console import Group
from rich.text import Text

from qsmflow.sim.files import write_json, write_text

Cell = str | float | int | None


@dataclass(frozen=True)
class Column:
    """One column.

    Parameters
    ----------
    name : str
        Heading, with the unit.
    digits : int
        Decimals of its numbers on the screen; files keep six significant digits.
    """

    name: str
    digits: int = 3


@dataclass(frozen=True)
class Table:
    """Numbers with their headings.

    Parameters
    ----------
    name : str
        Stem of its files.
    title : str
    columns : tuple of Column
    rows : tuple of tuple
        Cells: text, numbers, or None where there is nothing to tell.
    notes : tuple of str
        Printed below: definitions, citations, caveats.

    Raises
    ------
    ValueError
        If a row has not one cell a column.

    Examples
    --------
    >>> table = Table("ages", "Ages", (Column("who"), Column("years", 1)), (("A", 3.25), ("B", None)))
    >>> table.column("years")
    (3.25, None)
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.name}: {len(row)} cells under {len(self.columns)} headings: {row}"
                )

    def column(self, name: str) -> tuple[Cell, ...]:
        """Cells under a heading."""
        index = [column.name for column in self.columns].index(name)
        return tuple(row[index] for row in self.rows)


def rendered(table: Table) -> Group:
    """A table for the screen, its notes below.

    Parameters
    ----------
    table : Table

    Returns
    -------
    rich.console.Group

    Examples
    --------
    >>> from rich.console import Console
    >>> ages = Table("ages", "Ages", (Column("who"), Column("years", 1)), (("A", 3.25), ("B", None)))
    >>> with (console := Console(width=40, color_system=None)).capture() as screen:
    ...     console.print(rendered(ages))
    >>> "3.2" in screen.get() and "–" in screen.get()
    True
    """
    shown = rich.table.Table(title=table.title)
    for index, column in enumerate(table.columns):
        is_text = all(isinstance(row[index], str | None) for row in table.rows)
        shown.add_column(column.name, justify="left" if is_text else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(_shown(cell, column) for cell, column in zip(row, table.columns, strict=True)))
    return Group(shown, *(Text(note, style="dim") for note in table.notes))


def write_table(table: Table, out: Path) -> Path:
    """Write a table as TSV, with its title and notes as JSON beside it.

    Parameters
    ----------
    table : Table
    out : Path
        Folder, made if missing.

    Returns
    -------
    Path
        The TSV.
    """
    lines = [[column.name for column in table.columns], *([_stored(c) for c in row] for row in table.rows)]
    path = out / f"{table.name}.tsv"
    write_text(path, "".join("\t".join(line) + "\n" for line in lines))
    write_json(path.with_suffix(".json"), {"Title": table.title, "Notes": list(table.notes)})
    return path


def _shown(cell: Cell, column: Column) -> str:
    if cell is None:
        return "–"
    # Adding zero takes the sign off a zero.
    return f"{round(cell, column.digits) + 0.0:.{column.digits}f}" if isinstance(cell, float) else str(cell)


def _stored(cell: Cell) -> str:
    """As BIDS wants it: n/a where there is nothing."""
    if cell is None:
        return "n/a"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
