"""Write the outputs: the one place where maps leave the work directory."""

import shutil
from pathlib import Path

import nibabel as nb
import numpy as np
from isal import igzip
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from qsmflow.bids.files import replacing, write_json
from qsmflow.bids.names import derivative_name

#: Extensions of files that are no images, by their folder or suffix.
_EXTENSIONS = {"figures": (".svg", ".html", ".json"), "xfm": (".txt",)}


class _DerivativesSinkInputSpec(BaseInterfaceInputSpec):
    base_directory = traits.Directory(
        mandatory=True, desc="output folder, the root of the derivative data set"
    )
    in_file = traits.Either(
        None,
        File(exists=True),
        mandatory=True,
        desc="image or figure to write; None takes away what an earlier run wrote",
    )
    entities = traits.Dict(
        mandatory=True, desc="entities of the acquisition: subject, session, acquisition, …"
    )
    suffix = traits.Str(mandatory=True, desc="suffix of the name, such as Chimap")
    desc = traits.Either(None, traits.Str, usedefault=True, desc="desc- entity of the name")
    datatype = traits.Enum("anat", "fmap", "figures", usedefault=True, desc="folder below the subject's")
    meta = traits.Dict(desc="content of the JSON sidecar")
    compress = traits.Bool(True, usedefault=True, desc="write .nii.gz rather than .nii")


class _DerivativesSinkOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="what was written")
    out_meta = File(desc="its JSON sidecar")


class DerivativesSink(SimpleInterface):
    """Write an image with its sidecar, or a figure, under its BIDS name.

    Images are float32, masks uint8; grid and transform codes of the input are kept. Everything is
    written beside its final name and then renamed. Where there is nothing to write, files of that name
    are removed, for they would pass for results of this run. A map that is blank or not finite is
    refused, for such a file looks like a success.

    Raises
    ------
    ValueError
        If the image is blank or has voxels that are not finite, or the name is not one of ours.
    """

    input_spec = _DerivativesSinkInputSpec
    output_spec = _DerivativesSinkOutputSpec
    # The output folder is outside of what Nipype keeps track of: it may have been emptied since.
    _always_run = True

    def _run_interface(self, runtime):
        inputs = self.inputs
        if inputs.in_file is None:
            self._remove_earlier()
            return runtime
        source = Path(inputs.in_file)
        is_image = source.name.endswith((".nii", ".nii.gz"))
        extension = source.suffix if not is_image else ".nii.gz" if inputs.compress else ".nii"
        target = self._target(extension)
        image = _typed(source, np.uint8 if inputs.suffix == "mask" else np.float32) if is_image else None
        if is_image and isdefined(inputs.meta):
            sidecar = target.with_name(target.name.removesuffix(extension) + ".json")
            write_json(sidecar, inputs.meta)
            self._results["out_meta"] = str(sidecar)
        with replacing(target) as beside:
            if is_image:
                content = image.to_bytes()
                beside.write_bytes(igzip.compress(content, 1, mtime=0) if inputs.compress else content)
            else:
                shutil.copyfile(source, beside)
        self._results["out_file"] = str(target)
        return runtime

    def _target(self, extension: str) -> Path:
        name = derivative_name(
            self.inputs.entities,
            suffix=self.inputs.suffix,
            desc=self.inputs.desc,
            datatype=self.inputs.datatype,
            extension=extension,
        )
        return Path(self.inputs.base_directory).absolute() / name

    def _remove_earlier(self) -> None:
        """Remove what would tell of a result that this run does not have."""
        kind = self.inputs.datatype if self.inputs.datatype == "figures" else self.inputs.suffix
        for extension in _EXTENSIONS.get(kind, (".nii.gz", ".nii", ".json")):
            self._target(extension).unlink(missing_ok=True)


def _typed(path: Path, dtype: type) -> nb.Nifti1Image:
    """The image in the type it is stored in, unscaled, with its header otherwise as it was."""
    image = nb.load(path)
    data = np.asanyarray(image.dataobj).astype(dtype)
    if not np.all(np.isfinite(data)):
        raise ValueError(f"{path}: the map has voxels that are not finite")
    if not np.any(data):
        raise ValueError(f"{path}: the map is blank")
    header = image.header.copy()
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_xyzt_units("mm", "sec")
    header["cal_min"] = header["cal_max"] = 0
    return nb.Nifti1Image(data, image.affine, header)
