"""What the parsers of all commands share."""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from qsmflow.cli.exit_codes import ExitCode, Stop

#: Characters of a message about an argument, which may hold whatever was given.
LONGEST_MESSAGE = 1000
_UNITS = {"": 1e-3, "M": 1e-3, "G": 1.0, "T": 1e3}


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, so that exit codes are decided in one place."""

    def error(self, message):
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]} …"
        raise Stop(ExitCode.USAGE, f"{message}\n{self.format_usage()}Try: {self.prog} --help")


def number(kind: Callable, minimum: float, *, exclusive: bool = False, maximum: float = math.inf) -> Callable:
    """Converter for a finite number with bounds, for ``type=`` of an argument.

    Examples
    --------
    >>> number(float, 0, exclusive=True)("0.5")
    0.5
    """

    def convert(text: str):
        try:
            value = kind(text)
            is_finite = math.isfinite(value)
        except (OverflowError, ValueError):
            raise argparse.ArgumentTypeError(f"'{text}' is not a number, or too large for one") from None
        if not (value > minimum if exclusive else value >= minimum):
            bound = "greater than" if exclusive else "at least"
            raise argparse.ArgumentTypeError(f"{text} must be {bound} {minimum}")
        if not (value <= maximum and is_finite):
            raise argparse.ArgumentTypeError(f"{text} must be a finite number of at most {maximum}")
        return value

    return convert


def absolute_path(text: str) -> Path:
    """Converter for a path, which stays right wherever the work is done.

    Raises
    ------
    argparse.ArgumentTypeError
        If the path is empty, as a variable that is not set leaves it, or cannot be written as text.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{text!a} holds bytes that are no UTF-8; rename the folder"
        raise argparse.ArgumentTypeError(message) from None
    return Path(text).absolute()


def memory(text: str) -> float:
    """Converter for memory in GB: a number with an optional unit, without which it is megabytes.

    Parameters
    ----------
    text : str
        For example ``1.5G``, ``8g``, ``4000``, ``4000MB``, ``2GiB``.

    Returns
    -------
    float
        GB.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is no positive amount of memory.

    Examples
    --------
    >>> [memory(text) for text in ("1.5G", "8g", "4000", "500MB")]
    [1.5, 8.0, 4.0, 0.5]
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([MGT]?)(?:i?B)?\s*", text, flags=re.IGNORECASE)
    amount = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not 0 < amount < math.inf:
        message = f"'{text}' is no amount of memory; write for example 8G, 1.5G or 4000 (MB)"
        raise argparse.ArgumentTypeError(message)
    return amount
