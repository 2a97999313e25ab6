"""What earlier runs left in the work folder: whatever is damaged goes."""

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
from nipype.utils.filemanip import loadpkl

#: Files of Nipype that a stage cannot be taken up again without.
_RESULTS = "result_*.pklz"


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
