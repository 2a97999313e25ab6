"""From the total field to referenced susceptibility."""

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.interfaces.background import RemoveBackgroundByPDF, RemoveBackgroundByVSHARP
from qsmflow.interfaces.inversion import InvertByMEDI, InvertByTKD, InvertByTV
from qsmflow.interfaces.learned import PredictSusceptibility
from qsmflow.interfaces.masks import SegmentCSF
from qsmflow.interfaces.residual import MeasureResidual
from qsmflow.interfaces.susceptibility import DetectPhaseSign, ReferenceSusceptibility
from qsmflow.workflows.memory import PROCESS_GB

_BACKGROUNDS = {"pdf": RemoveBackgroundByPDF, "vsharp": RemoveBackgroundByVSHARP}
_BACKGROUND_PROSE = {
    "pdf": "projection onto dipole fields (PDF) [@liu2011pdf]",
    "vsharp": "spherical mean values of variable radius (V-SHARP) [@li2011vsharp; @wu2012vsharp]",
}
_INVERSIONS = {
    "medi": InvertByMEDI,
    "tv": InvertByTV,
    "tkd": InvertByTKD,
    "deepqsm": PredictSusceptibility,
}
_INVERSION_PROSE = {
    "medi": "Susceptibility was computed by morphology enabled dipole inversion (MEDI) [@liu2012medi]",
    "tv": "Susceptibility was computed by nonlinear dipole inversion with total variation [@milovic2018]",
    "tkd": "Susceptibility was computed by thresholded k-space division (TKD) [@shmueli2009]",
    "deepqsm": (
        "Susceptibility was computed by a convolutional network after DeepQSM [@bollmann2019deepqsm; "
        "@cicek2016unet] that takes turns with fits to the field [@aggarwal2019modl] and was trained on "
        "simulations"
    ),
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
    background: str,
    background_parameters: dict,
    inversion: str,
    inversion_parameters: dict,
    reference: str,
    use_gpu: bool,
    mem_gb: dict[str, float],
    omp_nthreads: int,
    name: str = "susceptibility_wf",
) -> Workflow:
    """Remove the background field, invert the dipole, set the zero, look at what is left of the field.

    Parameters
    ----------
    field_strength : float
        Tesla.
    phase_sign : str
        ``auto``, ``+1`` or ``-1``.
    background : str
        ``pdf`` or ``vsharp``.
    background_parameters : dict
        Inputs of the background removal's interface.
    inversion : str
        ``medi``, ``tv``, ``tkd`` or ``deepqsm``.
    inversion_parameters : dict
        Inputs of the inversion's interface.
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
    field_mask
        Where the local field and the susceptibility are known.
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
        niu.IdentityInterface(
            fields=["total_field", "local_field", "susceptibility", "field_mask", "records"]
        ),
        name="outputnode",
    )
    remove = pe.Node(
        _BACKGROUNDS[background](use_gpu=use_gpu, **background_parameters),
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
    residual = pe.Node(
        MeasureResidual(field_strength=field_strength, use_gpu=use_gpu),
        name="residual",
        mem_gb=mem_gb["residual"],
    )
    records = pe.Node(niu.Merge(5), name="records", run_without_submitting=True)
    workflow.__desc__ = _methods(background, inversion, inversion_parameters, reference)
    workflow.connect([
        (inputnode, remove, [("total_field", "total_field"), ("mask", "mask")]),
        (inputnode, sign, [("total_field", "total_field"), ("r2star", "r2star")]),
        (remove, sign, [("local_field", "local_field"), ("mask", "mask")]),
        (sign, invert, [("local_field", "local_field")]),
        (remove, invert, [("mask", "mask")]),
        (invert, set_zero, [("susceptibility", "susceptibility")]),
        (remove, set_zero, [("mask", "mask")]),
        (inputnode, set_zero, [("r2star", "r2star")]),
        (remove, records, [("out_record", "in1")]),
        (sign, records, [("out_record", "in2")]),
        (invert, records, [("out_record", "in3")]),
        (inputnode, residual, [("frequency_noise", "frequency_noise")]),
        (sign, residual, [("local_field", "local_field")]),
        (remove, residual, [("mask", "mask")]),
        (set_zero, residual, [("susceptibility", "susceptibility")]),
        (set_zero, records, [("out_record", "in4")]),
        (residual, records, [("out_record", "in5")]),
        (sign, outputnode, [("total_field", "total_field"), ("local_field", "local_field")]),
        (set_zero, outputnode, [("susceptibility", "susceptibility")]),
        (remove, outputnode, [("mask", "field_mask")]),
        (records, outputnode, [("out", "records")]),
    ])  # fmt: skip
    if background == "pdf":
        workflow.connect(inputnode, "frequency_noise", remove, "frequency_noise")
    if inversion == "deepqsm":
        invert.inputs.memory_gb = mem_gb["invert"] - PROCESS_GB
    if inversion in ("medi", "tv"):
        workflow.connect([
            (inputnode, invert, [
                ("frequency_noise", "frequency_noise"), ("frequency_period", "frequency_period"),
            ]),
        ])  # fmt: skip
    if inversion == "medi":
        csf = pe.Node(SegmentCSF(), name="csf", mem_gb=mem_gb["mask"])
        workflow.connect([
            (inputnode, csf, [("r2star", "r2star")]),
            (remove, csf, [("mask", "mask")]),
            (inputnode, invert, [("magnitude", "magnitude")]),
            (csf, invert, [("csf_mask", "csf_mask")]),
        ])  # fmt: skip
    return workflow


def _methods(background: str, inversion: str, parameters: dict, reference: str) -> str:
    """Prose of these stages for the methods section."""
    return (
        f"The background field was removed by {_BACKGROUND_PROSE[background]}. "
        f"{_INVERSION_PROSE[inversion]}{_listed(parameters)}, with B0 along the direction that "
        f"the image header gives. {_regularisation(inversion, parameters)}{_REFERENCE_PROSE[reference]}\n\n"
    )


def _listed(parameters: dict) -> str:
    """Parameters as prose in brackets, nested ones included."""
    flat = {
        name: value
        for key, entry in parameters.items()
        for name, value in (entry.items() if isinstance(entry, dict) else [(key, entry)])
    }
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in flat.items())
    return f" ({words})" if words else ""


def _regularisation(inversion: str, parameters: dict) -> str:
    """How the weight of the regularisation was chosen, unless it was given or there is none."""
    if inversion not in ("medi", "tv") or "regularisation" in parameters["settings"]:
        return ""
    return "The weight of its regularisation was chosen by the discrepancy principle [@morozov1984]. "
