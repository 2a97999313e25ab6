"""From a susceptibility map to one with less motion in it."""

from collections.abc import Mapping

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.interfaces.learned import MOTION_SEVERITY_THRESHOLD, CorrectMotion, Model
from qsmflow.interfaces.residual import MeasureResidual
from qsmflow.reports.motion import RESIDUALS
from qsmflow.workflows.memory import PROCESS_GB

_DECISION_PROSE = {
    "auto": (
        f" Where a network estimated artefacts of {MOTION_SEVERITY_THRESHOLD:g} % of its norm "
        "or more, a corrected map was written beside it."
    ),
    "on": " The corrected map was written beside it.",
}


def init_motion_correction_wf(
    *,
    mode: str,
    models: Mapping[str, Model],
    field_strength: float,
    use_gpu: bool,
    mem_gb: dict[str, float],
    omp_nthreads: int,
    name: str = "motion_wf",
) -> Workflow:
    """Correct a map for motion, decide whether to accept the result, look at what it leaves of the field.

    Parameters
    ----------
    mode : str
        ``auto`` or ``on``.
    models : mapping
        ``unet`` and ``prenet``.
    field_strength : float
        Tesla.
    use_gpu : bool
        Whether networks run on the GPU.
    mem_gb : dict
        GB by stage.
    omp_nthreads : int
        Threads of one stage.
    name : str
        Name of the workflow.

    Inputs
    ------
    susceptibility
        ppm, referenced.
    local_field, frequency_noise
        Hz.
    field_mask
        Where the map means something.

    Outputs
    -------
    corrected
        ppm, in any case.
    accepted
        The same if it is accepted, else None.
    records
        What each stage did.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(fields=["susceptibility", "local_field", "frequency_noise", "field_mask"]),
        name="inputnode",
    )
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["corrected", "accepted", "records"]), name="outputnode"
    )
    correct = pe.Node(
        CorrectMotion(
            mode=mode,
            unet=models["unet"],
            prenet=models["prenet"],
            memory_gb=mem_gb["motion"] - PROCESS_GB,
            use_gpu=use_gpu,
        ),
        name="correct",
        mem_gb=mem_gb["motion"],
        n_procs=omp_nthreads,
    )
    residual = pe.Node(
        MeasureResidual(field_strength=field_strength, stage=RESIDUALS[1], use_gpu=use_gpu),
        name="residual",
        mem_gb=mem_gb["residual"],
    )
    records = pe.Node(niu.Merge(2), name="records", run_without_submitting=True)
    workflow.__desc__ = (
        "Artefacts of motion in the map were looked for by a 3-D U-Net [@cicek2016unet] and a progressive "
        f"recurrent network on its slices [@ren2019prenet] (models {models['unet']} and "
        f"{models['prenet']}) that were trained on simulated motion.{_DECISION_PROSE[mode]}\n\n"
    )
    workflow.connect([
        (inputnode, correct, [("susceptibility", "susceptibility"), ("field_mask", "mask")]),
        (inputnode, residual, [
            ("local_field", "local_field"),
            ("frequency_noise", "frequency_noise"),
            ("field_mask", "mask"),
        ]),
        (correct, residual, [("corrected", "susceptibility")]),
        (correct, records, [("out_record", "in1")]),
        (residual, records, [("out_record", "in2")]),
        (correct, outputnode, [("corrected", "corrected"), ("accepted", "accepted")]),
        (records, outputnode, [("out", "records")]),
    ])  # fmt: skip
    return workflow
