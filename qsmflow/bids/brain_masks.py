"""Brain masks that derivative data sets hold for raw acquisitions."""

from collections.abc import Sequence
from pathlib import Path

from bids.layout import BIDSLayout

from qsmflow.bids.layout import Acquisition

_TELLING = ("acquisition", "reconstruction", "run")


def find_brain_masks(layout: BIDSLayout, acquisitions: Sequence[Acquisition]) -> dict[str, Path]:
    """Find a ``desc-brain_mask`` for each acquisition in the layout's derivatives.

    A mask fits if subject and session agree and it names no other acquisition, reconstruction or
    run; the one that names most of them is taken.

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
        ranked = [
            (agreement, Path(image.path))
            for image in candidates
            if (agreement := _agreement(image.get_entities(), acquisition)) is not None
        ]
        if ranked:
            found[acquisition.name] = max(ranked)[1]
    return found


def _agreement(entities: dict, acquisition: Acquisition) -> int | None:
    """Number of entities that agree, None if one disagrees."""
    wanted = acquisition.all_entities
    if any(entities.get(name) != wanted.get(name) for name in ("subject", "session")):
        return None
    named = {name: str(entities[name]) for name in _TELLING if entities.get(name) is not None}
    if any(value != str(wanted.get(name)) for name, value in named.items()):
        return None
    return len(named)
