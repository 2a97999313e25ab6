"""What is measured of a scan by itself: image quality, and its maps in the regions of label images."""

from collections.abc import Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.atlases import Atlas
from qsmflow.bids.tables import ROWS_SUFFIX, series_cells
from qsmflow.interfaces.derivatives import DerivativesSink
from qsmflow.interfaces.quality import MeasureQuality
from qsmflow.interfaces.regions import MeasureRegions
from qsmflow.interfaces.reports import PlotVolumes
from qsmflow.interfaces.tables import Tabulate
from qsmflow.reports.figures import FIGURES

#: What image quality is told by, in the words of the workflows of field and susceptibility.
OF_FIELD = (
    *("combined", "frequency", "frequency_period", "frequency_noise"),
    *("relative_residual", "r2star", "brain_mask", "mask"),
)
OF_MAP = ("local_field", "susceptibility", "field_mask")


#: What regions are measured in and found by, beside the corrected map.
OF_REGIONS = ("susceptibility", "field_mask", "r2star", "mask")
REGIONS = "regions"


def init_measures_wf(
    *,
    acquisition: Acquisition,
    atlases: Sequence[Atlas],
    bipolar: bool,
    out_dir: Path,
    mem_gb: dict[str, float],
    name: str = "measures_wf",
) -> Workflow:
    """Measure a scan and write the rows of its subject's tables and the fragments of the report.

    Parameters
    ----------
    acquisition : Acquisition
        What is measured.
    atlases : sequence of Atlas
        Label images.
    bipolar : bool
        Whether the fit had a term for alternating readouts.
    out_dir : Path
        Derivative data set.
    mem_gb : dict
        GB by stage.
    name : str
        Name of the workflow.

    Inputs
    ------
    combined, frequency, frequency_period, frequency_noise, relative_residual, r2star, brain_mask, mask
        As the field workflow gives them.
    local_field, susceptibility, field_mask
        As the susceptibility workflow gives them.
    corrected
        Map without motion, None if it was not accepted.

    Outputs
    -------
    records
        What each stage did.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*OF_FIELD, *OF_MAP, "corrected"]), name="inputnode")
    # Without motion correction nothing is connected to it.
    inputnode.inputs.corrected = None
    outputnode = pe.Node(niu.IdentityInterface(fields=["records"]), name="outputnode")
    quality = pe.Node(
        MeasureQuality(n_echoes=len(acquisition.echoes), bipolar=bipolar),
        name="quality",
        mem_gb=mem_gb["quality"],
    )
    tabulate = _tabulate(acquisition, kind="quality")
    records = pe.Node(niu.Merge(1 + len(atlases)), name="records", run_without_submitting=True)
    workflow.connect([
        (inputnode, quality, [
            ("combined", "magnitude"),
            *((field, field) for field in (*OF_FIELD[1:], *OF_MAP)),
        ]),
        (quality, records, [("out_record", "in1")]),
        (records, outputnode, [("out", "records")]),
        (quality, tabulate, [("metrics", "rows")]),
    ])  # fmt: skip
    for output in ("out_rows", "out_report"):
        workflow.connect(
            tabulate, output, _sink(acquisition, out_dir, desc="quality", name=output), "in_file"
        )
    _add_regions(workflow, acquisition=acquisition, atlases=atlases, out_dir=out_dir, mem_gb=mem_gb)
    return workflow


def _add_regions(
    workflow: Workflow,
    *,
    acquisition: Acquisition,
    atlases: Sequence[Atlas],
    out_dir: Path,
    mem_gb: dict[str, float],
) -> None:
    """Measure the regions of each label image, or take away what an earlier run wrote of some."""
    sinks = {
        "rows": _sink(acquisition, out_dir, desc=REGIONS, name="region_rows"),
        "table": _sink(acquisition, out_dir, desc=REGIONS, name="region_table"),
        "figure": _sink(
            acquisition, out_dir, desc=REGIONS, name="region_figure", suffix=FIGURES[REGIONS].suffix
        ),
    }
    if not atlases:
        for sink in sinks.values():
            sink.inputs.in_file = None
        workflow.add_nodes([*sinks.values()])
        return
    inputnode, records = workflow.get_node("inputnode"), workflow.get_node("records")
    rows = pe.Node(niu.Merge(len(atlases)), name="rows", run_without_submitting=True)
    # The picture begins with a row of the map alone, for outlines hide what they surround.
    maps, outlines = (
        pe.Node(niu.Merge(1 + len(atlases)), name=name, run_without_submitting=True)
        for name in ("maps", "outlines")
    )
    outlines.inputs.in1 = None
    workflow.connect(inputnode, "susceptibility", maps, "in1")
    tabulate = _tabulate(acquisition, kind=REGIONS)
    plot = pe.Node(
        PlotVolumes(kind=REGIONS, labels=["map", *(atlas.name for atlas in atlases)]),
        name="plot_regions",
        mem_gb=mem_gb["figure"],
    )
    for number, atlas in enumerate(atlases, start=1):
        measure = pe.Node(
            MeasureRegions(
                atlas=atlas.name,
                labels=str(atlas.labels),
                names=dict(atlas.names),
                template=str(atlas.template) if atlas.template else None,
            ),
            name=f"regions_{number}",
            mem_gb=mem_gb["regions"],
        )
        workflow.connect([
            (inputnode, measure, [
                ("combined", "magnitude"),
                ("corrected", "corrected"),
                *((field, field) for field in OF_REGIONS),
            ]),
            (inputnode, maps, [("susceptibility", f"in{number + 1}")]),
            (measure, rows, [("rows", f"in{number}")]),
            (measure, outlines, [("carried", f"in{number + 1}")]),
            (measure, records, [("out_record", f"in{number + 1}")]),
        ])  # fmt: skip
    workflow.connect([
        (rows, tabulate, [("out", "rows")]),
        (maps, plot, [("out", "in_files")]),
        (outlines, plot, [("out", "outline_files")]),
        (inputnode, plot, [("field_mask", "mask_file")]),
        (tabulate, sinks["rows"], [("out_rows", "in_file")]),
        (tabulate, sinks["table"], [("out_report", "in_file")]),
        (plot, sinks["figure"], [("out_report", "in_file")]),
    ])  # fmt: skip


def _tabulate(acquisition: Acquisition, *, kind: str) -> pe.Node:
    return pe.Node(
        Tabulate(kind=kind, series=series_cells(acquisition.all_entities, name=acquisition.name)),
        name=f"tabulate_{kind}",
        run_without_submitting=True,
    )


def _sink(
    acquisition: Acquisition, out_dir: Path, *, desc: str, name: str, suffix: str = ROWS_SUFFIX
) -> pe.Node:
    return pe.Node(
        DerivativesSink(
            base_directory=str(out_dir),
            entities=acquisition.all_entities,
            datatype="figures",
            desc=desc,
            suffix=suffix,
        ),
        name=f"write_{name}",
        run_without_submitting=True,
    )
