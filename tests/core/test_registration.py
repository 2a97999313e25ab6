"""Rigid registration against known motions, resampling against closed forms."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from qsmflow.core.registration import register, resample

#: Half the axes of the ellipsoid that is the mask, mm.
HALF_AXES = np.array([45.0, 52.0, 40.0])

FIXED_SHAPE, MOVING_SHAPE = (40, 48, 36), (44, 40, 42)


def affine_of(shape, *, edges, angles=(0, 0, 0), centre=(0, 0, 0)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * edges
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


FIXED_AFFINE = affine_of(FIXED_SHAPE, edges=(3, 2.5, 3.5), angles=(10, -5, 20), centre=(3, 2, -4))
MOVING_AFFINE = affine_of(MOVING_SHAPE, edges=(-2.6, 3.1, 3), angles=(-8, 12, 5), centre=(-2, 6, 1))


def rigid(*, angles=(0, 0, 0), shift=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def points(shape, affine):
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return moved(voxels, affine)


def moved(where, matrix):
    return where @ matrix[:3, :3].T + matrix[:3, 3]


def blobs(where):
    """Forty Gaussians of 6 to 12 mm at random places."""
    random = np.random.default_rng(0)
    image = np.zeros(where.shape[:-1])
    for _ in range(40):
        centre, width, height = random.uniform(-42, 42, 3), random.uniform(6, 12), random.normal()
        image += height * np.exp(-((where - centre) ** 2).sum(axis=-1) / (2 * width**2))
    return image


def scan(shape, affine, *, motion=None):
    """The blobs and their mask on a grid; what lies at p lay at motion · p in the fixed scan."""
    where = points(shape, affine)
    where = where if motion is None else moved(where, motion)
    mask = ((where / HALF_AXES) ** 2).sum(axis=-1) < 1
    return torch.from_numpy(blobs(where)).float(), torch.from_numpy(mask)


def both(motion, *, moving_affine=MOVING_AFFINE):
    """Arguments of a registration that should find a motion."""
    moving, moving_mask = scan(MOVING_SHAPE, moving_affine, motion=motion)
    fixed, fixed_mask = scan(FIXED_SHAPE, FIXED_AFFINE)
    return {
        "moving": moving,
        "fixed": fixed,
        "moving_mask": moving_mask,
        "fixed_mask": fixed_mask,
        "moving_affine": moving_affine,
        "fixed_affine": FIXED_AFFINE,
    }


def found(arguments, **options):
    images = {name: arguments[name] for name in ("moving", "fixed")}
    rest = {name: value for name, value in arguments.items() if name not in images}
    return register(images["moving"], images["fixed"], **rest, **options)


def errors(matrix, truth):
    """Largest distance in mm at the corners of the mask's box, and angle in degrees."""
    corners = np.array(np.meshgrid(*([-half, half] for half in HALF_AXES))).reshape(3, -1).T
    corners = moved(corners, np.linalg.inv(truth))
    distance = np.linalg.norm(moved(corners, matrix) - moved(corners, truth), axis=1).max()
    return distance, np.degrees(Rotation.from_matrix(matrix[:3, :3] @ truth[:3, :3].T).magnitude())


@pytest.mark.parametrize(
    "motion",
    [
        rigid(),
        rigid(shift=(4, -3, 5)),
        rigid(angles=(6, -4, 9), shift=(4, -3, 5)),
        rigid(angles=(-12, 15, -20), shift=(-60, 20, 35)),
    ],
    ids=["still", "shift", "motion", "far"],
)
def test_a_motion_between_oblique_grids_is_found(motion):
    result = found(both(motion, moving_affine=np.linalg.inv(rigid(shift=motion[:3, 3])) @ MOVING_AFFINE))
    distance, angle = errors(result.matrix, motion)
    assert distance < 0.1
    assert angle < 0.1
    assert result.converged
    assert result.metric > 0.999
    assert result.matrix[:3, :3] @ result.matrix[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)


def test_the_motion_is_found_in_noise_other_units_and_with_streaks_and_gaps():
    motion = rigid(angles=(6, -4, 9), shift=(4, -3, 5))
    arguments = both(motion)
    moving, mask = arguments["moving"], arguments["moving_mask"]
    moving = -300 + 50 * (moving + 0.1 * torch.randn(moving.shape))
    moving[20, 20, 10:20] = 1e5
    arguments["moving"] = torch.where(mask, moving, torch.nan)
    result = found(arguments)
    distance, angle = errors(result.matrix, motion)
    assert distance < 0.35
    assert angle < 0.2


def test_the_same_masked_images_give_the_same_matrix():
    arguments = both(rigid(angles=(3, 0, -2), shift=(1, 2, 0)))
    outside = {
        name: torch.where(arguments[f"{name}_mask"], arguments[name], 7) for name in ("moving", "fixed")
    }
    first, second = found(arguments), found(arguments | outside)
    assert (first.matrix == second.matrix).all()
    assert first.metric == second.metric
    assert found(arguments, threads=2).matrix == pytest.approx(first.matrix, abs=0.02)


