"""From the total field to referenced susceptibility."""

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.interfaces.background import RemoveBackground
from qsmflow.interfaces.inversion import InvertByMEDI, InvertByTKD
from qsmflow.interfaces.masks import SegmentCSF
from qsmflow.interfaces.susceptibility import DetectPhaseSign, ReferenceSusceptibility

_INVERSIONS = {"medi": InvertByMEDI, "tkd": InvertByTKD}
_INVERSION_PROSE = {
    "medi": "Susceptibility was computed by morphology enabled dipole inversion (MEDI) [@liu2012medi]",
    "tkd": "Susceptibility was computed by thresholded k-space division (TKD) [@shmueli2009]",
}
_REFERENCE_PROSE = {
    "csf": (
        "It is referenced to ventricular cerebrospinal fluid [@liu2018medi0], or to the mean of the brain "
        "mask where no ventricle was found."
    ),
    "brain": "It is referenced to the mean of the brain mask.",
    "none": "It was not referenced to any region.",
}


def init_susceptibility_wf(
    *,
    field_strength: float,
    phase_sign: str,
    inversion: str,
    inversion_parameters: dict,
    background_steps: int,
    reference: str,
    use_gpu: bool,
    mem_gb: dict[str, float],
    omp_nthreads: int,
    name: str = "susceptibility_wf",
) -> Workflow:
    """Remove the background field, invert the dipole, set the zero.

    Parameters
    ----------
    field_strength : float
        Tesla.
    phase_sign : str
        ``auto``, ``+1`` or ``-1``.
    inversion : str
        ``medi`` or ``tkd``.
    inversion_parameters : dict
        Inputs of the inversion's interface.
    background_steps : int
        Most steps of the background removal.
    reference : str
        ``csf``, ``brain`` or ``none``.
    use_gpu : bool
        Whether the solvers run on the GPU.
    mem_gb : dict
        GB by stage.
    omp_nthreads : int
        Threads of one stage.
    name : str
        Name of the workflow.

    Inputs
    ------
    total_field, frequency_noise, frequency_period
        Hz.
    magnitude
        Image whose edges guide the inversion.
    r2star
        1/s, or None.
    mask
        Brain mask.

    Outputs
    -------
    total_field, local_field
        Hz, positive where the field is higher.
    susceptibility
        ppm.
    records
        What each stage did.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(
            fields=["total_field", "frequency_noise", "frequency_period", "magnitude", "r2star", "mask"]
        ),
        name="inputnode",
    )
    outputnode = pe.Node(
        niu.IdentityInterface(fields=["total_field", "local_field", "susceptibility", "records"]),
        name="outputnode",
    )
    background = pe.Node(
        RemoveBackground(max_steps=background_steps, use_gpu=use_gpu),
        name="background",
        mem_gb=mem_gb["background"],
        n_procs=omp_nthreads,
    )
    sign = pe.Node(DetectPhaseSign(phase_sign=phase_sign), name="sign", mem_gb=mem_gb["sign"])
    invert = pe.Node(
        _INVERSIONS[inversion](field_strength=field_strength, use_gpu=use_gpu, **inversion_parameters),
        name="invert",
        mem_gb=mem_gb["invert"],
        n_procs=omp_nthreads,
    )
    set_zero = pe.Node(ReferenceSusceptibility(reference=reference), name="reference", mem_gb=mem_gb["mask"])
    records = pe.Node(niu.Merge(4), name="records", run_without_submitting=True)
    workflow.__desc__ = (
        "The background field was removed by projection onto dipole fields (PDF) [@liu2011pdf]. "
        f"{_INVERSION_PROSE[inversion]} ({_listed(inversion_parameters)}), with B0 along the direction that "
        "the image header gives. "
        f"{_REFERENCE_PROSE[reference]}\n\n"
    )
    workflow.connect([
        (inputnode, background, [
            ("total_field", "total_field"), ("frequency_noise", "frequency_noise"), ("mask", "mask"),
        ]),
        (inputnode, sign, [("total_field", "total_field"), ("r2star", "r2star"), ("mask", "mask")]),
        (background, sign, [("local_field", "local_field")]),
        (sign, invert, [("local_field", "local_field")]),
        (inputnode, invert, [("mask", "mask")]),
        (invert, set_zero, [("susceptibility", "susceptibility")]),
        (inputnode, set_zero, [("mask", "mask"), ("r2star", "r2star")]),
        (background, records, [("out_record", "in1")]),
        (sign, records, [("out_record", "in2")]),
        (invert, records, [("out_record", "in3")]),
        (set_zero, records, [("out_record", "in4")]),
        (sign, outputnode, [("total_field", "total_field"), ("local_field", "local_field")]),
        (set_zero, outputnode, [("susceptibility", "susceptibility")]),
        (records, outputnode, [("out", "records")]),
    ])  # fmt: skip
    if inversion == "medi":
        csf = pe.Node(SegmentCSF(), name="csf", mem_gb=mem_gb["mask"])
        workflow.connect([
            (inputnode, csf, [("r2star", "r2star"), ("mask", "mask")]),
            (inputnode, invert, [
                ("frequency_noise", "frequency_noise"),
                ("frequency_period", "frequency_period"),
                ("magnitude", "magnitude"),
            ]),
            (csf, invert, [("csf_mask", "csf_mask")]),
        ])  # fmt: skip
    return workflow


def _listed(parameters: dict) -> str:
    """Parameters as prose, nested ones included."""
    flat = {
        name: value
        for key, entry in parameters.items()
        for name, value in (entry.items() if isinstance(entry, dict) else [(key, entry)])
    }
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in flat.items())
