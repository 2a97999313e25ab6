"""What all stages share: threads, seed, version, and what makes a result stale."""

from pathlib import Path

import pytest
import torch
from nipype.interfaces.base import traits

from qsmflow.bids.provenance import StageRecord
from qsmflow.interfaces import background, echoes, inversion, masks, susceptibility, unwrap
from qsmflow.interfaces.echoes import FitEchoes
from qsmflow.interfaces.stage import Stage, StageInputSpec, StageOutputSpec
from qsmflow.version import __version__

STAGES = [
    value
    for module in (echoes, masks, unwrap, background, susceptibility, inversion)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Stage) and value is not Stage
]
HOW = {"num_threads": 3, "random_seed": 7, "use_gpu": True}


class _DrawOutputSpec(StageOutputSpec):
    values = traits.List(traits.Float)
    threads = traits.Int()


class Draw(Stage):
    """A stage that is random."""

    output_spec = _DrawOutputSpec

    def _run_stage(self, folder: Path) -> dict:
        return {
            "values": torch.rand(4).tolist(),
            "threads": torch.get_num_threads(),
            "out_record": StageRecord("Draw", "Uniform").to_dict(),
        }


def test_a_seed_makes_a_random_stage_reproducible(tmp_path):
    first, again, other = (Draw(random_seed=seed).run(cwd=str(tmp_path)).outputs.values for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_threads_and_version_are_those_of_the_run(tmp_path):
    found = Draw(num_threads=2).run(cwd=str(tmp_path)).outputs
    assert found.threads == 2
    assert found.out_record["version"] == __version__
    assert found.out_record["software"] == "qsmflow"


@pytest.mark.parametrize("stage", STAGES)
def test_how_a_stage_computes_makes_no_result_stale(stage):
    plain, other = stage().inputs, stage(**HOW).inputs
    assert plain.get_hashval()[1] == other.get_hashval()[1]
    unhashed = {name for name, trait in plain.traits().items() if trait.nohash}
    assert unhashed == set(HOW)


@pytest.mark.parametrize("stage", STAGES)
def test_every_trait_is_described(stage):
    specs = (stage.input_spec, stage.output_spec)
    own = {name: trait for spec in specs for name, trait in spec().traits().items() if "trait_" not in name}
    assert not [name for name, trait in own.items() if not trait.desc]
    assert issubclass(stage.input_spec, StageInputSpec)


def test_inputs_make_a_result_stale(head, scaled, maps):
    given = {**scaled, "mask": maps["mask"], "echo_times": list(head.echo_times)}
    hashes = {
        FitEchoes(**{**given, **change}).inputs.get_hashval()[1]
        for change in (
            {},
            {"bipolar": True},
            {"echo_times": [2 * time for time in head.echo_times]},
            {"mask": maps["magnitude"]},
            {"phase": scaled["magnitude"]},
        )
    }
    assert len(hashes) == 5
