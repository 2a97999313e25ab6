import numpy as np
import pytest
import torch

from qsmflow.sim.canvas import LABELS, Canvas, Palette, tube_share
from qsmflow.sim.grids import block_mean, oblique_affine
from qsmflow.sim.shapes import Tube
from qsmflow.sim.tissues import draw_tissues


@pytest.fixture(scope="module")
def palette() -> Palette:
    tissues = draw_tissues(torch.Generator().manual_seed(0), spread=0)
    return Palette.of(tissues, properties=("susceptibility", "r2star"), field_strength=3.0)


def test_painting_mixes_by_share(palette):
    canvas = Canvas.filled(palette, "csf", (2,), labelled=True)
    canvas.paint("putamen", torch.tensor([0.25, 1.0]))
    csf, putamen = palette.means["csf"], palette.means["putamen"]
    torch.testing.assert_close(canvas.values, torch.stack([0.75 * csf + 0.25 * putamen, putamen], dim=1))
    assert canvas.labels.tolist() == [LABELS["csf"], LABELS["putamen"]]


def test_texture_moves_iron_and_its_relaxation(palette):
    canvas = Canvas.filled(palette, "putamen", (1,))
    canvas.paint("putamen", torch.ones(1), texture=torch.ones(1))
    added = canvas.values[:, 0] - palette.means["putamen"]
    assert float(added[1] / added[0]) == pytest.approx(120, rel=1e-3)


def test_strength_scales_the_susceptibility_only(palette):
    canvas = Canvas.filled(palette, "air", (1,))
    canvas.paint("calcification", torch.ones(1), strength=2.0)
    mean = palette.means["calcification"]
    torch.testing.assert_close(canvas.values[:, 0], mean * torch.tensor([2.0, 1.0]))


def test_parts_share_memory(palette):
    canvas = Canvas.filled(palette, "csf", (4, 4), labelled=True)
    canvas.part((slice(0, 2), slice(1, 3))).paint("vein", torch.ones(2, 2))
    assert int((canvas.labels == LABELS["vein"]).sum()) == 4
    canvas.put(torch.tensor([15]), Canvas.filled(palette, "bone", (1,), labelled=True))
    assert int(canvas.labels[3, 3]) == LABELS["bone"]
    torch.testing.assert_close(canvas.values[:, 3, 3], palette.means["bone"])


@pytest.mark.parametrize("edge", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("radius", [0.2, 0.9, 3.0])
def test_tubes_have_their_volume_on_any_grid(edge, radius):
    size = int(20 / edge) + 4
    affine = oblique_affine((size,) * 3, voxel_size=(edge,) * 3, rotation=(30, 10, 0))
    tube = Tube(((-7, -1, 0.3), (1, 1, 0.1), (7, 0, 2)), (radius, radius, radius))
    length = sum(
        np.linalg.norm(np.subtract(a, b)) for a, b in zip(tube.path[:-1], tube.path[1:], strict=True)
    )
    share = tube_share([tube], shape=(size,) * 3, affine=affine)
    assert float(share.max()) <= 1
    # The ends are round; either may lie half a voxel from where it should.
    expected = np.pi * radius**2 * length + 4 / 3 * np.pi * radius**3
    assert float(share.sum()) * edge**3 == pytest.approx(expected, rel=0.04 + edge / length)


def test_tubes_look_the_same_coarse_and_fine():
    tubes = [
        Tube(((-9, -8, -7), (4, 0, 1), (9, 9, 3)), (0.5, 1.5, 0.3)),
        Tube(((0, 0, -9), (0, 0, 30)), (1, 1)),
    ]
    coarse = tube_share(tubes, shape=(12, 12, 12), affine=oblique_affine((12,) * 3, voxel_size=(2, 2, 2)))
    fine = tube_share(tubes, shape=(48,) * 3, affine=oblique_affine((48,) * 3, voxel_size=(0.5,) * 3))
    difference = block_mean(fine, factor=4) - coarse
    assert float(difference.abs().max()) < 0.25
    assert float(difference.std()) < 0.2 * float(coarse.std())


def test_tubes_beside_the_grid_leave_it_empty():
    share = tube_share([Tube(((50, 0, 0), (60, 0, 0)), (1, 1))], shape=(4, 4, 4), affine=np.eye(4))
    assert float(share.sum()) == 0
