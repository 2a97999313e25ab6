"""Measurements of a series as rows of its subject's table and as a table in the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from qsmflow.bids.tables import Column, write_rows
from qsmflow.reports import comparison, quality, regions


@dataclass(frozen=True)
class TableKind:
    """One kind of table.

    Attributes
    ----------
    columns : mapping
        What its cells mean.
    fragment : callable
        From rows to the HTML that the report shows.
    """

    columns: Mapping[str, Column]
    fragment: Callable[[Sequence[Mapping]], Markup]


#: By the ``desc`` of the files.
TABLES = {
    "comparison": TableKind(comparison.COLUMNS, comparison.comparison_table),
    "quality": TableKind(quality.COLUMNS, quality.quality_table),
    "regions": TableKind(regions.COLUMNS, regions.region_table),
}


class _TabulateInputSpec(BaseInterfaceInputSpec):
    kind = traits.Enum(*TABLES, mandatory=True, desc="which table; also its desc entity")
    series = traits.Dict(mandatory=True, desc="cells that tell the series, for every row")
    rows = InputMultiObject(traits.Dict, desc="cells of each row by column; there may be none")
    shared = traits.Dict(usedefault=True, desc="more cells for every row")


class _TabulateOutputSpec(TraitedSpec):
    out_rows = File(exists=True, desc="JSON of rows and columns")
    out_report = File(exists=True, desc="HTML fragment")


class Tabulate(SimpleInterface):
    """Write rows with all their digits, and the fragment that the report shows of them."""

    input_spec = _TabulateInputSpec
    output_spec = _TabulateOutputSpec

    def _run_interface(self, runtime):
        kind = TABLES[self.inputs.kind]
        given = self.inputs.rows if isdefined(self.inputs.rows) else []
        rows = [{**self.inputs.series, **row, **self.inputs.shared} for row in given]
        folder = Path(runtime.cwd)
        write_rows(folder / f"{self.inputs.kind}.json", rows, columns=kind.columns)
        (folder / f"{self.inputs.kind}.html").write_text(kind.fragment(rows), encoding="utf-8")
        self._results["out_rows"] = str(folder / f"{self.inputs.kind}.json")
        self._results["out_report"] = str(folder / f"{self.inputs.kind}.html")
        return runtime
