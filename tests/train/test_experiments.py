"""Experiments with methods whose error is known beforehand."""

import math
from types import SimpleNamespace

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import torch

from qsmflow.core.dipole import dipole_field
from qsmflow.core.metrics import nrmse
from qsmflow.nets.bundle import Bundle, ModelCard
from qsmflow.nets.prenet import PReNet, PReNetSettings
from qsmflow.nets.unet import UNet, UNetSettings
from qsmflow.sim.canvas import LABELS
from qsmflow.sim.protocols import protocol
from qsmflow.sim.random_shapes import ShapeSettings, stream_shapes
from qsmflow.train.experiments import deepqsm, inversions, motion, scans
from qsmflow.train.experiments.figures import BoxFigure, MapFigure, ScatterFigure, draw, error_figure
from qsmflow.train.experiments.measures import MEASURES, measured
from qsmflow.train.experiments.published import MOTION_SIMULATED, BeforeAfter
from qsmflow.train.experiments.scans import ScannedMap, SubjectScans, read_scans
from qsmflow.train.experiments.tables import Column, Table
from qsmflow.train.motion_data import PairFiles
from qsmflow.train.reconstruction import Reconstruction
from qsmflow.train.volumes import UnusableData, read_on_grid, read_volume

SPACE = {"voxel_size": (1.0, 1.2, 1.5), "b0_direction": (0.0, 0.6, 0.8)}
AFFINE = np.diag([*SPACE["voxel_size"], 1.0])


