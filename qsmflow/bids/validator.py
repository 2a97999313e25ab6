"""Run the official BIDS validator, offline and without a trace in the user's home."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from qsmflow.bids.findings import Finding

#: Names under which the validator is installed.
EXECUTABLES = ("bids-validator-deno", "bids-validator")
BY_HAND = "run it by hand, then give --skip-bids-validation"


def find_validator() -> str | None:
    """Path of the validator: beside this Python first, then on the PATH.

    Returns
    -------
    str or None
        None where it is not installed.
    """
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    return next(
        (found for place in places for name in EXECUTABLES if (found := shutil.which(name, path=place))), None
    )


class Validation(AbstractContextManager):
    """The official validator at work on a data set, while something else is done.

    Leaving it as a context ends it, whether it is done or not.

    Parameters
    ----------
    bids_dir : path
        Data set, raw or derivative.
    """

    def __init__(self, bids_dir: Path | str):
        self._folder = tempfile.TemporaryDirectory(prefix="qsmflow-validator-")
        self._report = Path(self._folder.name, "report.json")
        self._process: subprocess.Popen | None = None
        self._problem = self._start(str(bids_dir))

    def __exit__(self, *exception):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()

    def findings(self, *, participants: Iterable[str] = (), timeout: float = 600.0) -> list[Finding]:
        """Wait for the errors that it finds.

        Parameters
        ----------
        participants : iterable of str
            Labels without ``sub-``; where given, errors in the folders of others are left out.
        timeout : float
            Seconds after which it is given up.

        Returns
        -------
        list of Finding
            Errors of the category "bids". A validator that is missing or fails is one warning.
        """
        if self._process is None:
            return [self._problem]
        try:
            _, stderr = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return [_not_run(f"it took more than {timeout:g} s", BY_HAND)]
        try:
            issues = json.loads(self._report.read_text("utf-8"))["issues"]
        except (OSError, ValueError, KeyError):
            said = (stderr.strip().splitlines() or ["it said nothing"])[-1]
            code = self._process.returncode
            return [_not_run(f"it ended with code {code} and no report ({said})", BY_HAND)]
        found = [
            _finding(issue, issues["codeMessages"])
            for issue in issues["issues"]
            if issue["severity"] == "error"
        ]
        wanted = {None, *participants}
        return [finding for finding in found if wanted == {None} or finding.subject in wanted]

    def _start(self, bids_dir: str) -> Finding | None:
        """Start it, or say why that cannot be done."""
        executable = find_validator()
        if executable is None:
            return _not_run("it is not installed", "pip install bids-validator-deno")
        options = ["--ignoreWarnings", "--format", "json", "--outfile", str(self._report)]
        quiet = {"DENO_DIR": self._folder.name, "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
        try:
            self._process = subprocess.Popen(
                [executable, bids_dir, *options],
                env={**os.environ, **quiet},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            return _not_run(f"it cannot be started ({error.strerror})", BY_HAND)
        return None


def validate(
    bids_dir: Path | str, *, participants: Iterable[str] = (), timeout: float = 600.0
) -> list[Finding]:
    """Errors that the official validator finds in a data set.

    Parameters
    ----------
    bids_dir : path
        Data set, raw or derivative.
    participants, timeout
        As for :meth:`Validation.findings`.

    Returns
    -------
    list of Finding
        As of :meth:`Validation.findings`.
    """
    with Validation(bids_dir) as validation:
        return validation.findings(participants=participants, timeout=timeout)


def _not_run(problem: str, fix: str) -> Finding:
    return Finding("warning", "bids-validator", "official validator", problem, fix)


def _finding(issue: dict, messages: dict[str, str]) -> Finding:
    """One issue of the report; `codeMessages` holds the sentences that issues share."""
    location = issue.get("location", "/").lstrip("/")
    first = location.split("/")[0]
    message = messages.get(issue["code"], issue.get("issueMessage", issue["code"])).strip()
    sentence = message.splitlines()[0].split(". ")[0]
    return Finding(
        severity="error",
        file=location or "data set",
        field=": ".join(filter(None, (issue["code"], issue.get("subCode")))),
        problem=sentence.rstrip("."),
        fix="correct it, or give --skip-bids-validation",
        subject=first.removeprefix("sub-") if first.startswith("sub-") else None,
        category="bids",
    )
