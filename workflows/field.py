"""From magnitude and phase of all echoes to the total field in the brain."""

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.bids.phase_range import PhaseRange
from qsmflow.interfaces.echoes import FitEchoes, ScaleEchoes
from qsmflow.interfaces.masks import MaskBrain, RefineMask
from qsmflow.interfaces.unwrap import UnwrapPhase

_LOW_MEMORY_SLABS = 8


def init_field_wf(
    *,
    echo_times: tuple[float, ...],
    phase_range: PhaseRange,
    bipolar: bool,
    mask_file: str | None,
    low_mem: bool,
    use_gpu: bool,
    mem_gb: dict[str, float],
    omp_nthreads: int,
    name: str = "field_wf",
) -> Workflow:
    """Scale, mask, fit and unwrap the echoes of one acquisition.

    Parameters
    ----------
    echo_times : tuple of float
        Seconds.
    phase_range : PhaseRange
        What the stored values of the phase images mean.
    bipolar : bool
        Whether the readout gradient alternates between echoes.
    mask_file : str or None
        Brain mask of the user, taken as it is; None to make one.
    low_mem : bool
        Whether to fit slab by slab from disk.
    use_gpu : bool
        Whether the fit runs on the GPU.
    mem_gb : dict
        GB by stage.
    omp_nthreads : int
        Threads of one stage.
    name : str
        Name of the workflow.

    Inputs
    ------
    magnitude, phase
        One file an echo, ordered by echo time.

    Outputs
    -------
    combined
        Root of the sum of squares of the magnitudes.
    brain_mask, mask
        Brain, and its voxels whose phase can be trusted.
    frequency, frequency_noise, frequency_period
        Wrapped frequency, its standard deviation and ambiguity, Hz.
    s0, r2star, t2star
        Signal at TE = 0, 1/s and s.
    relative_residual
        Residual of the echo fit over the signal.
    total_field
        Unwrapped frequency, Hz.
    records
        What each stage did.
    """
    workflow = Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=["magnitude", "phase"]), name="inputnode")
    outputnode = pe.Node(
        niu.IdentityInterface(
            fields=[
                "combined",
                "brain_mask",
                "mask",
                "frequency",
                "frequency_noise",
                "frequency_period",
                "s0",
                "r2star",
                "t2star",
                "relative_residual",
                "total_field",
                "records",
            ]
        ),
        name="outputnode",
    )
    scale = pe.Node(ScaleEchoes(phase_range=phase_range), name="scale", mem_gb=mem_gb["scale"])
    mask = pe.Node(MaskBrain(mask_file=mask_file), name="mask", mem_gb=mem_gb["mask"])
    fit = pe.Node(
        FitEchoes(
            echo_times=list(echo_times),
            bipolar=bipolar,
            slabs=_LOW_MEMORY_SLABS if low_mem else 1,
            use_gpu=use_gpu,
        ),
        name="fit",
        mem_gb=mem_gb["fit"],
        n_procs=omp_nthreads,
    )
    refine = pe.Node(RefineMask(keep_whole=mask_file is not None), name="refine", mem_gb=mem_gb["mask"])
    unwrap = pe.Node(UnwrapPhase(), name="unwrap", mem_gb=mem_gb["unwrap"])
    records = pe.Node(niu.Merge(5), name="records", run_without_submitting=True)
    workflow.__desc__ = _methods(echo_times=echo_times, bipolar=bipolar, own_mask=mask_file is not None)
    workflow.connect([
        (inputnode, scale, [("magnitude", "magnitude"), ("phase", "phase")]),
        (scale, mask, [("combined", "magnitude")]),
        (scale, fit, [("magnitude", "magnitude"), ("phase", "phase")]),
        (mask, fit, [("mask", "mask")]),
        (mask, refine, [("mask", "mask")]),
        (scale, refine, [("combined", "magnitude")]),
        (fit, refine, [("frequency", "frequency"), ("frequency_period", "frequency_period")]),
        (fit, unwrap, [("frequency", "frequency"), ("frequency_period", "frequency_period")]),
        (scale, unwrap, [("combined", "magnitude")]),
        (refine, unwrap, [("mask", "mask")]),
        (scale, records, [("out_record", "in1")]),
        (mask, records, [("out_record", "in2")]),
        (fit, records, [("out_record", "in3")]),
        (refine, records, [("out_record", "in4")]),
        (unwrap, records, [("out_record", "in5")]),
        (scale, outputnode, [("combined", "combined")]),
        (mask, outputnode, [("mask", "brain_mask")]),
        (refine, outputnode, [("mask", "mask")]),
        (fit, outputnode, [
            (field, field)
            for field in (
                *("frequency", "frequency_noise", "frequency_period"),
                *("s0", "r2star", "t2star", "relative_residual"),
            )
        ]),
        (unwrap, outputnode, [("total_field", "total_field")]),
        (records, outputnode, [("out", "records")]),
    ])  # fmt: skip
    return workflow


def _methods(*, echo_times: tuple[float, ...], bipolar: bool, own_mask: bool) -> str:
    """Prose of these stages for the methods section."""
    if len(echo_times) == 1:
        fit = f"The frequency was the phase over the echo time of {1e3 * echo_times[0]:.2f} ms. "
    else:
        readout = ", with a term for the alternating readout gradient" if bipolar else ""
        fit = (
            "Frequency, phase offset, R2* and initial signal were fitted to the complex signal of "
            f"{len(echo_times)} echoes (TE {1e3 * echo_times[0]:.2f} to {1e3 * echo_times[-1]:.2f} ms) by "
            f"nonlinear least squares [@kressler2010; @liu2013nonlinear]{readout}. "
        )
    mask = (
        "A brain mask was given. "
        if own_mask
        else "The brain was masked by thresholds, opening and reconstruction of the magnitude "
        "[@otsu1979; @vincent1993], "
        "and voxels with incoherent phase were left out. "
    )
    return (
        mask
        + fit
        + "The frequency was unwrapped in three dimensions by graph cuts (PUMA) with magnitude weights "
        "[@bioucasdias2007].\n\n"
    )
