"""A scan beside the reference scan of the same head."""

from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.tables import ROWS_SUFFIX, series_cells
from qsmflow.interfaces.comparison import ComputeMetrics
from qsmflow.interfaces.derivatives import DerivativesSink
from qsmflow.interfaces.registration import RegisterToReference
from qsmflow.interfaces.reports import PlotVolumes
from qsmflow.interfaces.tables import Tabulate
from qsmflow.reports.figures import FIGURES

KIND = "comparison"
#: What is taken of each scan, as :func:`qsmflow.workflows.acquisition.init_acquisition_wf` gives it.
TAKEN = ("combined", "mask", "susceptibility", "field_mask")


def init_comparison_wf(
    *,
    acquisition: Acquisition,
    reference: Acquisition,
    out_dir: Path,
    mem_gb: dict[str, float],
    name: str | None = None,
) -> Workflow:
    """Register a scan to the reference by the magnitudes, score its maps against that of the reference.

    Parameters
    ----------
    acquisition, reference : Acquisition
        What is compared with what.
    out_dir : Path
        Derivative data set.
    mem_gb : dict
        GB by stage.
    name : str, optional
        Made from the acquisition's name unless given.

    Inputs
    ------
    combined, mask, susceptibility, field_mask
        Of the scan: magnitude, brain, map in ppm, and where it is known.
    corrected
        Map without motion, None if it was not accepted.
    reference_combined, reference_mask, reference_susceptibility, reference_field_mask
        Of the reference.

    Returns
    -------
    Workflow
        It writes scores, transform and figure.
    """
    workflow = Workflow(name=name or f"{acquisition.name.replace('-', '_')}_comparison_wf")
    fields = [*TAKEN, "corrected", *(f"reference_{field}" for field in TAKEN)]
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    # Without motion correction nothing is connected to it.
    inputnode.inputs.corrected = None
    register = pe.Node(RegisterToReference(), name="register", mem_gb=mem_gb["register"])
    score = pe.Node(ComputeMetrics(), name="score", mem_gb=mem_gb["score"])
    cells = series_cells(acquisition.all_entities, name=acquisition.name)
    tabulate = pe.Node(
        Tabulate(kind=KIND, series=cells | {"reference": reference.name}),
        name="tabulate",
        run_without_submitting=True,
    )
    plot = pe.Node(PlotVolumes(kind=KIND), name="plot", mem_gb=mem_gb["figure"])
    sinks = comparison_sinks(acquisition, out_dir=out_dir)
    workflow.__desc__ = (
        "Maps were compared with that of the reference scan of the same head, after a rigid registration of "
        "the magnitudes [@lowekamp2013simpleitk], by RMSE, PSNR, SSIM [@wang2004ssim], HFEN "
        "[@langkammer2018challenge] and XSIM [@milovic2025xsim].\n\n"
    )
    workflow.connect([
        (inputnode, register, [
            ("combined", "magnitude"),
            ("mask", "mask"),
            ("reference_combined", "reference"),
            ("reference_mask", "reference_mask"),
        ]),
        (inputnode, score, [
            ("susceptibility", "susceptibility"),
            ("corrected", "corrected"),
            ("field_mask", "mask"),
            ("reference_susceptibility", "reference"),
            ("reference_field_mask", "reference_mask"),
        ]),
        (register, score, [("matrix", "matrix")]),
        (score, tabulate, [("rows", "rows")]),
        (register, tabulate, [("pose", "shared")]),
        (score, plot, [("volumes", "in_files"), ("labels", "labels"), ("common_mask", "mask_file")]),
        (plot, sinks["figure"], [("out_report", "in_file")]),
        (tabulate, sinks["table"], [("out_report", "in_file")]),
        (tabulate, sinks["rows"], [("out_rows", "in_file")]),
        (register, sinks["transform"], [("transform", "in_file")]),
    ])  # fmt: skip
    return workflow


def comparison_sinks(acquisition: Acquisition, *, out_dir: Path) -> dict[str, pe.Node]:
    """Nodes that write what a comparison finds, by what they write.

    A scan that is compared with nothing has them, too: without a file they take away what an earlier run
    wrote.

    Parameters
    ----------
    acquisition : Acquisition
        What is compared.
    out_dir : Path
        Derivative data set.
    """
    written = {
        "figure": ("figures", FIGURES[KIND].suffix, KIND),
        "table": ("figures", ROWS_SUFFIX, KIND),
        "rows": ("figures", ROWS_SUFFIX, KIND),
        "transform": ("anat", "xfm", None),
    }
    return {
        name: pe.Node(
            DerivativesSink(
                base_directory=str(out_dir),
                entities=acquisition.all_entities,
                datatype=datatype,
                suffix=suffix,
                desc=desc,
            ),
            name=f"write_{name}",
            run_without_submitting=True,
        )
        for name, (datatype, suffix, desc) in written.items()
    }
