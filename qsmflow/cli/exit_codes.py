"""How a run ends, and the exception that carries it."""

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the shell sees; the numbers from 64 on are those of sysexits.h."""

    DONE = 0
    SUBJECT_FAILED = 1
    INVALID_BIDS = 16
    NOTHING_MATCHED = 18
    USAGE = 64
    BAD_DATA = 65
    NO_INPUT = 66
    INTERNAL = 70
    CANNOT_WRITE = 73
    INPUT_OUTPUT = 74


class Stop(Exception):
    """Ends the run with a message for the user and an exit code.

    Parameters
    ----------
    code : ExitCode
        What the shell gets.
    message : str
        What the user reads; names what is wrong and how to mend it.
    """

    def __init__(self, code: ExitCode, message: str):
        super().__init__(message)
        self.code = code


def cannot_write(folder: Path | str, error: OSError) -> Stop:
    """What ends a run that cannot write a folder.

    Parameters
    ----------
    folder : Path or str
        Which.
    error : OSError
        Why not.

    Returns
    -------
    Stop
        To be raised, 73.

    Examples
    --------
    >>> print(cannot_write("out", OSError("no room")))
    out: cannot be written (no room); make room, remove what stands there, or choose another folder
    """
    fix = "make room, remove what stands there, or choose another folder"
    return Stop(ExitCode.CANNOT_WRITE, f"{folder}: cannot be written ({error}); {fix}")
