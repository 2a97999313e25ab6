"""What every stage's interface has in common."""

from abc import abstractmethod
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import torch
from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, traits

from qsmflow.version import __version__


def numeric_defaults(function: Callable) -> dict[str, float]:
    """Numbers that a core function uses unless it is told otherwise, for the stage's record.

    Examples
    --------
    >>> numeric_defaults(lambda image, *, threshold=0.5, mask=None: None)
    {'threshold': 0.5}
    """
    parameters = signature(function).parameters.items()
    return {name: entry.default for name, entry in parameters if isinstance(entry.default, int | float)}


class StageInputSpec(BaseInterfaceInputSpec):
    """How a stage computes; none of it makes an earlier result stale, so none of it is hashed."""

    num_threads = traits.Range(low=1, value=1, nohash=True, usedefault=True, desc="threads of this stage")
    random_seed = traits.Int(0, nohash=True, usedefault=True, desc="seed of whatever the stage draws")
    use_gpu = traits.Bool(False, nohash=True, usedefault=True, desc="compute on the GPU")


class StageOutputSpec(TraitedSpec):
    """Every stage tells what it did."""

    out_record = traits.Dict(desc="StageRecord of this stage as a dictionary")


class Stage(SimpleInterface):
    """An interface that loads, calls a core function and saves."""

    input_spec = StageInputSpec
    output_spec = StageOutputSpec

    @abstractmethod
    def _run_stage(self, folder: Path) -> dict:
        """Compute in a folder and return the outputs by name."""

    def _run_interface(self, runtime):
        torch.set_num_threads(self.inputs.num_threads)
        torch.manual_seed(self.inputs.random_seed)
        self._results.update(self._run_stage(Path(runtime.cwd)))
        self._results["out_record"]["version"] = __version__
        return runtime
