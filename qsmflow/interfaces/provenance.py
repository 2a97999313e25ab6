"""What a map's sidecar says of how the map came about."""

import math

import nibabel as nib
from nipype.interfaces.base import BaseInterfaceInputSpec, File, SimpleInterface, TraitedSpec, traits

from qsmflow.bids.provenance import plain, sidecar
from qsmflow.interfaces.images import geometry
from qsmflow.reports.summary import ACQUISITION


class _DescribeMapInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="the map")
    records = traits.List(traits.Dict, mandatory=True, desc="StageRecord of every stage, in order")
    last_stage = traits.Str(desc="stage that made the map; all stages unless given")
    acquisition = traits.Any(mandatory=True, desc="Acquisition the map was made of")
    bids_dir = traits.Str(mandatory=True, desc="root of the input data set")
    field_strength = traits.Float(mandatory=True, desc="B0 in T")
    units = traits.Either(None, traits.Str, usedefault=True, desc="unit of the values")
    skull_stripped = traits.Bool(True, usedefault=True, desc="whether voxels outside the brain are zero")
    description = traits.Str(mandatory=True, desc="what the map shows")
    extra = traits.Dict(usedefault=True, desc="further fields")


class _DescribeMapOutputSpec(TraitedSpec):
    meta = traits.Dict(desc="JSON sidecar")


class DescribeMap(SimpleInterface):
    """Make the JSON sidecar of a map from the records of the stages that led to it."""

    input_spec = _DescribeMapInputSpec
    output_spec = _DescribeMapOutputSpec

    def _run_interface(self, runtime):
        records = self.inputs.records
        if self.inputs.last_stage:
            names = [record["stage"] for record in records]
            records = records[: names.index(self.inputs.last_stage) + 1]
        reference = next((r["figures"] for r in records if r["stage"] == "Referencing"), None)
        self._results["meta"] = sidecar(
            records,
            acquisition=self.inputs.acquisition,
            bids_dir=self.inputs.bids_dir,
            units=self.inputs.units,
            skull_stripped=self.inputs.skull_stripped,
            description=self.inputs.description,
            field_strength=self.inputs.field_strength,
            b0_direction=geometry(self.inputs.in_file).b0_direction,
            reference=reference,
            extra=self.inputs.extra,
        )
        return runtime


class _DescribeAcquisitionInputSpec(BaseInterfaceInputSpec):
    acquisition = traits.Any(mandatory=True, desc="Acquisition to describe")
    phase_range = traits.Str(mandatory=True, desc="range that the stored phase was found to have")
    field_strength = traits.Float(mandatory=True, desc="B0 in T")
    records = traits.List(traits.Dict, mandatory=True, desc="StageRecord of every stage")


class _DescribeAcquisitionOutputSpec(TraitedSpec):
    facts = traits.Dict(desc="facts by BIDS name, in SI units")


class DescribeAcquisition(SimpleInterface):
    """Collect what the report tells of an acquisition: its metadata and what was detected in it."""

    input_spec = _DescribeAcquisitionInputSpec
    output_spec = _DescribeAcquisitionOutputSpec

    def _run_interface(self, runtime):
        acquisition = self.inputs.acquisition
        image = nib.load(acquisition.magnitudes[0])
        frame = geometry(acquisition.magnitudes[0])
        sign = next(
            (r["figures"]["PhaseSign"] for r in self.inputs.records if r["stage"] == "Phase sign"), None
        )
        detected = {
            "MagneticFieldStrength": self.inputs.field_strength,
            "EchoTimes": list(acquisition.echo_times),
            "MatrixSize": list(image.shape[:3]),
            "VoxelSize": [round(edge, 4) for edge in frame.voxel_size],
            "Orientation": "".join(nib.aff2axcodes(image.affine)),
            "B0Direction": [round(value, 4) for value in frame.b0_direction],
            "B0Angle": round(math.degrees(math.acos(min(1.0, abs(frame.b0_direction[2])))), 2),
            "PhaseRange": self.inputs.phase_range,
            "PhaseSign": sign,
            "SourceFiles": 2 * len(acquisition.echoes),
        }
        metadata = acquisition.echoes[0].metadata
        stated = {name: metadata[name] for name in ACQUISITION if name in metadata}
        self._results["facts"] = plain(stated | detected)
        return runtime
