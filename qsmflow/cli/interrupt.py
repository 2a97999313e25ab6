"""Ends a run at once when it is told to."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ends_at_once() -> Iterator[None]:
    """End the process and its workers on an interrupt or a termination signal, with exit code 128 + signal.

    Nipype takes a KeyboardInterrupt inside a node for a failure of that node and goes on with the
    next subject. Ending without more ado is safe: outputs are renamed into place when they are whole,
    and the next run with the same work folder goes on from there.
    """

    def end(number: int, frame) -> None:
        name = signal.Signals(number).name
        os.write(2, f"qsmflow: ended by {name}; run again with the same --work-dir to go on\n".encode())
        for child in active_children():
            child.kill()
        os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
