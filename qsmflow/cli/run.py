"""The console script: settings, plan, build, run, finalise."""

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

from rich.console import Console

from qsmflow.cli.environment import prepare_environment
from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.cli.guard import guarded
from qsmflow.cli.imports import uncollected
from qsmflow.cli.interrupt import ends_at_once
from qsmflow.cli.parser import parse_settings
from qsmflow.cli.reservation import Busy, forget, reserved, reserved_output
from qsmflow.cli.resources import resolve_gpu, stage_threads
from qsmflow.workflows.settings import WORKFLOW_NAME, Settings

#: Subjects for each process that one workflow holds: the next ones wait until their reports are written.
#: Many keep all processes at work until near the end; the engine's bookkeeping grows with their square.
SUBJECTS_AT_ONCE = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Run qsmflow.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process unless given.

    Returns
    -------
    int
        Exit code; see :class:`qsmflow.cli.exit_codes.ExitCode`.
    """
    with ends_at_once():
        return guarded("qsmflow", _main, argv)


def _main(argv: Sequence[str], *, console: Console) -> ExitCode:
    settings = parse_settings(argv)
    if settings.analysis_level == "group":
        return _gather(settings, argv=argv, console=console)
    # Imported here, as what a run needs takes long to import: help and wrong usage are answered at once.
    from qsmflow.cli.validate import check_folders, explain

    check_folders(settings)
    try:
        return _participants(settings, argv=argv, console=console)
    except OSError as error:
        raise explain(error, settings) from error


def _participants(settings: Settings, *, argv: Sequence[str], console: Console) -> ExitCode:
    """Prepare the process, then plan and do the work."""
    from qsmflow.bids.validator import Validation
    from qsmflow.cli.workers import prepare_workers

    with ExitStack() as stack:
        if settings.dry_run:
            cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            cache = settings.work_dir / "cache"
            if settings.clean_workdir:
                # Only what qsmflow itself keeps there: the folder may hold more.
                forget(settings.work_dir, (WORKFLOW_NAME, cache.name))
            cache.mkdir(parents=True, exist_ok=True)
        prepare_environment(cache, threads=settings.omp_nthreads or 1)
        wanted = not (settings.skip_bids_validation or settings.reports_only)
        validation = stack.enter_context(Validation(settings.bids_dir)) if wanted else None
        log_dir = settings.work_dir / "crash"
        if not (settings.dry_run or settings.reports_only or settings.boilerplate_only):
            prepare_workers(settings, log_dir=log_dir)
        return _run(settings, validation=validation, log_dir=log_dir, argv=argv, console=console)


def _gather(settings: Settings, *, argv: Sequence[str], console: Console) -> ExitCode:
    with tempfile.TemporaryDirectory() as cache:
        prepare_environment(Path(cache), threads=settings.omp_nthreads or 1)
        # Imported here: it imports a library that reads the environment when it is imported.
        from qsmflow.cli.group import run_group

        return run_group(settings, argv=argv, console=console)


def _run(settings: Settings, *, validation, log_dir: Path, argv: Sequence[str], console: Console) -> ExitCode:
    # Imported here: these import libraries that read the environment when they are imported.
    with uncollected():
        from qsmflow.cli import finalise
        from qsmflow.cli.execute import configure_nipype, load_plugin
        from qsmflow.cli.plan import make_plan

    configure_nipype(settings, log_dir=log_dir)
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:8]}"
    if settings.reports_only:
        return finalise.rebuild_reports(settings, run_id=run_id, console=console)
    load_plugin(settings)  # refused before anything is written
    plan = make_plan(settings, validation=validation, tell=partial(console.print, highlight=False))
    if settings.omp_nthreads is None:
        needs = [max(job.memory.values()) for job in plan.jobs]
        threads = stage_threads(settings.nprocs, memory_gb=settings.mem_gb, needs=needs)
        settings = replace(settings, omp_nthreads=threads)
    finalise.print_plan(plan, settings, console=console)
    if settings.dry_run:
        return ExitCode.DONE if plan.complete else ExitCode.SUBJECT_FAILED
    parts = plan.parts(SUBJECTS_AT_ONCE * settings.nprocs)
    # What concerns nobody in particular is in no part.
    codes = [ExitCode.DONE if plan.complete or settings.boilerplate_only else ExitCode.SUBJECT_FAILED]
    methods: list[str] = []
    for number, part in enumerate(parts, start=1):
        if len(parts) > 1:
            subjects = f"sub-{part.subjects[0]} … sub-{part.subjects[-1]}"
            console.print(f"part {number} of {len(parts)}: {subjects}", highlight=False)
        try:
            code = _execute_what_is_there(
                settings, part, run_id=run_id, argv=argv, methods=methods, console=console
            )
        except Busy as busy:
            if len(parts) == 1:
                raise
            console.print(str(busy), style="red", markup=False, highlight=False)
            code = ExitCode.SUBJECT_FAILED
        codes.append(code)
        if code != ExitCode.DONE and settings.stop_on_first_crash:
            break
    if settings.boilerplate_only:
        console.print(f"Methods text: {settings.out_dir / 'logs' / 'CITATION.md'}")
    return max(codes)


def _execute_what_is_there(settings: Settings, plan, **named) -> ExitCode:
    """Do what is planned, without what has gone by then, or goes while the engine is being set up."""
    from nipype.interfaces.base import TraitError

    while True:
        plan = plan.as_it_is_now()
        try:
            return _execute(settings, plan, **named)
        except TraitError as error:
            # Nipype's way to say that an input of a stage is not there.
            if plan.as_it_is_now().jobs == plan.jobs:
                raise Stop(
                    ExitCode.NO_INPUT, f"a file has gone since it was checked: {error}; put it back"
                ) from error


def _execute(
    settings: Settings,
    plan,
    *,
    run_id: str,
    argv: Sequence[str],
    methods: list[str],
    console: Console,
) -> ExitCode:
    """Do what is planned and add to the methods text what was new in it."""
    from qsmflow.cli import finalise
    from qsmflow.cli.cache import clear_leftovers
    from qsmflow.cli.execute import execute, hands_in, write_graph
    from qsmflow.workflows.base import init_qsmflow_wf, methods_paragraphs

    use_gpu = resolve_gpu(settings.device)
    acquisitions = [job.acquisition for job in plan.jobs]
    with ExitStack() as stack:
        if not settings.boilerplate_only:
            stack.enter_context(reserved(settings.work_dir, {each.subject for each in acquisitions}))
            stack.enter_context(reserved_output(settings.out_dir, acquisitions))
        finalise.open_output(settings, plan, run_id=run_id, argv=argv)
        workflow = init_qsmflow_wf(settings, plan.jobs, models=plan.models, run_id=run_id, use_gpu=use_gpu)
        methods += methods_paragraphs(workflow)
        finalise.write_methods(settings, methods)
        if settings.write_graph:
            write_graph(workflow, settings)
        if settings.boilerplate_only:
            return ExitCode.DONE
        for stage in clear_leftovers(settings.out_dir, settings.work_dir / WORKFLOW_NAME, acquisitions):
            console.print(f"damaged, will be computed anew: {stage}", markup=False, highlight=False)
        failure = execute(workflow, settings, console=console) if plan.jobs else None
        if hands_in(settings) and failure is None:
            console.print("All stages are handed in. Once they have ended, run again without --use-plugin.")
            return ExitCode.DONE
        return finalise.close_output(
            settings, plan, run_id=run_id, argv=argv, failure=failure, console=console
        )


if __name__ == "__main__":
    sys.exit(main())
