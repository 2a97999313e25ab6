"""``python -m qsmflow.sim OUT``: write the simulated head of ``bids_examples/simple_head``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from qsmflow.sim.dataset import write_dataset


def main(argv: Sequence[str] | None = None) -> None:
    """Write one simulated subject as a BIDS data set with its truth."""
    parser = argparse.ArgumentParser(prog="python -m qsmflow.sim", description=main.__doc__)
    parser.add_argument("out", type=Path, help="folder of the data set; made if missing")
    parser.add_argument("--seed", type=int, default=1, help="of the anatomy and the noise (default 1)")
    arguments = parser.parse_args(argv)
    # One thread adds up in one order: the same bytes on any number of cores.
    torch.set_num_threads(1)
    write_dataset(arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
