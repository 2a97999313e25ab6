"""Which scan of a subject the others are compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.findings import Finding
from qsmflow.bids.layout import same_label


@dataclass(frozen=True)
class References:
    """References that were found.

    Attributes
    ----------
    of : mapping
        Reference acquisition by the name of each that is compared with it.
    findings : tuple of Finding
        Subjects and sessions without one, or with several.
    """

    of: Mapping[str, Acquisition]
    findings: tuple[Finding, ...]


def find_references(acquisitions: Sequence[Acquisition], *, wanted: Mapping[str, Any]) -> References:
    """Find the reference of each acquisition: that of its session, else the subject's only one.

    Parameters
    ----------
    acquisitions : sequence of Acquisition
        Those that are processed.
    wanted : mapping
        Labels by entity that tell the references, such as ``{"acquisition": "still"}``; none finds none.

    Returns
    -------
    References
        References themselves are compared with nothing.
    """
    found, findings = {}, []
    if not wanted:
        return References(found, ())
    members = sorted(acquisitions, key=lambda each: (each.subject, each.name))
    for _, group in groupby(members, key=lambda each: each.subject):
        own = list(group)
        references = [each for each in own if _is_wanted(each, wanted)]
        for each in own:
            if each in references:
                continue
            near = [other for other in references if other.session == each.session] or references
            if len(near) == 1:
                found[each.name] = near[0]
            else:
                findings.append(_no_reference(each, near, wanted))
    return References(found, tuple(findings))


def _is_wanted(acquisition: Acquisition, wanted: Mapping[str, Any]) -> bool:
    labels = acquisition.all_entities
    return all(same_label(labels.get(entity), label) for entity, label in wanted.items())


def _no_reference(
    acquisition: Acquisition, references: Sequence[Acquisition], wanted: Mapping[str, Any]
) -> Finding:
    filters = ", ".join(f"{entity}={label}" for entity, label in wanted.items())
    if references:
        names = ", ".join(each.name for each in references)
        problem, fix = f"{names} all match {filters}", "name more entities, so that one is left"
    else:
        problem, fix = f"no scan of the subject matches {filters}", "see which labels its scans have"
    return Finding(
        "warning",
        acquisition.name,
        "--reference-filter",
        f"{problem}; it is compared with none",
        fix,
        subject=acquisition.subject,
    )
