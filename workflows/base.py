"""The whole run, subject by subject; the only workflows that know the Settings."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from pathlib import Path

from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from qsmflow.interfaces.learned import Model
from qsmflow.version import __version__
from qsmflow.workflows.acquisition import init_acquisition_wf
from qsmflow.workflows.comparison import TAKEN, comparison_sinks, init_comparison_wf
from qsmflow.workflows.job import AcquisitionJob
from qsmflow.workflows.settings import WORKFLOW_NAME, Settings

_SLOPPY_BACKGROUND_STEPS = 30
_SLOPPY_INVERSION_STEPS = 10


def init_qsmflow_wf(
    settings: Settings,
    jobs: Sequence[AcquisitionJob],
    *,
    models: Mapping[str, Model],
    run_id: str,
    use_gpu: bool,
    name: str = WORKFLOW_NAME,
) -> Workflow:
    """Build the workflow of a run.

    Parameters
    ----------
    settings : Settings
        Of the run.
    jobs : sequence of AcquisitionJob
        What to process.
    models : mapping
        Trained networks by what they are for: ``deepqsm``, ``unet``, ``prenet``, as far as needed.
    run_id : str
        Names the folder of the run's logs.
    use_gpu : bool
        Whether the solvers run on the GPU.
    name : str
        Name of the workflow and of its folder in the work dir.

    Returns
    -------
    Workflow
        One sub-workflow a subject, in it one an acquisition and one for its comparison.
    """
    workflow = Workflow(name=name, base_dir=str(settings.work_dir))
    workflow.__desc__ = (
        f"Susceptibility maps were computed with *qsmflow* {__version__}, a BIDS-App "
        "[@gorgolewski2017bidsapps] built on Nipype [@gorgolewski2011nipype], from gradient-echo images "
        "organised as BIDS [@gorgolewski2016bids; @karakuzu2022qmribids].\n\n"
    )
    for subject, members in groupby(sorted(jobs, key=_subject), key=_subject):
        subject_wf = Workflow(name=f"sub_{subject}_wf")
        jobs_here = list(members)
        made = {
            job.acquisition.name: _acquisition_wf(settings, job, models=models, use_gpu=use_gpu)
            for job in jobs_here
        }
        subject_wf.add_nodes([*made.values()])
        for job in jobs_here:
            _add_comparison(subject_wf, job, made=made, settings=settings)
        # Crash files of a subject belong into the subject's own log folder.
        subject_wf.config["execution"]["crashdump_dir"] = str(log_dir(settings.out_dir, subject, run_id))
        for node in subject_wf._get_all_nodes():
            node.config = deepcopy(subject_wf.config)
            if "random_seed" in node.inputs.copyable_trait_names():
                node.inputs.random_seed = settings.random_seed
        workflow.add_nodes([subject_wf])
    return workflow


def methods_paragraphs(workflow: Workflow) -> list[str]:
    """What was done: the run's own words, then those of each subject.

    Parameters
    ----------
    workflow : Workflow
        From :func:`init_qsmflow_wf`.

    Returns
    -------
    list of str
        Markdown with citations; subjects that were processed alike have the same.
    """
    subjects = sorted(workflow._graph, key=lambda each: each.name)
    return [workflow.__desc__, *(each.visit_desc() for each in subjects)]


def _subject(job: AcquisitionJob) -> str:
    return job.acquisition.subject


def log_dir(out_dir: Path, subject: str, run_id: str) -> Path:
    """Folder of a subject's crash files and settings in one run."""
    return out_dir / f"sub-{subject}" / "log" / run_id


