"""What is measured of a scan by itself."""

from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.layout import Acquisition
from qsmflow.bids.tables import ROWS_SUFFIX, series_cells
from qsmflow.interfaces.derivatives import DerivativesSink
from qsmflow.interfaces.quality import MeasureQuality
from qsmflow.interfaces.tables import Tabulate

#: What image quality is told by, in the words of the workflows of field and susceptibility.
OF_FIELD = (
    *("combined", "frequency", "frequency_period", "frequency_noise"),
    *("relative_residual", "r2star", "brain_mask", "mask"),
)
OF_MAP = ("local_field", "susceptibility", "field_mask")


def init_measures_wf(
    *,
    acquisition: Acquisition,
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

    Outputs
    -------
    records
        What each stage did.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=[*OF_FIELD, *OF_MAP]), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(fields=["records"]), name="outputnode")
    quality = pe.Node(
        MeasureQuality(n_echoes=len(acquisition.echoes), bipolar=bipolar),
        name="quality",
        mem_gb=mem_gb["quality"],
    )
    tabulate = pe.Node(
        Tabulate(kind="quality", series=series_cells(acquisition.all_entities, name=acquisition.name)),
        name="tabulate",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, quality, [
            ("combined", "magnitude"),
            *((field, field) for field in (*OF_FIELD[1:], *OF_MAP)),
        ]),
        (quality, outputnode, [("out_record", "records")]),
        (quality, tabulate, [("metrics", "rows")]),
    ])  # fmt: skip
    for output in ("out_rows", "out_report"):
        sink = pe.Node(
            DerivativesSink(
                base_directory=str(out_dir),
                entities=acquisition.all_entities,
                datatype="figures",
                desc="quality",
                suffix=ROWS_SUFFIX,
            ),
            name=f"write_{output}",
            run_without_submitting=True,
        )
        workflow.connect(tabulate, output, sink, "in_file")
    return workflow
