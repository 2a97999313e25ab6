"""Which of the user's masks belongs to which acquisition."""

import numpy as np
import pytest

from qsmflow.bids.brain_masks import find_brain_masks
from qsmflow.bids.layout import collect_acquisitions, open_layout

MASK = np.ones((8, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (["sub-01_desc-brain_mask"], "sub-01_desc-brain_mask"),
        (["sub-01_desc-brain_mask", "sub-01_run-1_desc-brain_mask"], "sub-01_run-1_desc-brain_mask"),
        (["sub-01_run-2_desc-brain_mask"], None),
        (["sub-01_space-MNI152_desc-brain_mask"], None),
        (["sub-01_desc-lesion_mask"], None),
        (["sub-02_desc-brain_mask"], None),
    ],
)
def test_masks(study, tmp_path, offered, expected):
    study.add_scan("sub-01/anat/sub-01_run-01")
    folder = study.root / "derivatives" / "masks"
    study.write_json(
        "derivatives/masks/dataset_description.json", {"Name": "m", "GeneratedBy": [{"Name": "m"}]}
    )
    for name in offered:
        study.write_image(f"derivatives/masks/{name[:6]}/anat/{name}.nii.gz", MASK)
    layout = open_layout(study.root, derivatives={"masks": folder})
    found = find_brain_masks(layout, collect_acquisitions(layout).acquisitions)
    assert {name: path.name for name, path in found.items()} == (
        {} if expected is None else {"sub-01_run-01": f"{expected}.nii.gz"}
    )