def _acquisition_wf(
    settings: Settings, job: AcquisitionJob, *, models: Mapping[str, Model], use_gpu: bool
) -> Workflow:
    return init_acquisition_wf(
        acquisition=job.acquisition,
        phase_range=job.phase_range,
        field_strength=job.field_strength,
        mask_file=str(job.mask_file) if job.mask_file else None,
        atlases=job.atlases,
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        bipolar=settings.bipolar,
        phase_sign=settings.phase_sign,
        background=settings.background,
        background_parameters=_BACKGROUND_PARAMETERS[settings.background](settings),
        inversion=settings.inversion,
        inversion_parameters=_INVERSION_PARAMETERS[settings.inversion](settings, models),
        reference=settings.reference,
        motion_correction=settings.motion_correction,
        motion_models={name: models[name] for name in ("unet", "prenet") if name in models},
        low_mem=settings.low_mem,
        use_gpu=use_gpu,
        mem_gb=job.memory,
        omp_nthreads=settings.omp_nthreads,
    )


def _add_comparison(
    subject_wf: Workflow, job: AcquisitionJob, *, made: Mapping[str, Workflow], settings: Settings
) -> None:
    """Compare a scan with its reference, or take away what an earlier comparison wrote."""
    acquisition, reference = job.acquisition, job.reference
    if reference is None:
        leftovers = Workflow(name=f"{acquisition.name.replace('-', '_')}_no_comparison_wf")
        sinks = comparison_sinks(acquisition, out_dir=settings.out_dir)
        for sink in sinks.values():
            sink.inputs.in_file = None
        leftovers.add_nodes([*sinks.values()])
        subject_wf.add_nodes([leftovers])
        return
    comparison_wf = init_comparison_wf(
        acquisition=acquisition, reference=reference, out_dir=settings.out_dir, mem_gb=job.memory
    )
    subject_wf.connect([
        (made[acquisition.name], comparison_wf, [
            (f"outputnode.{field}", f"inputnode.{field}") for field in TAKEN
        ]),
        (made[reference.name], comparison_wf, [
            (f"outputnode.{field}", f"inputnode.reference_{field}") for field in TAKEN
        ]),
    ])  # fmt: skip
    if settings.motion_correction != "off":
        subject_wf.connect(
            made[acquisition.name], "outputnode.corrected", comparison_wf, "inputnode.corrected"
        )


def _pdf_parameters(settings: Settings) -> dict:
    return {"max_steps": _SLOPPY_BACKGROUND_STEPS} if settings.sloppy else {}


def _vsharp_parameters(settings: Settings) -> dict:
    return {}


def _tkd_parameters(settings: Settings, models: Mapping[str, Model]) -> dict:
    return {"threshold": settings.tkd_threshold}


def _tv_parameters(settings: Settings, models: Mapping[str, Model]) -> dict:
    given = {
        "regularisation": settings.tv_lambda,
        "max_iterations": _SLOPPY_INVERSION_STEPS if settings.sloppy else None,
    }
    return {"settings": _where_given(given)}


def _medi_parameters(settings: Settings, models: Mapping[str, Model]) -> dict:
    given = {
        "regularisation": settings.medi_lambda,
        "nonlinear": settings.medi_nonlinear,
        "merit": settings.medi_merit,
        "outside_sources": settings.medi_outside_sources,
        "smv_radius": settings.medi_smv_radius,
        "csf_regularisation": settings.medi_csf_lambda,
        "max_iterations": _SLOPPY_INVERSION_STEPS if settings.sloppy else None,
    }
    return {"preset": settings.medi_preset, "settings": _where_given(given)}


def _deepqsm_parameters(settings: Settings, models: Mapping[str, Model]) -> dict:
    return {"model": models["deepqsm"]}


def _where_given(values: dict) -> dict:
    return {name: value for name, value in values.items() if value is not None}


_BACKGROUND_PARAMETERS = {"pdf": _pdf_parameters, "vsharp": _vsharp_parameters}
_INVERSION_PARAMETERS = {
    "tkd": _tkd_parameters,
    "tv": _tv_parameters,
    "medi": _medi_parameters,
    "deepqsm": _deepqsm_parameters,
}