def test_the_found_matrix_brings_the_image_onto_the_fixed_one():
    arguments = both(rigid(angles=(6, -4, 9), shift=(4, -3, 5)))
    found_image = resample(
        arguments["moving"],
        affine=MOVING_AFFINE,
        matrix=found(arguments).matrix,
        like_shape=FIXED_SHAPE,
        like_affine=FIXED_AFFINE,
    )
    mask, fixed = arguments["fixed_mask"], arguments["fixed"]
    assert float((found_image - fixed)[mask].norm() / fixed[mask].norm()) < 0.01


def test_a_search_that_runs_out_of_iterations_has_not_converged():
    assert not found(both(rigid(shift=(4, -3, 5))), max_iterations=2).converged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda scans: {"moving_mask": torch.zeros_like(scans["moving_mask"])},
            "mask of the moving image is empty",
        ),
        (lambda scans: {"fixed_mask": scans["moving_mask"]}, "fixed image and its mask differ in shape"),
        (lambda scans: {"fixed": torch.full_like(scans["fixed"], torch.nan)}, "fixed image is not finite"),
        (lambda scans: {"moving": torch.ones_like(scans["moving"])}, "moving image is constant"),
        (lambda scans: {"moving_affine": np.zeros((4, 4))}, "affine of the moving image"),
        (lambda scans: {"fixed_affine": np.eye(3)}, "affine of the fixed image"),
    ],
)
def test_what_cannot_be_registered_is_refused(change, message):
    scans = both(rigid())
    with pytest.raises(ValueError, match=message):
        found(scans | change(scans))


def test_masks_that_cannot_overlap_are_refused():
    scans = both(rigid())
    depth = (points(FIXED_SHAPE, FIXED_AFFINE) ** 2).sum(axis=-1)
    scans["fixed_mask"] = torch.from_numpy((depth > 35**2) & (depth < 40**2))
    scans["moving_mask"] = torch.from_numpy((points(MOVING_SHAPE, MOVING_AFFINE) ** 2).sum(axis=-1) < 6**2)
    with pytest.raises(ValueError, match="no voxel lies in both masks"):
        found(scans)


SHEAR = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0.1, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [MOVING_AFFINE, SHEAR @ MOVING_AFFINE], ids=["oblique", "sheared"])
@pytest.mark.parametrize(("interpolation", "tolerance"), [("bspline", 2e-3), ("linear", 0.05)])
def test_resampling_is_the_moved_function(affine, interpolation, tolerance):
    motion = rigid(angles=(5, -7, 9), shift=(3.3, -2.1, 4.7))
    image = torch.from_numpy(blobs(points(MOVING_SHAPE, affine)))
    result = resample(
        image,
        affine=affine,
        matrix=motion,
        like_shape=FIXED_SHAPE,
        like_affine=FIXED_AFFINE,
        interpolation=interpolation,
    )
    source = moved(points(FIXED_SHAPE, FIXED_AFFINE), np.linalg.inv(motion))
    expected = torch.from_numpy(blobs(source))
    voxels = moved(source, np.linalg.inv(affine))
    within = torch.from_numpy(((voxels > 3) & (voxels < np.array(MOVING_SHAPE) - 4)).all(axis=-1))
    beyond = torch.from_numpy(((voxels < -1) | (voxels > np.array(MOVING_SHAPE))).any(axis=-1))
    assert result.dtype == torch.float64
    assert float((result - expected)[within].abs().max()) < tolerance * float(expected.abs().max())
    assert int(beyond.sum())
    assert not result[beyond].any()


@pytest.mark.parametrize("interpolation", ["bspline", "linear", "nearest"])
def test_the_same_grid_changes_nothing(interpolation):
    image = torch.randn(7, 5, 6)
    affine = affine_of(image.shape, edges=(1, -2, 3), angles=(10, 20, 30))
    result = resample(
        image,
        affine=affine,
        matrix=np.eye(4),
        like_shape=image.shape,
        like_affine=affine,
        interpolation=interpolation,
    )
    torch.testing.assert_close(result, image, rtol=0, atol=1e-6)
    assert result.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.float32])
def test_nearest_moves_whole_voxels_and_keeps_the_type(dtype):
    image = torch.randint(0, 2, (5, 6, 7)).to(dtype)
    result = resample(
        image,
        affine=np.eye(4),
        matrix=rigid(shift=(2.3, -1.2, 0.4)),
        like_shape=image.shape,
        like_affine=np.eye(4),
        interpolation="nearest",
    )
    expected = torch.zeros_like(image)
    expected[2:, :-1] = image[:-2, 1:]
    assert result.dtype == dtype
    assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.full((3, 3, 3), torch.inf)}, "not finite"),
        ({"interpolation": "cubic"}, "bspline, linear, nearest"),
        ({"matrix": np.eye(3)}, "the matrix must be"),
        ({"affine": np.full((4, 4), np.nan)}, "the affine must be"),
        ({"like_affine": np.zeros((4, 4))}, "the affine of the grid must be"),
    ],
)
def test_what_cannot_be_resampled_is_refused(change, message):
    arguments = {
        "image": torch.ones(3, 3, 3),
        "affine": np.eye(4),
        "matrix": np.eye(4),
        "like_shape": (3, 3, 3),
        "like_affine": np.eye(4),
    }
    with pytest.raises(ValueError, match=message):
        resample(**arguments | change)
