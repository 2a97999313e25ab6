"""Names in and out."""

import pytest

from qsmflow.bids.names import derivative_name, join_name, parse_name

SOURCE = {"subject": "01", "session": "a", "acquisition": "still", "run": "02"}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"suffix": "Chimap"}, "anat/sub-01_ses-a_acq-still_run-02_Chimap.nii.gz"),
        (
            {"suffix": "Chimap", "desc": "motioncorrected"},
            "anat/sub-01_ses-a_acq-still_run-02_desc-motioncorrected_Chimap.nii.gz",
        ),
        ({"suffix": "R2starmap", "extension": ".json"}, "anat/sub-01_ses-a_acq-still_run-02_R2starmap.json"),
        ({"suffix": "mask", "desc": "brain"}, "anat/sub-01_ses-a_acq-still_run-02_desc-brain_mask.nii.gz"),
        (
            {"suffix": "fieldmap", "desc": "total", "datatype": "fmap"},
            "fmap/sub-01_ses-a_acq-still_run-02_desc-total_fieldmap.nii.gz",
        ),
    ],
)
def test_outputs(wanted, expected):
    assert derivative_name(SOURCE, **wanted) == f"sub-01/ses-a/{expected}"


def test_figures_lie_beside_the_sessions():
    name = derivative_name(SOURCE, suffix="Chimap", desc="axial", datatype="figures", extension=".svg")
    assert name == "sub-01/figures/sub-01_ses-a_acq-still_run-02_desc-axial_Chimap.svg"


def test_source_labels_of_single_images_are_left_out():
    assert derivative_name({**SOURCE, "echo": "1", "part": "mag"}, suffix="S0map") == derivative_name(
        SOURCE, suffix="S0map"
    )


@pytest.mark.parametrize("datatype", ["anat", "fmap", "figures"])
def test_two_scans_never_share_a_name(datatype):
    suffix = {"anat": "Chimap", "fmap": "fieldmap", "figures": "Chimap"}[datatype]
    extension = ".svg" if datatype == "figures" else ".nii.gz"
    sources = [
        {"subject": "01"},
        {"subject": "01", "acquisition": "norm"},
        {"subject": "01", "reconstruction": "norm"},
        {"subject": "01", "ceagent": "norm"},
        {"subject": "01", "flip": "1"},
        {"subject": "01", "flip": "2"},
        {"subject": "01", "acquisition": "norm", "flip": "1"},
        {"subject": "01", "resp": "in"},
    ]
    names = {
        derivative_name(s, suffix=suffix, desc="x", datatype=datatype, extension=extension) for s in sources
    }
    assert len(names) == len(sources)


@pytest.mark.parametrize(
    "wanted",
    [{"suffix": "T1w"}, {"suffix": "mask"}, {"suffix": "Chimap", "datatype": "fmap", "desc": "total"}],
)
def test_names_that_are_not_ours(wanted):
    with pytest.raises(ValueError, match="no output of this program"):
        derivative_name(SOURCE, **wanted)


def test_names_are_taken_apart_and_put_together():
    name = parse_name("/data/sub-01/anat/sub-01_ses-a_acq-still_run-02_echo-10_part-phase_MEGRE.nii.gz")
    assert (name.suffix, name.extension) == ("MEGRE", ".nii.gz")
    assert (
        join_name(dict(reversed(name.entities.items()))) == "sub-01_ses-a_acq-still_run-02_echo-10_part-phase"
    )
