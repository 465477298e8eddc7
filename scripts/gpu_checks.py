"""All that only a GPU can show, in a clone on a machine with one: python -m scripts.gpu_checks

The tests that need one, then the benchmarks, whose results and section of docs/benchmarks.md are written.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from loralab.bench.all import BENCHMARKS

BENCH = ["loralab.cli", "bench", "all", "--only", *(name for name, each in BENCHMARKS.items() if each.gpu)]

if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no CUDA device found")
    done = [subprocess.run([sys.executable, "-m", *words]).returncode for words in (["pytest", "-m", "gpu"], BENCH)]
    sys.exit(max(done))
