"""How every command ends: a message a user can act on, and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from qsmflow.cli.exit_codes import ExitCode, Stop


def guarded(program: str, run: Callable[[Console], ExitCode]) -> int:
    """Run a command and turn whatever it raises into a message and an exit code.

    Parameters
    ----------
    program : str
        Name of the command, before each message.
    run : callable
        The command; gets the console of the messages.

    Returns
    -------
    int
        Exit code; see :class:`qsmflow.cli.exit_codes.ExitCode`.

    Examples
    --------
    >>> guarded("qsmflow", lambda console: ExitCode.DONE)
    0
    """
    if sys.stderr is None:  # closed by whoever called
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    console = Console(stderr=True, soft_wrap=True)
    try:
        return int(run(console))
    except Stop as stop:
        console.print(f"{program}: {stop}", style="red", markup=False, highlight=False)
        return int(stop.code)
    except OSError as error:
        console.print(f"{program}: {error}", style="red", markup=False, highlight=False)
        return int(ExitCode.INPUT_OUTPUT)
    except Exception:
        console.print(traceback.format_exc(), markup=False, highlight=False)
        console.print(f"{program}: internal error; please report it with the lines above", style="red")
        return int(ExitCode.INTERNAL)
