"""Decides what a run will do, and finds all that is wrong with the input before any work starts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bids.layout import BIDSLayout
from scipy.ndimage import binary_erosion

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.atlases import ATLAS, Atlas, find_atlases
from qsmflow.bids.brain_masks import find_brain_masks
from qsmflow.bids.checks import Finding, check_acquisition, format_findings
from qsmflow.bids.findings import InputProblem, short_path
from qsmflow.bids.images import ImageFacts, UnreadableImage, load_image, read_image, read_images
from qsmflow.bids.layout import Collected, UnreadableDataset, collect_acquisitions, open_layout, read_filters
from qsmflow.bids.names import is_label
from qsmflow.bids.phase_range import classify_phase_range
from qsmflow.bids.references import find_references
from qsmflow.bids.validator import Validation
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.models import choose_models, network_stages
from qsmflow.interfaces.learned import Model
from qsmflow.workflows.job import AcquisitionJob
from qsmflow.workflows.memory import stage_memory
from qsmflow.workflows.settings import Settings

#: Voxels that a mask must have inside.
FEWEST_INSIDE = 64
#: Acquisitions whose images take a while to be looked through.
MANY = 20
#: Exit code by the category of a finding, the one that decides first.
EXIT_CODES = {
    "bids": ExitCode.INVALID_BIDS,
    "input": ExitCode.NO_INPUT,
    "filter": ExitCode.NOTHING_MATCHED,
    "data": ExitCode.BAD_DATA,
    "resources": ExitCode.USAGE,
}


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
    models : mapping
        Trained networks by what they are for.
    """

    jobs: tuple[AcquisitionJob, ...]
    findings: tuple[Finding, ...]
    refused: tuple[Acquisition, ...]
    models: Mapping[str, Model]

    @property
    def complete(self) -> bool:
        """Whether all that was asked for will be done."""
        return not _errors(self.findings)

    @property
    def acquisitions(self) -> list[Acquisition]:
        """Those with a job, then those that were refused."""
        return [*(job.acquisition for job in self.jobs), *self.refused]

    @property
    def subjects(self) -> list[str]:
        """Labels without ``sub-``, of those with a job and of those who were refused."""
        named = {finding.subject for finding in _errors(self.findings) if finding.subject is not None}
        return sorted({each.subject for each in self.acquisitions} | set(filter(is_label, named)))

    def parts(self, size: int) -> "list[Plan]":
        """The plan in parts of so many subjects at most.

        Parameters
        ----------
        size : int
            Subjects of a part.

        Returns
        -------
        list of Plan
            Each with what concerns its subjects.
        """
        subjects = self.subjects
        groups = [subjects[first : first + size] for first in range(0, len(subjects), size)]
        return [
            replace(
                self,
                jobs=tuple(job for job in self.jobs if job.acquisition.subject in group),
                findings=tuple(finding for finding in self.findings if finding.subject in group),
                refused=tuple(each for each in self.refused if each.subject in group),
            )
            for group in groups
        ]

    def as_it_is_now(self) -> "Plan":
        """The plan without acquisitions whose files have gone since it was made, which may be long ago."""
        findings = {
            job.acquisition.name: [_gone(job, path) for path in _files(job) if not path.exists()]
            for job in self.jobs
        }
        jobs = [job for job in self.jobs if not findings[job.acquisition.name]]
        # Nor is there anything to compare a scan with then.
        left = [job.acquisition for job in jobs]
        return replace(
            self,
            jobs=tuple(
                replace(job, reference=job.reference if job.reference in left else None) for job in jobs
            ),
            findings=(*self.findings, *(each for found in findings.values() for each in found)),
            refused=(
                *self.refused,
                *(job.acquisition for job in self.jobs if findings[job.acquisition.name]),
            ),
        )


def _files(job: AcquisitionJob) -> list[Path]:
    labels = (path for atlas in job.atlases for path in (atlas.labels, atlas.template))
    return [path for path in (*job.acquisition.files, job.mask_file, *labels) if path is not None]


def _gone(job: AcquisitionJob, path: Path) -> Finding:
    return Finding(
        "error",
        short_path(path),
        "file",
        "it has gone since it was checked",
        "put it back and run again",
        subject=job.acquisition.subject,
        category="input",
    )


