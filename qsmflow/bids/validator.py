"""Run the official BIDS validator, offline and without a trace in the user's home."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
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


def validate(
    bids_dir: Path | str, *, participants: Iterable[str] = (), timeout: float = 600.0
) -> list[Finding]:
    """Errors that the official validator finds in a data set.

    Parameters
    ----------
    bids_dir : path
        Data set, raw or derivative.
    participants : iterable of str
        Labels without ``sub-``; where given, errors in the folders of others are left out.
    timeout : float
        Seconds after which it is given up.

    Returns
    -------
    list of Finding
        Errors of the category "bids". A validator that is missing or fails is one warning.
    """
    executable = find_validator()
    if executable is None:
        return [_not_run("it is not installed", "pip install bids-validator-deno")]
    with tempfile.TemporaryDirectory(prefix="qsmflow-validator-") as folder:
        report = Path(folder, "report.json")
        command = [
            executable,
            str(bids_dir),
            "--ignoreWarnings",
            "--format",
            "json",
            "--outfile",
            str(report),
        ]
        quiet = {**os.environ, "DENO_DIR": folder, "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
        try:
            done = subprocess.run(
                command, env=quiet, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return [_not_run(f"it took more than {timeout:g} s", BY_HAND)]
        except OSError as error:
            return [_not_run(f"it cannot be started ({error.strerror})", BY_HAND)]
        try:
            issues = json.loads(report.read_text("utf-8"))["issues"]
        except (OSError, ValueError, KeyError):
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return [_not_run(f"it ended with code {done.returncode} and no report ({said})", BY_HAND)]
    findings = [
        _finding(issue, issues["codeMessages"]) for issue in issues["issues"] if issue["severity"] == "error"
    ]
    wanted = {None, *participants}
    return [finding for finding in findings if wanted == {None} or finding.subject in wanted]


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
