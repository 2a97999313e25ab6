"""How every command begins and ends: its arguments, a message a user can act on, and an exit code."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from qsmflow.cli.environment import ensure_utf8
from qsmflow.cli.exit_codes import ExitCode, Stop


def guarded(program: str, run: Callable[..., int], argv: Sequence[str] | None) -> int:
    """Run a command and turn whatever it raises into a message and an exit code.

    Parameters
    ----------
    program : str
        Name of the command, before each message.
    run : callable
        The command; gets the arguments, and by name the console of the messages.
    argv : sequence of str or None
        Arguments; None for those of this process, which is then the command's own.

    Returns
    -------
    int
        Exit code; see :class:`qsmflow.cli.exit_codes.ExitCode`.

    Examples
    --------
    >>> guarded("qsmflow", lambda argv, console: ExitCode.DONE, [])
    0
    """
    if argv is None:
        ensure_utf8()
        argv = sys.argv[1:]
    if sys.stderr is None:  # closed by whoever called
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    console = Console(stderr=True, soft_wrap=True)
    try:
        return int(run(argv, console=console))
    except Stop as stop:
        console.print(f"{program}: {stop}", style="red", markup=False, highlight=False)
        return int(stop.code)
    except OSError as error:
        if (
            error.errno == errno.ENOENT and error.filename is None
        ):  # as the system says it of this folder alone
            message = "the folder that this was started in has gone; change to one that exists"
            console.print(f"{program}: {message}", style="red", highlight=False)
            return int(ExitCode.NO_INPUT)
        console.print(f"{program}: {error}", style="red", markup=False, highlight=False)
        return int(ExitCode.INPUT_OUTPUT)
    except Exception:
        console.print(traceback.format_exc(), markup=False, highlight=False)
        console.print(f"{program}: internal error; please report it with the lines above", style="red")
        return int(ExitCode.INTERNAL)
