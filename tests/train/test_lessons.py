"""Streams of batches."""

import numpy as np
import torch

from qsmflow.train.lessons import positioned, read_origin
from qsmflow.train.motion_data import Pair, PairBatches


def ramp_pair(shape=(10, 9, 8)) -> Pair:
    """Values that tell the voxel they belong to, and a truth twice as large."""
    image = torch.arange(float(np.prod(shape))).reshape(shape).half()
    return Pair("ramp", image, 2 * image, image >= 100, 1.0, 2.0, (1.0, 1.0, 2.0))


def batches(pairs, still=(), *, patch_size=(4, 4, 4), augments=False, still_share=0.0, seed=0):
    return PairBatches(
        pairs,
        still,
        still_share=still_share,
        patch_size=patch_size,
        batch_size=8,
        augments=augments,
        seed=seed,
    )


def test_a_stream_goes_on_from_any_batch_and_ranks_share_it():
    stream = batches([ramp_pair()], augments=True)
    first = [batch["image"] for batch, _ in zip(stream, range(6), strict=False)]
    later = next(iter(positioned(stream, start=4)))["image"]
    assert torch.equal(later, first[4])
    second_of_two = iter(positioned(stream, start=1, rank=1, ranks=2))
    assert torch.equal(next(second_of_two)["image"], first[3])
    assert torch.equal(next(second_of_two)["image"], first[5])
    workers = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
    for batch, wanted in zip(workers, first, strict=False):
        assert torch.equal(batch["image"], wanted)


def test_origin_tells_simulations_from_measurements(pairs, changed):
    assert read_origin([pairs]).simulated and read_origin([pairs]).names == ("Toy",)
    (changed / "dataset_description.json").unlink()
    origin = read_origin([pairs, changed])
    assert not origin.simulated and origin.names == ("Toy", "copied")
