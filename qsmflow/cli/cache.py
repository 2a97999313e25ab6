"""What earlier runs left in output and work folder: whatever is unfinished or damaged goes."""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
from nipype.utils.filemanip import loadpkl

from qsmflow.bids.acquisition import Acquisition
from qsmflow.bids.files import remove_unfinished

#: Files of Nipype that a stage cannot be taken up again without.
_RESULTS = "result_*.pklz"


def clear_leftovers(out_dir: Path, workflow_dir: Path, acquisitions: Iterable[Acquisition]) -> list[Path]:
    """Remove what runs that were cut short have left of acquisitions, so that it is made anew.

    Parameters
    ----------
    out_dir : Path
        Derivative data set.
    workflow_dir : Path
        Folder of the workflow in the work folder.
    acquisitions : iterable of Acquisition
        Those that are about to be processed; others may be those of another run.

    Returns
    -------
    list of Path
        Folders of stages that were removed, as :func:`drop_damaged` tells.
    """
    subjects = set()
    for each in acquisitions:
        subjects.add(each.subject)
        remove_unfinished(out_dir / f"sub-{each.subject}", prefix=each.subject_and_session)
    return drop_damaged(workflow_dir, subjects)


def drop_damaged(workflow_dir: Path, subjects: Iterable[str]) -> list[Path]:
    """Remove the folders of stages whose results are damaged, so that these stages run again.

    What a full disk or a machine that went down leaves: results that cannot be read, images that are
    shorter than their header says, and empty files.

    Parameters
    ----------
    workflow_dir : Path
        Folder of the workflow in the work folder.
    subjects : iterable of str
        Labels without ``sub-``; others are left to those who work on them.

    Returns
    -------
    list of Path
        Folders that were removed.
    """
    folders = (workflow_dir / f"sub_{subject}_wf" for subject in sorted(set(subjects)))
    stages = {path.parent for folder in folders for path in folder.rglob(_RESULTS)}
    damaged = sorted(stage for stage in stages if _is_damaged(stage))
    for stage in damaged:
        shutil.rmtree(stage)
    return damaged


def _is_damaged(stage: Path) -> bool:
    try:
        for result in stage.glob(_RESULTS):
            loadpkl(result)
        return any(_is_short(path) for path in stage.iterdir() if path.is_file())
    except Exception:  # A pickle may raise anything.
        return True


def _is_short(path: Path) -> bool:
    """Whether a file that a stage made lacks its end."""
    if path.suffix != ".nii":
        return path.suffix in (".html", ".svg", ".json", ".txt") and path.stat().st_size == 0
    values = nib.load(path).dataobj
    return path.stat().st_size < values.offset + values.dtype.itemsize * math.prod(values.shape)
