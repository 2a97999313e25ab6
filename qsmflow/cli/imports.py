"""Imports of libraries that make many objects which stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Import something large without looking for garbage meanwhile, and never look through it later.

    The search goes through all that is there again and again, which is a tenth of the time of an import;
    left alone, memory stays shared with processes that are forked.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
