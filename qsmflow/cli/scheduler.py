"""Nipype's scheduler for one machine, made to survive a killed worker."""

import gc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer


class LocalScheduler(MultiProcPlugin):
    """MultiProc that counts a worker's sudden death as a failure of its node.

    The plugin that Nipype ships waits for ever for the result of a worker that the kernel has killed,
    for lack of memory for instance, and cannot use its pool again.
    """

    def __init__(self, plugin_args=None):
        super().__init__(plugin_args)
        # The loop collects garbage at every turn, which is slow while it looks at all that was imported.
        gc.freeze()

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
            self.pool = ProcessPoolExecutor(
                max_workers=self.processors,
                initializer=process_initializer,
                initargs=(self._cwd,),
                mp_context=get_context(self.plugin_args.get("mp_context")),
            )
        return super()._submit_job(node, updatehash=updatehash)
