"""Memory that is reserved grows with what makes a stage larger."""

import pytest

from qsmflow.workflows.memory import NETWORKS, PROCESS_GB, stage_memory

SHAPE = (128, 128, 64)


def test_every_stage_needs_more_than_its_process():
    assert min(stage_memory(SHAPE, n_echoes=1).values()) > PROCESS_GB


def test_memory_above_the_process_is_proportional_to_the_voxels():
    small, large = stage_memory(SHAPE, n_echoes=4), stage_memory((256, 128, 64), n_echoes=4)
    for stage, needed in small.items():
        assert large[stage] - PROCESS_GB == pytest.approx(2 * (needed - PROCESS_GB))


def test_echoes_cost_only_where_all_are_held():
    few, many = (stage_memory(SHAPE, n_echoes=n_echoes) for n_echoes in (2, 8))
    assert {stage for stage in few if many[stage] > few[stage]} == {"scale", "fit"}


def test_slabs_spare_memory_of_the_fit_alone():
    full, low = (stage_memory(SHAPE, n_echoes=6, low_mem=low_mem) for low_mem in (False, True))
    assert low["fit"] < full["fit"]
    assert {stage for stage in full if low[stage] != full[stage]} == {"fit"}


@pytest.mark.parametrize("limit", [0.1, 1.35, 64.0])
def test_networks_keep_within_the_limit_between_what_they_need_and_what_they_can_use(limit):
    plain = stage_memory(SHAPE, n_echoes=4)
    assert "motion" not in plain
    given = stage_memory(SHAPE, n_echoes=4, networks=("invert", "motion"), limit=limit)
    voxels = 128 * 128 * 64
    for stage, (tile, least, ample) in NETWORKS.items():
        smallest, largest = (PROCESS_GB + tile + voxels * each / 1e9 for each in (least, ample))
        assert smallest < 1.35 < largest
        assert given[stage] == pytest.approx(min(max(limit, smallest), largest))
    assert {stage for stage in plain if given[stage] != plain[stage]} == {"invert"}
