"""What the parsers of all commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from qsmflow.cli.exit_codes import ExitCode, Stop


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, so that exit codes are decided in one place."""

    def error(self, message):
        raise Stop(ExitCode.USAGE, f"{message}\n{self.format_usage()}Try: {self.prog} --help")


def number(kind: Callable, minimum: float, *, exclusive: bool = False) -> Callable:
    """Converter for a number with a lower bound, for ``type=`` of an argument.

    Examples
    --------
    >>> number(float, 0, exclusive=True)("0.5")
    0.5
    """

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
        if not (value > minimum if exclusive else value >= minimum):
            bound = "greater than" if exclusive else "at least"
            raise argparse.ArgumentTypeError(f"{text} must be {bound} {minimum}")
        return value

    return convert


def absolute_path(text: str) -> Path:
    """Converter for a path, which stays right wherever the work is done."""
    return Path(text).absolute()
