"""What is wrong with the input, said so that the user can mend it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where it is, and what to do about it.

    Attributes
    ----------
    severity : {"error", "warning"}
        An error keeps the subject from being processed.
    file : str
        The file, from its ``sub-`` folder on.
    field : str
        Metadata field, entity or property of the image.
    problem : str
        What is wrong, one clause.
    fix : str
        What the user can do.
    subject : str, optional
        Label without ``sub-``; none where the whole data set is concerned.
    category : {"data", "input", "filter", "bids", "resources"}
        What kind of failure it is: bad data, an input that is not there, filters that match
        nothing, a data set that breaks the standard, or more than the run may use.

    Examples
    --------
    >>> print(Finding("error", "sub-01_MEGRE.json", "EchoTime", "it is missing", "add it in seconds"))
    sub-01_MEGRE.json: EchoTime: it is missing. Fix: add it in seconds.
    """

    severity: Literal["error", "warning"]
    file: str
    field: str
    problem: str
    fix: str
    subject: str | None = None
    category: Literal["data", "input", "filter", "bids", "resources"] = "data"

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.problem}. Fix: {self.fix}."


class InputProblem(ValueError):
    """Something in the input that cannot be used, with the problem and its fix in two clauses.

    Examples
    --------
    >>> print(InputProblem("the file is empty", "put the image in its place"))
    the file is empty; put the image in its place
    """

    def __init__(self, problem: str, fix: str):
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}; {self.fix}"


def short_path(path: Path | str) -> str:
    """Path from the ``sub-`` folder on, the way a user speaks of a file in a data set.

    Characters that would break the line or drive the terminal are written as escapes.

    Examples
    --------
    >>> short_path("/data/study/sub-01/anat/sub-01_part-mag_T2starw.nii")
    'sub-01/anat/sub-01_part-mag_T2starw.nii'
    """
    parts = Path(path).parts
    folders = [index for index, part in enumerate(parts[:-1]) if part.startswith("sub-")]
    name = "/".join(parts[folders[-1] if folders else -1 :])
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)


def format_findings(findings: Iterable[Finding]) -> str:
    """Findings as plain lines, errors first; files that share one problem share one line.

    Parameters
    ----------
    findings : iterable of Finding
        In any order.

    Returns
    -------
    str
        One line a problem: ``ERROR file: field: problem. Fix: what to do.``

    Examples
    --------
    >>> names = [f"echo-{echo}.nii" for echo in range(1, 9)]
    >>> print(format_findings(Finding("error", name, "image", "it is empty", "fetch it") for name in names))
    ERROR echo-1.nii … echo-8.nii (8 files): image: it is empty. Fix: fetch it.
    """
    shared: dict[tuple[str, ...], list[str]] = {}
    for finding in sorted(findings, key=lambda each: each.severity):
        key = (finding.severity, finding.field, finding.problem, finding.fix)
        shared.setdefault(key, []).append(finding.file)
    lines = []
    for (severity, field, problem, fix), files in shared.items():
        files = list(dict.fromkeys(files))
        where = ", ".join(files) if len(files) < 3 else f"{files[0]} … {files[-1]} ({len(files)} files)"
        lines.append(f"{severity.upper()} {Finding(severity, where, field, problem, fix)}")
    return "\n".join(lines)
