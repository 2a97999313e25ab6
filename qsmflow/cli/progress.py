"""What a run tells while it works: a bar on a terminal, plain lines in a log."""

import threading
import time
from contextlib import AbstractContextManager

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
            seconds = time.monotonic() - self._started.get(node.fullname, time.monotonic())
            self.n_computed += 1
            self._bar.advance(self._task)
            outcome = "done" if status == "end" else "FAILED"
            bookkeeping = status == "end" and getattr(node, "run_without_submitting", False)
            if not (bookkeeping or self._console.is_terminal) or status != "end":
                clock = time.strftime("%H:%M:%S")
                self._console.print(
                    f"{clock} {node_title(node.fullname)}: {outcome} in {seconds:.1f} s", highlight=False
                )


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
