"""One acquisition from its files to its derivatives and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.atlases import Atlas
from qsmflow.bids.phase_range import PhaseRange
from qsmflow.interfaces.learned import Model
from qsmflow.workflows.field import init_field_wf
from qsmflow.workflows.measures import OF_FIELD, OF_MAP, init_measures_wf
from qsmflow.workflows.motion import init_motion_correction_wf
from qsmflow.workflows.outputs import init_outputs_wf
from qsmflow.workflows.report import init_report_wf
from qsmflow.workflows.susceptibility import init_susceptibility_wf

_WRITTEN = ("mask", "combined", "s0", "r2star", "t2star")
_GIVEN = ["combined", "mask", "r2star", "susceptibility", "field_mask", "corrected"]
_DRAWN = ("mask", "combined", "r2star", "frequency", "frequency_noise")


def init_acquisition_wf(
    *,
    acquisition: Acquisition,
    phase_range: PhaseRange,
    field_strength: float,
    mask_file: str | None,
    atlases: Sequence[Atlas],
    bids_dir: Path,
    out_dir: Path,
    bipolar: bool,
    phase_sign: str,
    background: str,
    background_parameters: dict,
    inversion: str,
    inversion_parameters: dict,
    reference: str,
    motion_correction: str,
    motion_models: Mapping[str, Model],
    low_mem: bool,
    use_gpu: bool,
    mem_gb: dict[str, float],
    omp_nthreads: int,
    name: str | None = None,
) -> Workflow:
    """Join the stages of one acquisition.

    Parameters
    ----------
    acquisition : Acquisition
        Files and metadata.
    phase_range : PhaseRange
        What the stored phase values mean.
    field_strength : float
        Tesla.
    mask_file : str or None
        Brain mask of the user.
    atlases : sequence of Atlas
        Label images in whose regions the maps are measured.
    bids_dir, out_dir : Path
        Raw and derivative data set.
    bipolar, low_mem
        As in :func:`init_field_wf`.
    phase_sign, background, background_parameters, inversion, inversion_parameters, reference
        As in :func:`init_susceptibility_wf`.
    motion_correction : str
        ``auto``, ``on`` or ``off``.
    motion_models : mapping
        ``unet`` and ``prenet``, unless motion correction is off.
    use_gpu : bool
        Whether the solvers run on the GPU.
    mem_gb : dict
        GB by stage.
    omp_nthreads : int
        Threads of one stage.
    name : str, optional
        Made from the acquisition's name unless given.

    Outputs
    -------
    combined, mask, r2star, susceptibility, field_mask
        Magnitude, brain, relaxation, map, and where it is known.
    corrected
        Map without motion, None if it was not accepted; without motion correction it is not there.

    Returns
    -------
    Workflow
        It reads the acquisition and writes the derivatives.
    """
    workflow = Workflow(name=name or f"{acquisition.name.replace('-', '_')}_wf")
    common = {"use_gpu": use_gpu, "mem_gb": mem_gb, "omp_nthreads": omp_nthreads}
    field_wf = init_field_wf(
        echo_times=acquisition.echo_times,
        phase_range=phase_range,
        bipolar=bipolar,
        mask_file=mask_file,
        low_mem=low_mem,
        **common,
    )
    field_wf.inputs.inputnode.magnitude = [str(path) for path in acquisition.magnitudes]
    field_wf.inputs.inputnode.phase = [str(path) for path in acquisition.phases]
    susceptibility_wf = init_susceptibility_wf(
        field_strength=field_strength,
        phase_sign=phase_sign,
        background=background,
        background_parameters=background_parameters,
        inversion=inversion,
        inversion_parameters=inversion_parameters,
        reference=reference,
        **common,
    )
    corrects = motion_correction != "off"
    outputs_wf = init_outputs_wf(
        acquisition=acquisition,
        field_strength=field_strength,
        bids_dir=bids_dir,
        out_dir=out_dir,
        motion_correction=corrects,
    )
    report_wf = init_report_wf(
        acquisition=acquisition,
        phase_range=phase_range,
        field_strength=field_strength,
        out_dir=out_dir,
        motion_correction=corrects,
        mem_gb=mem_gb,
    )
    measures_wf = init_measures_wf(
        acquisition=acquisition, atlases=atlases, bipolar=bipolar, out_dir=out_dir, mem_gb=mem_gb
    )
    records = pe.Node(niu.Merge(3 if corrects else 2), name="records", run_without_submitting=True)
    workflow.connect([
        (field_wf, susceptibility_wf, [
            ("outputnode.total_field", "inputnode.total_field"),
            ("outputnode.frequency_noise", "inputnode.frequency_noise"),
            ("outputnode.frequency_period", "inputnode.frequency_period"),
            ("outputnode.combined", "inputnode.magnitude"),
            ("outputnode.r2star", "inputnode.r2star"),
            ("outputnode.mask", "inputnode.mask"),
        ]),
        (field_wf, records, [("outputnode.records", "in1")]),
        (susceptibility_wf, records, [("outputnode.records", "in2")]),
        (records, outputs_wf, [("out", "inputnode.records")]),
        (field_wf, measures_wf, [(f"outputnode.{field}", f"inputnode.{field}") for field in OF_FIELD]),
        (susceptibility_wf, measures_wf, [(f"outputnode.{field}", f"inputnode.{field}") for field in OF_MAP]),
        (records, report_wf, [("out", "inputnode.records")]),
        (measures_wf, report_wf, [("outputnode.records", "inputnode.measures")]),
        (field_wf, report_wf, [("outputnode.total_field", "inputnode.unwrapped")]),
    ])  # fmt: skip
    for target, fields in ((outputs_wf, _WRITTEN), (report_wf, _DRAWN)):
        workflow.connect([
            (field_wf, target, [(f"outputnode.{field}", f"inputnode.{field}") for field in fields]),
            (susceptibility_wf, target, [
                (f"outputnode.{field}", f"inputnode.{field}")
                for field in ("total_field", "local_field", "susceptibility")
            ]),
        ])  # fmt: skip
    outputnode = pe.Node(niu.IdentityInterface(fields=_GIVEN), name="outputnode")
    workflow.connect([
        (field_wf, outputnode, [(f"outputnode.{field}", field) for field in ("combined", "mask", "r2star")]),
        (susceptibility_wf, outputnode, [
            (f"outputnode.{field}", field) for field in ("susceptibility", "field_mask")
        ]),
    ])  # fmt: skip
    if corrects:
        motion_wf = init_motion_correction_wf(
            mode=motion_correction, models=motion_models, field_strength=field_strength, **common
        )
        workflow.connect(_motion_connections(field_wf, susceptibility_wf, motion_wf))
        workflow.connect([
            (motion_wf, records, [("outputnode.records", "in3")]),
            # The report shows what the networks would change even where the result is not accepted.
            (motion_wf, outputs_wf, [("outputnode.accepted", "inputnode.corrected")]),
            (motion_wf, report_wf, [("outputnode.corrected", "inputnode.corrected")]),
            (motion_wf, measures_wf, [("outputnode.accepted", "inputnode.corrected")]),
            (motion_wf, outputnode, [("outputnode.accepted", "corrected")]),
        ])  # fmt: skip
    return workflow


def _motion_connections(field_wf: Workflow, susceptibility_wf: Workflow, motion_wf: Workflow) -> list[tuple]:
    """What the motion correction takes from the stages before it."""
    mapped = ("susceptibility", "local_field", "field_mask")
    return [
        (field_wf, motion_wf, [("outputnode.frequency_noise", "inputnode.frequency_noise")]),
        (susceptibility_wf, motion_wf, [(f"outputnode.{name}", f"inputnode.{name}") for name in mapped]),
    ]
