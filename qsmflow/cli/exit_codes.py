"""How a run ends, and the exception that carries it."""

from enum import IntEnum


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
