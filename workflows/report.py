"""The figures and tables of an acquisition for the report."""

from dataclasses import dataclass
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.phase_range import PhaseRange
from qsmflow.interfaces.derivatives import DerivativesSink
from qsmflow.interfaces.provenance import DescribeAcquisition
from qsmflow.interfaces.reports import BuildViewer, PlotVolumes, SummaryReportlet
from qsmflow.reports.figures import FIGURES
from qsmflow.reports.summary import FRAGMENTS


@dataclass(frozen=True)
class Figure:
    """A figure and the inputs of the workflow that it shows.

    Attributes
    ----------
    kind : str
        Which picture; a key of ``FIGURES``.
    volumes : tuple of str
        Fields shown, one row each.
    several_echoes : bool
        Whether it takes more than one echo.
    motion : bool
        Whether it takes a motion correction.
    """

    kind: str
    volumes: tuple[str, ...]
    several_echoes: bool = False
    motion: bool = False


_FIGURES = (
    Figure("magnitude", ("first_echo", "last_echo")),
    Figure("mask", ("combined",)),
    Figure("phase", ("frequency", "unwrapped")),
    Figure("total", ("total_field",)),
    Figure("noise", ("frequency_noise",)),
    Figure("local", ("local_field",)),
    Figure("susceptibility", ("susceptibility",)),
    Figure("motion", ("susceptibility", "corrected"), motion=True),
    Figure("r2star", ("r2star",), several_echoes=True),
)
_TABLE_SUFFIX = "MEGRE"
# Inputs of the viewer by the workflow's names.
_VIEWED = (
    ("susceptibility", "susceptibility"),
    ("combined", "magnitude"),
    ("local_field", "local_field"),
    ("mask", "mask_file"),
)


def init_report_wf(
    *,
    acquisition: Acquisition,
    phase_range: PhaseRange,
    field_strength: float,
    out_dir: Path,
    motion_correction: bool,
    mem_gb: dict[str, float],
    name: str = "report_wf",
) -> Workflow:
    """Draw an acquisition's figures and write its tables into the output's ``figures`` folder.

    Parameters
    ----------
    acquisition : Acquisition
        Files and metadata.
    phase_range : PhaseRange
        What the stored phase values mean.
    field_strength : float
        Tesla.
    out_dir : Path
        Derivative data set.
    motion_correction : bool
        Whether there is a corrected map to show.
    mem_gb : dict
        GB by stage.
    name : str
        Name of the workflow.

    Inputs
    ------
    combined, frequency, unwrapped, frequency_noise, total_field, local_field, susceptibility, corrected, \
    r2star, mask
        The maps.
    records
        What each stage that led to the maps did.
    measures
        What was measured of the maps, and what is unusual about it: for the summary alone.
    """
    workflow = Workflow(name=name)
    drawn = {volume for figure in _FIGURES for volume in figure.volumes}
    inputnode = pe.Node(
        niu.IdentityInterface(fields=[*sorted(drawn), "mask", "records", "measures"]), name="inputnode"
    )
    inputnode.inputs.first_echo = str(acquisition.magnitudes[0])
    inputnode.inputs.last_echo = str(acquisition.magnitudes[-1])
    facts = pe.Node(
        DescribeAcquisition(
            acquisition=acquisition, phase_range=phase_range.name, field_strength=field_strength
        ),
        name="facts",
        run_without_submitting=True,
    )
    told = pe.Node(niu.Merge(2), name="told", run_without_submitting=True)
    warnings = pe.Node(niu.Merge(len(_FIGURES)), name="warnings", run_without_submitting=True)
    workflow.connect([
        (inputnode, facts, [("records", "records")]),
        (inputnode, told, [("records", "in1"), ("measures", "in2")]),
    ])  # fmt: skip
    for number, figure in enumerate(_FIGURES, start=1):
        if figure.several_echoes and len(acquisition.echoes) == 1:
            continue
        sink = _sink(acquisition, out_dir, figure.kind, FIGURES[figure.kind].suffix)
        if figure.motion and not motion_correction:
            sink.inputs.in_file = None
            workflow.add_nodes([sink])
            continue
        volumes = pe.Node(
            niu.Merge(len(figure.volumes)), name=f"volumes_{figure.kind}", run_without_submitting=True
        )
        plot = pe.Node(PlotVolumes(kind=figure.kind), name=f"plot_{figure.kind}", mem_gb=mem_gb["figure"])
        workflow.connect([
            (inputnode, volumes, [(field, f"in{row}") for row, field in enumerate(figure.volumes, start=1)]),
            (volumes, plot, [("out", "in_files")]),
            (inputnode, plot, [("mask", "mask_file")]),
            (plot, warnings, [("out_warnings", f"in{number}")]),
            (plot, sink, [("out_report", "in_file")]),
        ])  # fmt: skip
    for kind in FRAGMENTS:
        write = pe.Node(SummaryReportlet(kind=kind), name=f"table_{kind}", run_without_submitting=True)
        workflow.connect([
            (facts, write, [("facts", "acquisition")]),
            (write, _sink(acquisition, out_dir, kind, _TABLE_SUFFIX), [("out_report", "in_file")]),
        ])  # fmt: skip
        if kind == "summary":
            workflow.connect([
                (warnings, write, [("out", "warnings")]),
                (told, write, [("out", "records")]),
            ])  # fmt: skip
        else:
            workflow.connect(inputnode, "records", write, "records")
    viewer = pe.Node(BuildViewer(), name="viewer", mem_gb=mem_gb["viewer"])
    viewed = [*_VIEWED, ("corrected", "corrected")] if motion_correction else list(_VIEWED)
    workflow.connect([
        (inputnode, viewer, viewed),
        (viewer, _sink(acquisition, out_dir, "viewer", _TABLE_SUFFIX), [("out_viewer", "in_file")]),
        (viewer, _sink(acquisition, out_dir, "motionslider", _TABLE_SUFFIX), [("out_slider", "in_file")]),
    ])  # fmt: skip
    return workflow


def _sink(acquisition: Acquisition, out_dir: Path, kind: str, suffix: str) -> pe.Node:
    return pe.Node(
        DerivativesSink(
            base_directory=str(out_dir),
            entities=acquisition.all_entities,
            datatype="figures",
            desc=kind,
            suffix=suffix,
        ),
        name=f"write_{kind}_{suffix}",
        run_without_submitting=True,
    )