@pytest.fixture(scope="module")
def brain() -> deepqsm.Brain:
    """Two balls of 0.1 and -0.05 ppm in a larger ball."""
    axes = [
        (torch.arange(size) - size // 2) * edge
        for size, edge in zip((24, 20, 18), SPACE["voxel_size"], strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    ball = [((x - shift) ** 2 + y**2 + z**2).sqrt() for shift in (-4, 4)]
    chi = 0.1 * (ball[0] < 3).float() - 0.05 * (ball[1] < 3).float()
    return deepqsm.Brain(chi, (x**2 + y**2 + z**2).sqrt() < 10, **SPACE)


def scanned(label: str, values: torch.Tensor, mask: torch.Tensor) -> ScannedMap:
    return ScannedMap(label, values, mask, AFFINE)


def row(table: Table, name: str) -> dict:
    """Cells of a row by heading."""
    cells = next(cells for cells in table.rows if cells[0] == name)
    return dict(zip([column.name for column in table.columns], cells, strict=True))


# DeepQSM


def test_shapes_mean_spread_and_worst_by_hand():
    """Maps that are a quarter and three quarters too small have a mean error of 50 %."""
    settings = ShapeSettings(shape=(12, 12, 12), n_shapes=(3, 5))
    stream = stream_shapes(settings, seed=3, batch_size=1)
    maps = iter([factor * next(stream).susceptibility[0] for factor in (0.75, 0.25)])
    result = deepqsm.unseen_shapes(
        {"scaled": lambda problem: next(maps)}, samples=2, seed=3, settings=settings
    )
    found = row(result.tables[0], "scaled")
    assert found["mean NRMSE (%)"] == pytest.approx(50, abs=1e-4)
    assert found["SD (%)"] == pytest.approx(50 / math.sqrt(2), abs=1e-4)
    assert found["worst (%)"] == pytest.approx(75, abs=1e-4)
    with pytest.raises(ValueError, match="one sample or more"):
        deepqsm.unseen_shapes({}, samples=0, seed=3)


def test_forward_field_is_the_dipole_field_of_the_demeaned_brain(brain):
    problem = brain.local_field()
    mean = brain.susceptibility[brain.mask].mean()
    field = dipole_field(torch.where(brain.mask, brain.susceptibility - mean, 0), **SPACE)
    assert torch.allclose(problem.field, torch.where(brain.mask, field, 0), atol=1e-7)


def test_perfect_network_has_no_error_and_half_a_map_half(brain):
    methods = {
        "perfect": lambda problem: brain.susceptibility + 3,
        "half": lambda problem: brain.susceptibility / 2,
    }
    result = deepqsm.forward_brain(brain, methods, against="half")
    perfect, half = (row(result.tables[0], name) for name in methods)
    assert perfect["NRMSE (%)"] == pytest.approx(0, abs=1e-3)
    assert perfect["SSIM"] == pytest.approx(1, abs=1e-6)
    assert perfect["NRMSE / that of half"] == pytest.approx(0, abs=1e-4)
    assert half["NRMSE (%)"] == pytest.approx(50, abs=1e-3)
    assert half["NRMSE / that of half"] == 1


def test_conjugate_gradients_bring_any_map_nearer_to_an_exact_field(brain):
    problem = brain.local_field()
    found = inversions.recover(
        {
            "half": (half := lambda problem: brain.susceptibility / 2 * brain.mask),
            "few": inversions.refitted(half, steps=3),
            "many": inversions.refitted(half, steps=15),
        },
        problem,
    )
    half, few, many = (
        nrmse(one.susceptibility, brain.susceptibility, mask=brain.mask) for one in found.values()
    )
    assert half == pytest.approx(50, abs=1e-3)
    assert many < 0.8 * few < 0.8 * half


def test_measured_field_tunes_by_the_truth_and_says_so(brain, monkeypatch):
    monkeypatch.setattr(deepqsm, "THRESHOLDS", (0.05, 0.1, 0.3))
    monkeypatch.setattr(deepqsm, "REGULARISATIONS", (1e-3, 3e-3))
    monkeypatch.setattr(deepqsm, "IN_VIVO", deepqsm.replace(deepqsm.IN_VIVO, max_iterations=20))
    problem = brain.local_field()
    result = deepqsm.measured_field(
        problem, brain.susceptibility, {"TKD 0.19": inversions.tkd()}, against="TKD 0.19"
    )
    table, published = result.tables
    fixed, best, medi = table.rows
    assert best[0].startswith("TKD, best threshold") and medi[0].startswith("MEDI without edges (TV), best λ")
    # Nothing but noise-free division: the smaller the threshold, the better.
    assert best[0].endswith(" 0.05") and best[2] < fixed[2]
    assert any("chosen by this truth" in note for note in table.notes)
    assert row(published, "QSMnet")["against COSMOS"] == 52.8


def test_best_setting_at_the_end_is_reported(brain):
    found = inversions.tuned(
        lambda factor: lambda problem: factor * brain.susceptibility,
        (0.2, 0.4, 0.6),
        problem=brain.local_field(),
        truth=brain.susceptibility,
    )
    assert (found.value, found.at_end) == (0.6, True)


def test_medi_uses_edges_only_where_a_magnitude_shows_them(brain):
    """Edges that are where the susceptibility jumps bring the map closer to it."""
    settings = inversions.MediSettings(regularisation=1e-3, edge_fraction=0.1, max_iterations=40)
    methods = {"medi": inversions.medi(settings)}
    errors = []
    for magnitude in (None, brain.susceptibility):
        problem = deepqsm.replace(brain, magnitude=magnitude).local_field()
        value = inversions.recover(methods, problem)["medi"].susceptibility
        errors.append(inversions.nrmse(value, brain.susceptibility, mask=brain.mask))
    assert errors[1] < 0.5 * errors[0]


def lesion_labels(brain) -> torch.Tensor:
    """Bleed and calcification where the balls are, white matter around."""
    labels = torch.full(brain.mask.shape, LABELS["white matter"], dtype=torch.int8)
    labels[brain.susceptibility > 0.05] = LABELS["microbleed"]
    labels[brain.susceptibility < -0.02] = LABELS["calcification"]
    return labels


def test_lesions_are_told_apart_and_their_slope_is_that_of_the_map(brain):
    labels = lesion_labels(brain)
    table, agreement, scatter = deepqsm.lesion_tables(
        {"half": brain.susceptibility / 2 + 1}, brain=brain, labels=labels
    )
    mean = float(brain.susceptibility[brain.mask].mean())
    assert table.column("lesion") == ("microbleed", "calcification")
    assert table.column("truth") == pytest.approx((0.1 - mean, -0.05 - mean), abs=1e-6)
    found = row(agreement, "half")
    assert (found["slope"], found["correlation"]) == (pytest.approx(0.5, abs=1e-5), pytest.approx(1))
    assert found["mean |error| (ppm)"] == pytest.approx(0.5 * np.abs(scatter.truth).mean(), abs=1e-6)


def test_regions_are_relative_to_the_brain(brain):
    table = deepqsm.region_table({"same": brain.susceptibility}, brain=brain, labels=lesion_labels(brain))
    [(name, voxels, truth, same)] = table.rows
    mean = float(brain.susceptibility[brain.mask].mean())
    assert (name, voxels) == ("white matter", int((brain.mask & (brain.susceptibility == 0)).sum()))
    assert truth == same == pytest.approx(-mean, abs=1e-6)


def test_brain_without_lesions_makes_empty_tables(brain):
    nothing = torch.zeros(brain.mask.shape, dtype=torch.int8)
    table, agreement, _ = deepqsm.lesion_tables({"a": brain.susceptibility}, brain=brain, labels=nothing)
    assert table.rows == () and agreement.rows == (("a", 0, None, None, None),)


def test_lesions_are_scored_on_what_the_chain_left(brain, monkeypatch):
    """Methods get the reconstructed field and its mask; voxels outside the head have no truth."""
    labels, wide = lesion_labels(brain), torch.ones_like(brain.mask)
    scan = SimpleNamespace(signal=None, mask=brain.mask, susceptibility=brain.susceptibility, labels=labels)
    made = Reconstruction(brain.susceptibility / 2, brain.local_field().field, wide, wide)
    monkeypatch.setattr(deepqsm, "draw_subject", lambda *arguments, **options: None)
    monkeypatch.setattr(deepqsm, "simulate_mgre", lambda *arguments, **options: scan)
    monkeypatch.setattr(deepqsm, "reconstruct", lambda *arguments, **options: made)

    def perfect(problem):
        assert torch.equal(problem.field, made.local_field) and problem.mask is wide
        return brain.susceptibility

    plan = protocol("classic", sloppy=True)
    result = deepqsm.lesions(plan, {"perfect": perfect}, against="perfect", seed=5)
    agreement, _, _, maps = result.tables
    assert row(agreement, "perfect")["slope"] == pytest.approx(1)
    assert row(maps, "MEDI, in-vivo preset")["NRMSE (%)"] == pytest.approx(50, abs=1e-3)
    assert row(maps, "MEDI, in-vivo preset")["time (s)"] is None


# Motion


@pytest.fixture(scope="module")
def pair(brain) -> SubjectScans:
    """A still scan and one with noise."""
    noise = 0.02 * torch.randn(brain.mask.shape, generator=torch.Generator().manual_seed(1))
    still = torch.where(brain.mask, brain.susceptibility, 0)
    moved = torch.where(brain.mask, brain.susceptibility + noise, 0)
    return SubjectScans("sub-01", scanned("still", still, brain.mask), (scanned("run-1", moved, brain.mask),))


def test_corrections_are_scored_against_the_still_map(brain, pair):
    """One that knows the truth leaves no error, one that does nothing leaves that of the corrupted map."""
    result = motion.simulated_pairs(
        [pair], {"idle": lambda scan: scan.susceptibility, "perfect": lambda scan: brain.susceptibility}
    )
    means, subjects, every, still = result.tables
    expected = measured(
        pair.moved[0].susceptibility,
        pair.still.susceptibility,
        mask=brain.mask,
        voxel_size=SPACE["voxel_size"],
    )
    for key, measure in MEASURES.items():
        found = row(means, measure.heading)
        assert found["corrupted"] == pytest.approx(expected[key], rel=1e-4)
        assert found["idle"] == found["corrupted"]
    assert row(means, "RMSE (ppm)")["perfect"] == pytest.approx(0, abs=1e-6)
    assert row(means, "RMSE (ppm)")["change (%)"] == pytest.approx(-100, abs=1e-3)
    assert row(subjects, "worst change")["idle, change (%)"] == 0
    assert row(still, "mean") == {"subject": "mean", "idle": 0, "perfect": pytest.approx(0, abs=1e-4)}
    assert every.column("map") == ("corrupted", "idle", "perfect")
    picture, _ = result.figures
    labels = [picture_of.label for picture_of in picture.rows[0]]
    assert labels == ["reference", "corrupted", "idle", "perfect"]


def scored(subject: str, scan: str, corrupted: float, corrected: float) -> motion.Scored:
    values = {"corrupted": corrupted, "U-Net": corrected}
    return motion.Scored(
        subject, scan, {name: dict.fromkeys(MEASURES, value) for name, value in values.items()}
    )


def test_means_and_worst_subject_by_hand():
    found = [scored("a", "1", 4.0, 2.0), scored("a", "2", 2.0, 1.0), scored("b", "1", 2.0, 3.0)]
    table = motion.mean_table("t", "T", found, {"rmse": BeforeAfter(2.0, 1.5)})
    rmse = row(table, "RMSE (ppm)")
    assert rmse["corrupted"] == pytest.approx(8 / 3) and rmse["U-Net"] == 2
    assert (rmse["change"], rmse["change (%)"]) == (pytest.approx(-2 / 3), pytest.approx(-25))
    assert (rmse["paper, change"], rmse["paper, change (%)"]) == (-0.5, -25)
    assert row(table, "HFEN (%)")["paper, corrected"] is None
    subjects = motion.subject_table("s", found)
    assert subjects.column("U-Net, change (%)") == (-50, 50, 50)
    assert "3 moved scans of 2 subjects" in table.notes[0]
    with pytest.raises(ValueError, match="no moved scan"):
        motion.mean_table("t", "T", [], {})


def test_numbers_of_the_paper():
    """RMSE falls by 22 %, PSNR rises by 2.08 dB, SSIM by 0.022."""
    table = motion.mean_table("t", "T", [scored("a", "1", 1.0, 1.0)], MOTION_SIMULATED)
    assert row(table, "RMSE (ppm)")["paper, change (%)"] == pytest.approx(-21.7, abs=0.05)
    assert row(table, "PSNR (dB)")["paper, change"] == pytest.approx(2.08)
    assert row(table, "SSIM")["paper, change"] == pytest.approx(0.0221)


def test_scan_on_another_grid_is_refused(brain, pair):
    elsewhere = ScannedMap("far", brain.susceptibility, brain.mask, AFFINE + 1.0)
    with pytest.raises(UnusableData, match="far is not on the grid of still"):
        motion.on_one_grid(pair.still, elsewhere, {}, subject="sub-01")


def test_unet_alone_owes_nothing_to_prenet(pair):
    """A fresh U-Net returns its input, and a PReNet that adds a constant is seen in the whole chain only."""
    prenet = PReNet(PReNetSettings(channels=2, recursions=1, blocks=1))
    torch.nn.init.constant_(prenet.exit.bias, 1.0)
    corrections = motion.correctors(
        Bundle(UNet(UNetSettings(channels=(2, 4))).eval(), ModelCard.untrained("unet", {"channels": [2, 4]})),
        Bundle(prenet.eval(), ModelCard.untrained("prenet", {"channels": 2})),
    )
    scan = pair.moved[0]
    alone, whole = (corrections[name](scan) for name in (motion.UNET, motion.WHOLE))
    assert torch.allclose(alone, scan.susceptibility, atol=1e-6)
    assert torch.allclose((whole - scan.susceptibility)[scan.mask], torch.tensor(0.1), atol=1e-5)


def test_separate_scans_are_brought_onto_the_still_one(brain):
    """A head that lies 2.4 and 3 mm elsewhere than its header says is found again."""
    axes = torch.meshgrid(*[torch.arange(float(size)) for size in brain.mask.shape], indexing="ij")
    magnitude = torch.where(brain.mask, 1 + torch.sin(axes[0] / 2) + torch.cos(axes[1] / 3 + axes[2] / 2), 0)
    still = ScannedMap("still", brain.susceptibility * brain.mask, brain.mask, AFFINE, magnitude)

    def gone(image):
        return image.roll((2, 2), dims=(1, 2))

    moved = ScannedMap("moved", gone(still.susceptibility), gone(brain.mask), AFFINE, gone(magnitude))
    found = motion.registered(still, moved, {}, subject="sub-01").scored().values["corrupted"]
    apart = motion.on_one_grid(still, moved, {}, subject="sub-01").scored().values["corrupted"]
    assert found["nrmse"] < 25 < 100 < apart["nrmse"]


def test_second_position_is_not_in_the_header(brain, monkeypatch):
    """The head is scanned where it lies, a few mm and degrees away, which no header tells."""
    scanned_on = []

    def simulate(plan, *, subject, motion, **options):
        scanned_on.append((plan.affine, motion is not None, subject))
        return SimpleNamespace(signal=torch.ones(2, *brain.mask.shape))

    made = Reconstruction(brain.susceptibility, brain.susceptibility, brain.susceptibility, brain.mask)
    monkeypatch.setattr(scans, "draw_subject", lambda seed: object())
    monkeypatch.setattr(scans, "simulate_mgre", simulate)
    monkeypatch.setattr(scans, "reconstruct", lambda *arguments, **options: made)
    plan = protocol("classic", sloppy=True)
    found = scans.simulate_separate_pairs(plan, seed=2, motions=2)
    assert [moves for _, moves, _ in scanned_on] == [False, True, True]
    assert len({id(subject) for *_, subject in scanned_on}) == 1
    for scan, (affine, moves, _) in zip((found.still, *found.moved), scanned_on, strict=True):
        assert np.array_equal(scan.affine, plan.affine)
        away = np.linalg.inv(affine) @ plan.affine
        shift = np.abs(away[:3] @ [*(np.array(plan.shape) - 1) / 2, 1] - (np.array(plan.shape) - 1) / 2)
        assert (0.1 < shift.max() * 7 < 7) if moves else shift.max() < 1e-9
    assert float(found.still.magnitude.mean()) == pytest.approx(math.sqrt(2))


# Files and figures


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine), path)
    return path


def test_scans_are_read_with_mask_and_magnitude(tmp_path):
    """The mask cuts the map, and axes of files are turned to the right."""
    left = np.diag([-1.0, 1.0, 1.0, 1.0])
    anat, fmap = tmp_path / "anat", tmp_path / "fmap"
    chi = save(anat / "sub-01_acq-still_Chimap.nii.gz", np.arange(8).reshape(2, 2, 2), left)
    save(anat / "sub-01_acq-still_desc-brain_mask.nii.gz", np.arange(8).reshape(2, 2, 2) > 5, left)
    save(fmap / "sub-01_acq-still_desc-local_magnitude.nii.gz", np.ones((2, 2, 2)), left)
    still = read_scans(PairFiles("sub-01", chi, ()), magnitudes=True).still
    assert still.label == "sub-01_acq-still"
    assert still.susceptibility[0].flatten().tolist() == [0, 0, 6, 7]
    assert still.magnitude.mean() == 1 and still.affine[0, 0] == 1


def test_grids_must_agree(tmp_path):
    like = read_volume(save(tmp_path / "a.nii.gz", np.ones((2, 3, 4))))
    with pytest.raises(UnusableData, match=r"b\.nii\.gz.*resample"):
        read_on_grid(save(tmp_path / "b.nii.gz", np.ones((2, 3, 5))), like=like)
    moved = AFFINE.copy()
    moved[0, 3] = 0.2
    with pytest.raises(UnusableData, match="affine"):
        read_on_grid(save(tmp_path / "c.nii.gz", np.ones((2, 3, 4)), moved), like=like)


def test_error_figure_shows_differences_of_demeaned_maps(brain):
    truth, mask = brain.susceptibility.numpy(), brain.mask.numpy()
    figure = error_figure("n", "t", truth=truth, maps={"twice": 2 * truth + 7}, mask=mask)
    shown, error = figure.rows[0][0], figure.rows[1][1]
    assert (error.label, error.window) == ("twice, error", shown.window)
    for plane, wrong in zip(shown.planes, error.planes, strict=True):
        np.testing.assert_allclose(wrong, plane, atol=1e-6)


@pytest.mark.parametrize(
    "figure",
    [
        error_figure(
            "a", "Maps", truth=np.eye(6)[..., None] * np.ones(6), maps={}, mask=np.ones((6, 6, 6)) > 0
        ),
        BoxFigure(
            "b", "Boxes", {"RMSE": {"x": [1, 2], "y": [1, 3]}, "SSIM": {"x": [1]}}, {"RMSE": {"x": 1.5}}
        ),
        ScatterFigure("c", "Points", "ppm", (0.0, 1.0), {"m": (0.1, 0.9)}),
    ],
    ids=lambda figure: type(figure).__name__,
)
def test_figures_are_drawn(tmp_path, figure: MapFigure | BoxFigure | ScatterFigure):
    draw(figure, tmp_path / "figure.png")
    picture = matplotlib.image.imread(tmp_path / "figure.png")
    assert picture.shape[0] > 100 and picture[..., :3].std() > 0


def test_table_needs_a_cell_a_heading():
    with pytest.raises(ValueError, match="2 cells under 1 headings"):
        Table("t", "T", (Column("a"),), (("x", 1.0),))
