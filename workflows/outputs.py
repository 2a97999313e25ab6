"""The one place where derivatives are written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.names import derivative_name
from qsmflow.interfaces.derivatives import DerivativesSink
from qsmflow.interfaces.provenance import DescribeMap
from qsmflow.reports.motion import RESIDUALS


@dataclass(frozen=True)
class Derivative:
    """A file that a user finds in the output folder.

    Attributes
    ----------
    source : str
        Input of the workflow that holds it.
    suffix, desc, datatype : str
        What its name is made of.
    description : str
        What it shows.
    units : str or None
        Unit of the values.
    last_stage : str or None
        Stage that made it; None for the last one of all.
    skull_stripped : bool
        Whether voxels outside the brain are zero.
    several_echoes : bool
        Whether it takes more than one echo.
    motion : bool
        Whether it takes a motion correction; its source may then still be None.
    extra : mapping
        Further fields of its sidecar.
    """

    source: str
    suffix: str
    description: str
    units: str | None
    last_stage: str | None
    desc: str | None = None
    datatype: str = "anat"
    skull_stripped: bool = True
    several_echoes: bool = False
    motion: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


_MAGNITUDE = "Root of the sum of squares of the magnitudes of all echoes"
_R2STAR = "Effective transverse relaxation rate"
_T2STAR = "Effective transverse relaxation time, at most 1 s"
_CORRECTED = (
    "Magnetic susceptibility after a correction of motion that is learned from simulations; "
    "an estimate, not a measurement"
)
DERIVATIVES = (
    Derivative("susceptibility", "Chimap", "Magnetic susceptibility", "ppm", RESIDUALS[0]),
    Derivative(
        source="corrected",
        suffix="Chimap",
        description=_CORRECTED,
        units="ppm",
        last_stage=None,
        desc="motioncorrected",
        motion=True,
    ),
    Derivative("r2star", "R2starmap", _R2STAR, "1/s", "Echo fit", several_echoes=True),
    Derivative("t2star", "T2starmap", _T2STAR, "s", "Echo fit", several_echoes=True),
    Derivative("s0", "S0map", "Signal at echo time zero", "arbitrary", "Echo fit"),
    Derivative(
        source="mask",
        suffix="mask",
        description="Brain voxels with phase to trust",
        units=None,
        last_stage="Phase quality mask",
        desc="brain",
        extra={"Type": "Brain"},
    ),
    Derivative("total_field", "fieldmap", "Total field", "Hz", "Phase sign", "total", "fmap"),
    Derivative("local_field", "fieldmap", "Local field", "Hz", "Phase sign", "local", "fmap"),
    *(
        Derivative(
            source="combined",
            suffix="magnitude",
            description=_MAGNITUDE,
            units="arbitrary",
            last_stage="Phase scaling",
            desc=desc,
            datatype="fmap",
            skull_stripped=False,
        )
        for desc in ("total", "local")
    ),
)


def init_outputs_wf(
    *,
    acquisition: Acquisition,
    field_strength: float,
    bids_dir: Path,
    out_dir: Path,
    motion_correction: bool,
    name: str = "outputs_wf",
) -> Workflow:
    """Write the derivatives of an acquisition with their sidecars.

    Parameters
    ----------
    acquisition : Acquisition
        What the derivatives are made of.
    field_strength : float
        Tesla.
    bids_dir, out_dir : Path
        Raw and derivative data set.
    motion_correction : bool
        Whether there may be a corrected map.
    name : str
        Name of the workflow.

    Inputs
    ------
    susceptibility, corrected, r2star, t2star, s0, mask, total_field, local_field, combined
        The maps; None for a corrected one that was not accepted.
    records
        What each stage did.
    """
    workflow = Workflow(name=name)
    fields = sorted({derivative.source for derivative in DERIVATIVES})
    inputnode = pe.Node(niu.IdentityInterface(fields=[*fields, "records"]), name="inputnode")
    for derivative in DERIVATIVES:
        if derivative.several_echoes and len(acquisition.echoes) == 1:
            continue
        label = "_".join(filter(None, (derivative.desc, derivative.suffix)))
        write = pe.Node(
            DerivativesSink(
                base_directory=str(out_dir),
                entities=acquisition.all_entities,
                suffix=derivative.suffix,
                desc=derivative.desc,
                datatype=derivative.datatype,
            ),
            name=f"write_{label}",
            run_without_submitting=True,
        )
        if derivative.motion and not motion_correction:
            write.inputs.in_file = None
            workflow.add_nodes([write])
            continue
        describe = pe.Node(
            DescribeMap(
                acquisition=acquisition,
                bids_dir=str(bids_dir),
                field_strength=field_strength,
                units=derivative.units,
                skull_stripped=derivative.skull_stripped,
                description=derivative.description,
                extra=dict(derivative.extra) | (_made_of_map(acquisition) if derivative.motion else {}),
            ),
            name=f"describe_{label}",
            run_without_submitting=True,
        )
        if derivative.last_stage:
            describe.inputs.last_stage = derivative.last_stage
        # A corrected map lies on the grid of the map it is made of, which is there in any case.
        described = "susceptibility" if derivative.motion else derivative.source
        workflow.connect([
            (inputnode, describe, [(described, "in_file"), ("records", "records")]),
            (inputnode, write, [(derivative.source, "in_file")]),
            (describe, write, [("meta", "meta")]),
        ])  # fmt: skip
    return workflow


def _made_of_map(acquisition: Acquisition) -> dict[str, list[str]]:
    """Sources of a map that is made of the susceptibility map, not of the raw data."""
    return {"Sources": [f"bids::{derivative_name(acquisition.all_entities, suffix='Chimap')}"]}
