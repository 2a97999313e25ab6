"""The one place where derivatives are written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.layout import Acquisition
from qsmflow.interfaces.derivatives import DerivativesSink
from qsmflow.interfaces.provenance import DescribeMap


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
    extra: Mapping[str, str] = field(default_factory=dict)


_MAGNITUDE = "Root of the sum of squares of the magnitudes of all echoes"
_R2STAR = "Effective transverse relaxation rate"
_T2STAR = "Effective transverse relaxation time, at most 1 s"
DERIVATIVES = (
    Derivative("susceptibility", "Chimap", "Magnetic susceptibility", "ppm", None),
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
    name : str
        Name of the workflow.

    Inputs
    ------
    susceptibility, r2star, t2star, s0, mask, total_field, local_field, combined
        The maps.
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
        describe = pe.Node(
            DescribeMap(
                acquisition=acquisition,
                bids_dir=str(bids_dir),
                field_strength=field_strength,
                units=derivative.units,
                skull_stripped=derivative.skull_stripped,
                description=derivative.description,
                extra=dict(derivative.extra),
            ),
            name=f"describe_{label}",
            run_without_submitting=True,
        )
        if derivative.last_stage:
            describe.inputs.last_stage = derivative.last_stage
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
        workflow.connect([
            (inputnode, describe, [(derivative.source, "in_file"), ("records", "records")]),
            (inputnode, write, [(derivative.source, "in_file")]),
            (describe, write, [("meta", "meta")]),
        ])  # fmt: skip
    return workflow
