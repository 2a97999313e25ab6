"""Masks: made, given, refined, and of the fluid."""

import numpy as np
import pytest

from qsmflow.interfaces.masks import MaskBrain, RefineMask, SegmentCSF


def test_brain_is_found(head, maps, tmp_path):
    found = MaskBrain(magnitude=maps["magnitude"]).run(cwd=str(tmp_path)).outputs
    mask = head.read(found.mask, dtype=np.uint8)
    assert 2 * (mask * head.mask).sum() / (mask.sum() + head.mask.sum()) > 0.98
    assert found.out_record["stage"] == "Brain mask"


def test_given_mask_is_kept_as_it_is(head, maps, tmp_path):
    own = np.zeros(head.mask.shape)
    own[3:9, 4:20, 5:7] = 1
    path = head.write("own", own[..., None])
    found = MaskBrain(magnitude=maps["magnitude"], mask_file=path).run(cwd=str(tmp_path)).outputs
    np.testing.assert_array_equal(head.read(found.mask, dtype=np.uint8), own)
    assert found.out_record["algorithm"] == "Given"
    assert found.out_record["parameters"] == {"File": path}


def test_empty_mask_is_refused(head, maps, tmp_path):
    path = head.write("empty", np.zeros(head.mask.shape))
    with pytest.raises(ValueError, match="zero everywhere"):
        MaskBrain(magnitude=maps["magnitude"], mask_file=path).run(cwd=str(tmp_path))


@pytest.fixture
def incoherent(head, maps):
    """Inputs of the refinement with phase noise in the lowest slices of the brain."""
    frequency = head.read(maps["frequency"]).copy()
    spoilt = np.zeros(head.mask.shape, dtype=bool)
    spoilt[:, :, :8] = True
    frequency[spoilt] = np.random.default_rng(0).uniform(-0.5, 0.5, spoilt.sum()) * head.period
    inputs = {name: maps[name] for name in ("mask", "magnitude")}
    path = head.write("frequency-incoherent", frequency)
    return inputs | {"frequency": path, "frequency_period": head.period}, spoilt & head.mask


def test_incoherent_phase_is_left_out(head, incoherent, tmp_path):
    inputs, spoilt = incoherent
    found = RefineMask(**inputs).run(cwd=str(tmp_path)).outputs
    refined = head.read(found.mask, dtype=np.uint8).astype(bool)
    assert not (refined & ~head.mask).any()
    assert (refined & spoilt).sum() < 0.2 * spoilt.sum()
    assert (refined & ~spoilt).sum() > 0.9 * (head.mask & ~spoilt).sum()
    assert found.out_record["stage"] == "Phase quality mask"
    assert found.out_record["figures"]["FractionLost"] == pytest.approx(1 - refined.sum() / head.mask.sum())


def test_whole_mask_is_kept_on_request(head, incoherent, tmp_path):
    inputs, _ = incoherent
    found = RefineMask(**inputs, keep_whole=True).run(cwd=str(tmp_path)).outputs
    np.testing.assert_array_equal(head.read(found.mask, dtype=np.uint8), head.mask)
    assert found.out_record["figures"] == {"FractionLost": 0}
    assert "kept whole" in found.out_record["algorithm"]


def test_fluid_is_where_relaxation_is_slow(head, maps, tmp_path):
    found = SegmentCSF(r2star=maps["r2star"], mask=maps["mask"]).run(cwd=str(tmp_path)).outputs
    fluid = head.read(found.csf_mask, dtype=np.uint8).astype(bool)
    assert (head.r2star[fluid] == 1).mean() > 0.9
    assert found.out_record["warnings"] == []


@pytest.mark.parametrize("r2star", ["none", "without fluid"])
def test_missing_fluid_is_no_mask_and_a_warning(head, maps, tmp_path, r2star):
    path = None if r2star == "none" else head.write("r2star-solid", 20.0 * head.mask)
    found = SegmentCSF(r2star=path, mask=maps["mask"]).run(cwd=str(tmp_path)).outputs
    assert found.csf_mask is None
    assert len(found.out_record["warnings"]) == 1
