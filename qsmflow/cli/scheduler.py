"""Nipype's scheduler for one machine, made to survive a killed worker."""

import gc
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import get_context, parent_process
from threading import Thread

import numpy as np
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer
from scipy.sparse import lil_matrix

#: More than a node asks for that only hands on what others made.
BOOKKEEPING_GB = 0.25


def start_worker(folder: str) -> None:
    """Prepare a worker, which is not to outlive the run that it works for, however that ends."""
    process_initializer(folder)
    Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    parent_process().join()
    os._exit(1)


def _ranks(names: Sequence[str], costs: Sequence[float], dependencies: lil_matrix) -> list[tuple[int, float]]:
    """What to start first: subject by subject, and of a subject what the costliest way leads on from.

    Pictures would keep the workers from the maps else, which everything waits for in the end. Nodes are in
    topological order; `dependencies` is true where the node of a column waits for that of a row.
    """
    ways = list(costs)
    for node in reversed(range(len(ways))):
        ways[node] += max((ways[after] for after in dependencies.rows[node]), default=0)
    subjects: dict[str, int] = {}
    return [
        (subjects.setdefault(".".join(name.split(".")[:2]), len(subjects)), -way)
        for name, way in zip(names, ways, strict=True)
    ]


class _Dependencies:
    """Which node waits for which: as much of a sparse matrix as the engine uses of it.

    The engine asks at every turn how many each node still waits for, which is counted here instead of summed.

    Parameters
    ----------
    matrix : lil_matrix
        True where the node of a column waits for that of a row.
    """

    def __init__(self, matrix: lil_matrix):
        self._followers = list(matrix.rows)
        self._open = np.bincount(np.concatenate([*matrix.rows, []]).astype(int), minlength=matrix.shape[1])

    def sum(self, axis: int) -> np.ndarray:
        """How many nodes each one waits for, (1, n)."""
        return self._open[None]

    def getrowview(self, node: int) -> "_Row":
        """What waits for a node."""
        return _Row(self, node)

    def done(self, node: int) -> None:
        """Nothing waits for a node any more."""
        self._open[self._followers[node]] -= 1
        self._followers[node] = []


@dataclass(frozen=True)
class _Row:
    """The view of a row by which the engine says that a node is done: it sets what is not zero to zero."""

    dependencies: _Dependencies
    node: int

    def nonzero(self) -> slice:
        return slice(None)

    def __setitem__(self, where: slice, value: int) -> None:
        self.dependencies.done(self.node)


class LocalScheduler(MultiProcPlugin):
    """MultiProc that counts a worker's sudden death as a failure of its node.

    The plugin that Nipype ships waits for ever for the result of a worker that the kernel has killed,
    for lack of memory for instance, and cannot use its pool again.
    """

    def __init__(self, plugin_args=None):
        super().__init__(plugin_args)
        self.pool = self._new_pool()

    def _generate_dependency_list(self, graph):
        super()._generate_dependency_list(graph)
        # Memory tells roughly how long a stage takes; bookkeeping takes none.
        costs = [0.0 if node.run_without_submitting else node.mem_gb for node in self.procs]
        self._ranks = _ranks([node.fullname for node in self.procs], costs, self.depidx)
        self.depidx = _Dependencies(self.depidx)

    def _check_resources(self, running_tasks):
        """What is free; never nothing, or bookkeeping, which this process does itself, would wait."""
        memory_gb, threads, gpus = super()._check_resources(running_tasks)
        return max(memory_gb, BOOKKEEPING_GB), max(threads, 1), gpus

    def _sort_jobs(self, jobids, scheduler="tsort"):
        """Those that may start now, the first of them first.

        Nothing passes a stage that waits for more threads than are free, or small ones would keep them
        from it for long.
        """
        # The engine collects garbage at every turn, which takes longer than the turn while it looks through
        # everything; what is frozen is left alone until the run has ended.
        gc.freeze()
        ranked = sorted(jobids, key=self._ranks.__getitem__)
        bookkeeping = [job for job in ranked if self.procs[job].run_without_submitting]
        stages = [job for job in ranked if not self.procs[job].run_without_submitting]
        _, free, _ = super()._check_resources(self.pending_tasks)
        taken = accumulate(min(self.procs[job].n_procs, self.processors) for job in stages)
        # Stages first: bookkeeping keeps this process from handing out more.
        return [job for job, threads in zip(stages, taken, strict=True) if threads <= free] + bookkeeping

    def _postrun_check(self):
        super()._postrun_check()
        gc.unfreeze()

    def _async_callback(self, args):
        # The default raises where nobody listens; _get_result looks at the future itself.
        if args.exception() is None:
            super()._async_callback(args)

    def _get_result(self, taskid):
        error = self._task_obj[taskid].exception() if self._task_obj[taskid].done() else None
        if error is None:
            return super()._get_result(taskid)
        return {
            "result": None,
            "taskid": taskid,
            "traceback": [
                f"The worker process died before it was done ({error}). The usual reason is that the machine "
                "ran out of memory: give more with --mem, or lower --nprocs.\n"
            ],
        }

    def _submit_job(self, node, updatehash=False):
        if self.pool._broken:
            self.pool.shutdown()
            self.pool = self._new_pool()
        return super()._submit_job(node, updatehash=updatehash)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=start_worker,
            initargs=(self._cwd,),
            mp_context=get_context(self.plugin_args.get("mp_context")),
        )
