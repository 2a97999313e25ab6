"""Brain masks that derivative data sets hold for raw acquisitions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bids.layout import BIDSLayout

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.layout import same_label
from qsmflow.bids.names import parse_name


def find_brain_masks(layout: BIDSLayout, acquisitions: Sequence[Acquisition]) -> dict[str, Path]:
    """Find a ``desc-brain_mask`` for each acquisition in the layout's derivatives.

    A mask fits if subject and session agree and none of its other entities disagrees, which leaves
    out masks of other runs and those in the space of a template; the one that names most entities is taken.

    Parameters
    ----------
    layout : BIDSLayout
        With derivatives.
    acquisitions : sequence of Acquisition
        Which masks are wanted for.

    Returns
    -------
    dict
        Path of the mask by the acquisition's name; without an entry where there is none.
    """
    candidates = [
        image
        for derivative in layout.derivatives.values()
        for image in derivative.get(suffix="mask", desc="brain", extension=[".nii", ".nii.gz"])
    ]
    found = {}
    for acquisition in acquisitions:
        fitting = [
            (len(entities), Path(image.path))
            for image in candidates
            if _fits(entities := parse_name(image.path).entities, acquisition)
        ]
        if fitting:
            found[acquisition.name] = max(fitting)[1]
    return found


def _fits(entities: Mapping[str, str], acquisition: Acquisition) -> bool:
    wanted = {**acquisition.all_entities, "desc": "brain"}
    return entities.get("session") == acquisition.session and all(
        same_label(value, wanted.get(name)) for name, value in entities.items()
    )
