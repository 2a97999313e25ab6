"""Decides what a run will do, and finds all that is wrong with the input before any work starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib

from qsmflow.bids.brain_masks import find_brain_masks
from qsmflow.bids.checks import Finding, check_acquisition, format_findings
from qsmflow.bids.layout import Acquisition, collect_acquisitions, open_layout, read_filters
from qsmflow.bids.phase_range import detect_phase_range
from qsmflow.bids.validator import validate
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.workflows.memory import stage_memory
from qsmflow.workflows.settings import AcquisitionJob, Settings


@dataclass(frozen=True)
class Plan:
    """What will be done and what cannot be.

    Attributes
    ----------
    jobs : tuple of AcquisitionJob
        Acquisitions to process.
    findings : tuple of Finding
        What the checks found.
    refused : tuple of Acquisition
        Acquisitions left out because of errors.
    """

    jobs: tuple[AcquisitionJob, ...]
    findings: tuple[Finding, ...]
    refused: tuple[Acquisition, ...]


def make_plan(settings: Settings) -> Plan:
    """Check the input and settle what each acquisition needs.

    Parameters
    ----------
    settings : Settings
        Of the run.

    Returns
    -------
    Plan
        Holds at least one job.

    Raises
    ------
    Stop
        16 for invalid BIDS, 18 if nothing matches, 65 if no acquisition is usable, 66 for a missing
        mask, 64 if the memory cannot hold an acquisition.
    """
    if not settings.skip_bids_validation:
        _refuse_errors(validate(settings.bids_dir), ExitCode.INVALID_BIDS)
    layout = open_layout(
        settings.bids_dir,
        database_dir=settings.bids_database_dir,
        derivatives=dict(settings.derivatives),
    )
    collected = collect_acquisitions(
        layout,
        participants=settings.participant_label,
        sessions=settings.session_label,
        filters=read_filters(settings.bids_filter_file) if settings.bids_filter_file else None,
    )
    if not collected.acquisitions and not collected.findings:
        raise Stop(ExitCode.NOTHING_MATCHED, _nothing_matched(settings))
    findings = {
        acquisition.name: check_acquisition(acquisition, field_strength=settings.field_strength)
        for acquisition in collected.acquisitions
    }
    usable = [one for one in collected.acquisitions if not _errors(findings[one.name])]
    everything = (*collected.findings, *(each for found in findings.values() for each in found))
    if not usable:
        code = ExitCode.BAD_DATA if collected.acquisitions else ExitCode.NOTHING_MATCHED
        raise Stop(code, format_findings(everything))
    masks = find_brain_masks(layout, usable) if settings.derivatives else {}
    jobs = tuple(_make_job(one, settings=settings, masks=masks) for one in usable)
    _check_memory(jobs, settings)
    refused = tuple(one for one in collected.acquisitions if _errors(findings[one.name]))
    return Plan(jobs, everything, refused)


def _errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def _refuse_errors(findings: Sequence[Finding], code: ExitCode) -> None:
    if errors := _errors(findings):
        raise Stop(code, f"{format_findings(errors)}\nMend these, or use --skip-bids-validation.")


def _nothing_matched(settings: Settings) -> str:
    return (
        f"{settings.bids_dir}: no multi-echo gradient-echo images match. "
        "Expected sub-*/[ses-*/]anat/*_part-{mag,phase}_MEGRE.nii.gz (or T2starw for a single echo); "
        "check --participant-label, --session-label and --bids-filter-file."
    )


def _make_job(acquisition: Acquisition, *, settings: Settings, masks: dict) -> AcquisitionJob:
    phase_range = detect_phase_range(
        [echo.phase for echo in acquisition.echoes], units=acquisition.echoes[0].phase_metadata.get("Units")
    )
    mask_file = settings.mask_file or masks.get(acquisition.name)
    image = nib.load(acquisition.echoes[0].magnitude)
    if mask_file is not None and nib.load(mask_file).shape[:3] != image.shape[:3]:
        raise Stop(
            ExitCode.BAD_DATA,
            f"{mask_file}: its grid {nib.load(mask_file).shape} is not that of {acquisition.name} "
            f"{image.shape}; resample the mask to the magnitude image",
        )
    return AcquisitionJob(
        acquisition=acquisition,
        phase_range=phase_range,
        field_strength=acquisition.field_strength or settings.field_strength,
        mask_file=mask_file,
        memory=stage_memory(image.shape[:3], n_echoes=len(acquisition.echoes), low_mem=settings.low_mem),
    )


def _check_memory(jobs: Sequence[AcquisitionJob], settings: Settings) -> None:
    for job in jobs:
        stage, needed = max(job.memory.items(), key=lambda item: item[1])
        if needed > settings.mem_gb:
            raise Stop(
                ExitCode.USAGE,
                f"--mem {settings.mem_gb:.2f}G cannot hold {job.acquisition.name}: stage '{stage}' needs "
                f"about {needed:.2f} GB. Give more memory, or try --low-mem if it is the fit.",
            )
