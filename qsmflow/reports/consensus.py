"""The list that the QSM consensus paper asks every study to report."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from qsmflow.reports.html import format_value, humanise, table
from qsmflow.reports.methods import read_bibliography
from qsmflow.reports.motion import RESIDUALS
from qsmflow.version import __version__

CONSENSUS_DOI = "10.1002/mrm.30006"


def reporting_list(acquisition: Mapping, records: Sequence[Mapping]) -> Markup:
    """Processing details of Table 5 of the consensus paper, filled in from what was run.

    Parameters
    ----------
    acquisition : mapping
        Facts of the series; not needed here, every fragment is called alike.
    records : sequence of mapping
        Stages in the order they ran, each as ``StageRecord.to_dict()``.

    Returns
    -------
    Markup
        HTML fragment.

    References
    ----------
    QSM Consensus Organization Committee et al. 2024, 10.1002/mrm.30006.

    Examples
    --------
    >>> record = {"stage": "Dipole inversion", "algorithm": "TKD", "parameters": {"Threshold": 0.19}}
    >>> "threshold = 0.19" in reporting_list({}, [record])
    True
    """
    rows = [
        ("Toolbox", _toolbox(records)),
        *(
            (f"Algorithm: {record['stage']}", _algorithm(record))
            for record in records
            if record["stage"] not in RESIDUALS
        ),
        (
            "Further processing",
            "Maps are written as NIfTI on the grid of the input images; no conversion for an image archive.",
        ),
        ("Referencing", _referencing(records)),
        ("Unit of susceptibility", "ppm"),
        ("Inclusion and exclusion", "For the study to state; the warnings of this report may serve."),
    ]
    note = Markup(
        "<p>Reconstruction parameters to report, after the consensus of the ISMRM electro-magnetic tissue "
        'properties study group (<a href="https://doi.org/{doi}">doi:{doi}</a>, Table 5). '
        "Its acquisition parameters stand in the table of the acquisition.</p>\n"
    ).format(doi=CONSENSUS_DOI)
    return note + table(("Item", "Reported"), rows, caption="Reporting list of the QSM consensus paper")


def _toolbox(records: Sequence[Mapping]) -> str:
    """Software and versions, each once."""
    used = [(record.get("software"), record.get("version")) for record in records]
    others = [
        f"{name} {version or ''}".strip() for name, version in used if name not in (None, "", "qsmflow")
    ]
    return ", ".join(dict.fromkeys([f"qsmflow {__version__}", *others]))


def _algorithm(record: Mapping) -> Markup:
    """Algorithm, every numeric parameter and where it is described."""
    parameters = format_value(record.get("parameters") or {}) or "no parameters"
    links = Markup(", ").join(_reference(key) for key in record.get("references") or ())
    return Markup("<strong>{}</strong>{}<br>{}").format(
        record["algorithm"], Markup(" ({})").format(links) if links else "", parameters
    )


def _reference(key: str) -> Markup:
    """Author and year of a bibliography entry, leading to its DOI; the key alone where it is unknown."""
    entry = read_bibliography().get(key)
    if entry is None or "doi" not in entry.fields:
        return Markup("{}").format(key)
    author = " ".join(entry.persons["author"][0].prelast_names + entry.persons["author"][0].last_names)
    return Markup('<a href="https://doi.org/{}">{}</a>').format(
        entry.fields["doi"], f"{author} {entry.fields.get('year', '')}".strip("{} ")
    )


def _referencing(records: Sequence[Mapping]) -> str:
    """Region that susceptibility is relative to and what was measured in it."""
    found = [record for record in records if "referenc" in record["stage"].lower()]
    if not found:
        return "No reference region was subtracted."
    record = found[-1]
    details = {**(record.get("parameters") or {}), **(record.get("figures") or {})}
    details = {humanise(name): format_value(value) for name, value in details.items()}
    if details.keys() >= {"mean", "std"}:
        details["mean ± SD"] = f"{details.pop('mean')} ± {details.pop('std')} ppm"
    return "; ".join([record["algorithm"], *(f"{name} = {value}" for name, value in details.items())])