def make_plan(
    settings: Settings, *, validation: Validation | None, tell: Callable[[str], None] = lambda text: None
) -> Plan:
    """Check the input and settle what each acquisition needs.

    Parameters
    ----------
    settings : Settings
        Of the run.
    validation : Validation or None
        Of the data set, begun already; None where it is not wanted.
    tell : callable
        Gets a line where the user has to wait.

    Returns
    -------
    Plan
        Holds at least one job.

    Raises
    ------
    Stop
        16 for invalid BIDS, 18 if nothing matches, 65 if no acquisition or a network is not usable, 66
        for a missing input, 64 if the memory can hold no acquisition or there is no such network.
    """
    models = choose_models(settings)
    findings: list[Finding] = []
    if validation is not None:
        findings += validation.findings(participants=settings.participant_label)
    invalid = {finding.subject for finding in findings if finding.category == "bids"}
    layout, collected = collect_input(settings, findings)
    findings += collected.findings
    if len(collected.acquisitions) > MANY:
        tell(f"looking through the images of {len(collected.acquisitions)} acquisitions before work starts …")
    usable, refused, images = [], [], {}
    for acquisition in collected.acquisitions:
        images[acquisition.name] = read_images(acquisition.files)
        found = check_acquisition(
            acquisition, field_strength=settings.field_strength, images=images[acquisition.name]
        )
        is_valid = acquisition.subject not in invalid
        (usable if is_valid and not _errors(found) else refused).append(acquisition)
        findings += found
    categories = {finding.category for finding in _errors(findings)}
    if None in invalid or ("bids" in categories and not usable):
        raise Stop(
            ExitCode.INVALID_BIDS,
            f"{format_findings(findings)}\nMend what the validator found, or use --skip-bids-validation.",
        )
    if any(each.category == "filter" and each.subject is None for each in _errors(findings)):
        raise Stop(ExitCode.NOTHING_MATCHED, format_findings(findings))
    if not usable:
        raise Stop(_code(findings), format_findings(findings))
    masks = find_brain_masks(layout, usable)
    findings += _without_mask(usable, masks) if _with_masks(settings) else []
    atlases = _find_atlases(settings, usable)
    findings += _without_labels(usable, atlases)
    judged = [
        _make_job(
            acquisition,
            images=images[acquisition.name],
            settings=settings,
            mask_file=settings.mask_file or masks.get(acquisition.name),
            atlases=atlases.get(acquisition.name, ()),
        )
        for acquisition in usable
    ]
    findings += [finding for _, found in judged for finding in found]
    jobs = [job for job, found in judged if not found]
    refused += [job.acquisition for job, found in judged if found]
    if not jobs:
        raise Stop(_code(findings), format_findings(findings))
    references = find_references([job.acquisition for job in jobs], wanted=settings.reference_filter)
    findings += references.findings
    jobs = [replace(job, reference=references.of.get(job.acquisition.name)) for job in jobs]
    return Plan(tuple(jobs), tuple(findings), tuple(refused), models)


def _errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def _code(findings: Sequence[Finding]) -> ExitCode:
    """Exit code of a run that these errors leave nothing to do."""
    categories = {finding.category for finding in _errors(findings)}
    return next(code for category, code in EXIT_CODES.items() if category in categories)


def collect_input(settings: Settings, findings: Sequence[Finding]) -> tuple[BIDSLayout, Collected]:
    """Index the input and select from it.

    Parameters
    ----------
    settings : Settings
        Of the run.
    findings : sequence of Finding
        Found so far, told with what stops it here.

    Returns
    -------
    tuple of BIDSLayout and Collected

    Raises
    ------
    Stop
        If there is nothing to select from.
    """
    filter_file = settings.bids_filter_file
    try:
        filters = read_filters(filter_file) if filter_file else None
    except UnreadableDataset as error:
        raise Stop(ExitCode.USAGE, str(error)) from error
    try:
        layout = open_layout(
            settings.bids_dir,
            database_dir=None if settings.dry_run else settings.bids_database_dir,
            derivatives=_with_masks(settings),
            participants=settings.participant_label,
        )
    except UnreadableDataset as error:
        raise Stop(_code(error.findings), format_findings([*findings, *error.findings])) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Stop(ExitCode.NO_INPUT, str(error)) from error
    collected = collect_acquisitions(
        layout,
        participants=settings.participant_label,
        sessions=settings.session_label,
        filters=filters,
    )
    return layout, collected


def _with_masks(settings: Settings) -> dict[str, Path]:
    """Data sets that are searched for brain masks."""
    return {name: path for name, path in settings.derivatives.items() if name != ATLAS}


def _without_mask(acquisitions: Sequence[Acquisition], masks: dict) -> list[Finding]:
    return [
        Finding(
            "warning",
            acquisition.name,
            "--derivatives",
            "no desc-brain_mask of this acquisition is there, a mask will be made",
            "add the mask, or leave --derivatives out",
            subject=acquisition.subject,
        )
        for acquisition in acquisitions
        if acquisition.name not in masks
    ]


def _find_atlases(
    settings: Settings, acquisitions: Sequence[Acquisition]
) -> dict[str, tuple[Atlas, ...] | InputProblem]:
    """Label images by acquisition, or what is wrong with them, where the user gave some."""
    if ATLAS not in settings.derivatives:
        return {}
    folder = settings.derivatives[ATLAS]
    try:
        return {**find_atlases(folder, acquisitions)}
    except InputProblem:
        # Whoever is not concerned goes on.
        return {name: found for each in acquisitions for name, found in _own_atlases(folder, each).items()}


def _own_atlases(folder: Path, acquisition: Acquisition) -> dict[str, tuple[Atlas, ...] | InputProblem]:
    try:
        return {**find_atlases(folder, [acquisition])}
    except InputProblem as error:
        return {acquisition.name: error}


