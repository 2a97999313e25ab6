import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.core.metrics import nrmse
from qsmflow.sim.mgre import line_times
from qsmflow.train.pairs import PairSettings, draw_motions, draw_protocol, write_pairs

COARSE = PairSettings(
    motions=2, isotropic=(6, 6), in_plane=(6, 6), thickness=(6, 6), echoes=(3, 3), spread=1.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    assert list(write_pairs(out, subjects=range(7, 8), settings=COARSE)) == ["sub-007"]
    return out / "sub-007"


def test_still_map_is_nearer_to_the_truth_than_moved_ones(folder):
    anat = folder / "anat"
    maps = [
        nib.load(anat / f"sub-007_{name}_Chimap.nii.gz").get_fdata(dtype=np.float32)
        for name in ("acq-still_desc-truth", "acq-still", "acq-motion_run-01", "acq-motion_run-02")
    ]
    masks = [
        nib.load(anat / f"sub-007_{name}_desc-brain_mask.nii.gz").get_fdata() > 0
        for name in ("acq-still", "acq-motion_run-01", "acq-motion_run-02")
    ]
    mask = torch.from_numpy(np.logical_and.reduce([*masks, maps[0] != 0]))
    truth, still, *moved = (torch.from_numpy(image) for image in maps)
    error = nrmse(still, truth, mask=mask)
    assert error < 100
    changes = [nrmse(image, still, mask=mask) for image in moved]
    assert all(change > 3 for change in changes)
    assert float((moved[0] - moved[1])[mask].abs().max()) > 0.01


def test_maps_are_zero_outside_their_masks_and_have_no_mean(folder):
    for name in ("acq-still", "acq-motion_run-01"):
        chi, mask = (
            nib.load(folder / "anat" / f"sub-007_{name}_{kind}.nii.gz").get_fdata()
            for kind in ("Chimap", "desc-brain_mask")
        )
        assert not chi[mask == 0].any()
        assert abs(chi[mask > 0].mean()) < 1e-4


def test_sidecars_have_the_units(folder):
    for path in (
        "anat/sub-007_acq-motion_run-02_Chimap.json",
        "fmap/sub-007_acq-still_desc-local_fieldmap.json",
    ):
        assert json.loads((folder / path).read_text())["Units"] == "ppm"


def test_a_subject_that_is_there_is_not_made_again(folder):
    path = folder / "anat" / "sub-007_acq-still_Chimap.nii.gz"
    before = path.stat().st_mtime_ns
    list(write_pairs(folder.parent, subjects=range(7, 8), settings=COARSE))
    assert path.stat().st_mtime_ns == before


def test_protocols_keep_to_the_settings():
    settings = PairSettings()
    for seed in range(40):
        protocol = draw_protocol(settings, np.random.default_rng(seed))
        x, y, z = protocol.voxel_size
        assert x == pytest.approx(y)
        low, high = settings.isotropic if x == pytest.approx(z) else settings.in_plane
        assert low <= x <= high
        assert settings.echoes[0] <= len(protocol.echo_times) <= settings.echoes[1]
        assert settings.snr[0] <= protocol.snr <= settings.snr[1]


def test_motions_are_as_large_as_the_settings_say_and_spare_the_centre():
    settings = dataclasses.replace(PairSettings(), motions=60, translation=2.0, rotation=1.0, lying=0.3)
    rng = np.random.default_rng(0)
    protocol = draw_protocol(settings, rng)
    motions = draw_motions(settings, protocol, rng)
    assert len(motions) == 60
    shifts = np.array([pose.translation for motion in motions for pose in motion.poses])
    angles = np.array([pose.rotation for motion in motions for pose in motion.poses])
    # Poses are relative to that of the centre of k-space: up to twice the limit, and some more by rotation.
    assert 2 < np.abs(shifts).max() < 4.5 and 1 < np.abs(angles).max() < 2.2
    onsets = np.array([onset for motion in motions for onset in motion.onsets])
    centre = float(line_times(protocol).flatten()[0])
    assert np.abs(onsets - centre).min() > 0.15
