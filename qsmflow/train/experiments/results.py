"""What an experiment found, and its files."""

from dataclasses import dataclass
from pathlib import Path

from qsmflow.train.experiments.figures import Figure, draw
from qsmflow.train.experiments.tables import Table, write_table


@dataclass(frozen=True)
class Result:
    """Tables and figures of an experiment.

    Parameters
    ----------
    tables : tuple of Table
    figures : tuple of Figure
    """

    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = ()


def write_result(result: Result, out: Path) -> list[Path]:
    """Write each table as TSV and each figure as PNG.

    Parameters
    ----------
    result : Result
    out : Path
        Folder, made if missing.

    Returns
    -------
    list of Path
        What was written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from qsmflow.train.experiments.tables import Column
    >>> ages = Table("ages", "Ages", (Column("who"), Column("years")), (("A", 3.25), ("B", None)))
    >>> with TemporaryDirectory() as folder:
    ...     [path] = write_result(Result((ages,)), Path(folder))
    ...     path.read_text()
    'who\\tyears\\nA\\t3.25\\nB\\tn/a\\n'
    """
    written = [write_table(table, out) for table in result.tables]
    for figure in result.figures:
        written.append(out / f"{figure.name}.png")
        draw(figure, written[-1])
    return written
