"""What a run tells while it works: a bar on a terminal, plain lines in a log."""

import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class RunProgress(AbstractContextManager):
    """Follows the nodes of a workflow through Nipype's status callback.

    Parameters
    ----------
    n_nodes : int
        Nodes of the workflow.
    console : rich.console.Console
        Where to write.
    """

    def __init__(self, n_nodes: int, *, console: Console):
        self._console = console
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=n_nodes)
        self._began = time.time()
        self.n_computed = 0

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *exception):
        self._bar.stop()

    def callback(self, node, status: str) -> None:
        """Nipype's status callback: ``start``, ``end`` or ``exception`` of a node."""
        with self._lock:
            if status == "start":
                self._started[node.fullname] = time.monotonic()
                self._bar.update(self._task, description=node_title(node.fullname))
                return
            self._bar.advance(self._task)
            if not self._is_fresh(node):
                return
            # Nipype runs its bookkeeping in the main process and does not announce it.
            self.n_computed += not node.run_without_submitting
            started = self._started.get(node.fullname, time.monotonic())
            if status == "exception" or not (node.run_without_submitting or self._console.is_terminal):
                outcome = "done" if status == "end" else "FAILED"
                self._console.print(
                    f"{time.strftime('%H:%M:%S')} {node_title(node.fullname)}: {outcome} "
                    f"in {time.monotonic() - started:.1f} s",
                    highlight=False,
                )

    def _is_fresh(self, node) -> bool:
        """Whether the node ran now: not before this run, and not skipped after a failure."""
        result = Path(node.output_dir()) / f"result_{node.name}.pklz"
        return result.is_file() and result.stat().st_mtime >= self._began


def node_title(fullname: str) -> str:
    """Readable name of a node: the acquisition and the stage.

    Examples
    --------
    >>> node_title("qsmflow_wf.sub_01_wf.sub_01_acq_still_wf.field_wf.fit")
    'sub-01_acq-still field fit'
    """
    _, *parents, stage = fullname.split(".")
    names = [parent.removesuffix("_wf") for parent in parents]
    subject = [_entities(name) for name in names if name.startswith("sub_")][-1:]
    rest = [name for name in names if not name.startswith("sub_")]
    return " ".join([*subject, *rest, stage])


def _entities(name: str) -> str:
    words = name.split("_")
    return "_".join(f"{key}-{value}" for key, value in zip(words[::2], words[1::2], strict=False))