def _bad_labels(acquisition: Acquisition, error: InputProblem) -> Finding:
    field = f"--derivatives {ATLAS}"
    return Finding("error", acquisition.name, field, error.problem, error.fix, subject=acquisition.subject)


def _without_labels(acquisitions: Sequence[Acquisition], atlases: dict) -> list[Finding]:
    return [
        Finding(
            "warning",
            acquisition.name,
            f"--derivatives {ATLAS}",
            "no label image fits this acquisition",
            "add sub-…_dseg.nii.gz in its space, or tpl-…_dseg.nii.gz beside tpl-…_desc-brain_T1w.nii.gz",
            subject=acquisition.subject,
        )
        for acquisition in acquisitions
        if atlases.get(acquisition.name) == ()
    ]


def _make_job(
    acquisition: Acquisition,
    *,
    images: Mapping[Path, ImageFacts],
    settings: Settings,
    mask_file: Path | None,
    atlases: tuple[Atlas, ...] | InputProblem,
) -> tuple[AcquisitionJob, list[Finding]]:
    """What is to be done with an acquisition, and what stands against it."""
    image = images[acquisition.echoes[0].magnitude]
    job = AcquisitionJob(
        acquisition=acquisition,
        phase_range=classify_phase_range(
            [images[path] for path in acquisition.phases], units=acquisition.phase_units
        ),
        field_strength=settings.field_strength or acquisition.field_strength,
        mask_file=mask_file,
        memory=stage_memory(
            image.shape[:3],
            n_echoes=len(acquisition.echoes),
            low_mem=settings.low_mem,
            networks=network_stages(settings),
            limit=settings.mem_gb,
        ),
        atlases=() if isinstance(atlases, InputProblem) else atlases,
    )
    bad_labels = [_bad_labels(acquisition, atlases)] if isinstance(atlases, InputProblem) else []
    return job, [*bad_labels, *_check_mask(job, image), *_check_memory(job, settings)]


def _check_mask(job: AcquisitionJob, image: ImageFacts) -> Iterator[Finding]:
    """A mask must be readable and lie voxel on voxel with the image."""
    if job.mask_file is None:
        return

    def refusal(problem: str, fix: str) -> Finding:
        return Finding("error", str(job.mask_file), "mask", problem, fix, subject=job.acquisition.subject)

    try:
        facts = read_image(job.mask_file)
    except UnreadableImage as error:
        yield refusal(error.problem, error.fix)
        return
    fix = "write 1 in the brain, 0 elsewhere"
    same_place = np.allclose(facts.affine, image.affine, rtol=0, atol=0.01)
    fits = facts.shape == image.shape and same_place
    if facts.n_nonfinite:
        yield refusal(f"{facts.n_nonfinite} voxels are NaN or infinite", fix)
    elif facts.scaled.high <= 0.5:
        more = "" if facts.scaled.low == facts.scaled.high else " or less"
        yield refusal(f"no voxel is inside, all are {facts.scaled.high:g}{more}", fix)
    elif fits:
        inside = np.reshape(load_image(job.mask_file).dataobj, facts.shape) > 0.5
        if np.count_nonzero(inside) < FEWEST_INSIDE:
            problem = f"only {np.count_nonzero(inside)} voxels are inside, which hold no field"
            yield refusal(problem, fix)
        elif not binary_erosion(inside, np.ones((3, 3, 3))).any():
            yield refusal("nowhere are 3 × 3 × 3 voxels inside, which the noise is told from", fix)
    if not fits:
        yield refusal(
            f"its grid {facts.shape} is not that of {job.acquisition.name} {image.shape[:3]}, or lies "
            "elsewhere in space",
            "resample the mask to the magnitude image",
        )


def _check_memory(job: AcquisitionJob, settings: Settings) -> Iterator[Finding]:
    stage, needed = max(job.memory.items(), key=lambda item: item[1])
    if needed > settings.mem_gb:
        fix = "give more memory" + (", or try --low-mem" if stage == "fit" and not settings.low_mem else "")
        yield too_large(
            job.acquisition.name,
            subject=job.acquisition.subject,
            given=settings.mem_gb,
            stage=stage,
            needed=needed,
            fix=fix,
        )


def too_large(name: str, *, subject: str, given: float, stage: str, needed: float, fix: str) -> Finding:
    """What is said of an acquisition or a task that the memory cannot hold.

    Parameters
    ----------
    name : str
        Of the acquisition or task.
    subject : str
        Its label without ``sub-``.
    given, needed : float
        GB that may be used, and that its largest stage needs.
    stage : str
        Which stage that is.
    fix : str
        What the user can do.

    Examples
    --------
    >>> print(too_large("sub-1", subject="1", given=1, stage="fit", needed=2, fix="give more"))
    sub-1: --mem: 1.00G cannot hold it: stage 'fit' needs about 2.00 GB. Fix: give more.
    """
    problem = f"{given:.2f}G cannot hold it: stage '{stage}' needs about {needed:.2f} GB"
    return Finding("error", name, "--mem", problem, fix, subject=subject, category="resources")
