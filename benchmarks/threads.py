"""What a second OpenMP thread costs MEDI on two cores that are shared with another process.

Usage: python benchmarks/threads.py

Prints seconds of twenty iterations on a 64³ phantom with one thread, with two that spin while they wait, and
with two that wait passively, each beside one busy process.
"""

import os
import subprocess
import sys

CASES = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two, spinning": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
    "two, passive": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
}
REPEATS = 3
TASK = """
import time
from dataclasses import replace
import torch
from qsmflow.core.dipole import dipole_field
from qsmflow.core.inversion.medi import IN_VIVO, invert_medi
torch.manual_seed(0)
frame = {"voxel_size": (1, 1, 1), "b0_direction": (0, 0, 1)}
susceptibility = torch.zeros(64, 64, 64)
susceptibility[24:40, 24:40, 24:40] = 0.1
field = dipole_field(susceptibility, **frame) + 1e-3 * torch.randn(64, 64, 64)
mask = torch.zeros(64, 64, 64, dtype=torch.bool)
mask[6:58, 6:58, 6:58] = True
settings = replace(IN_VIVO, max_iterations=20, tolerance=1e-9)
began = time.perf_counter()
invert_medi(field, noise=torch.full_like(field, 1e-3), magnitude=1 - susceptibility, mask=mask,
            settings=settings, radian_per_ppm=4.0, **frame)
print(time.perf_counter() - began)
"""


def main() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for name, variables in CASES.items():
            command = [sys.executable, "-c", TASK]
            environment = {**os.environ, **variables}
            runs = [
                float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
                for _ in range(REPEATS)
            ]
            print(f"{name:15s}", " ".join(f"{seconds:6.2f}" for seconds in runs), "s")
    finally:
        busy.kill()


if __name__ == "__main__":
    main()
