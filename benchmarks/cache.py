"""The cache of latents on disk at 10 000 and 100 000 entries, and what a million would take, as JSON.

An entry is the mean and deviation of a 256×256 image's latents in fp32, random and so not compressible. Bytes, files
and seconds to open grow with the entries; the two sizes measured give the line that leads to a million.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from loralab.at_least import at_least
from loralab.data.storage.records import OnDisk

SHAPE = (4, 32, 32)
BATCH = 64
"""Entries put at once."""
MILLION = 1_000_000


def key(number: int) -> bytes:
    return random.Random(number).randbytes(16)


def fill(folder: Path, count: int) -> dict[str, Any]:
    """Adds entries up to a count."""
    store, start = OnDisk(folder), time.perf_counter()
    numbers = [n for n in range(count) if store.missing([key(n)])]
    for at in range(0, len(numbers), BATCH):
        part = numbers[at : at + BATCH]
        drawn = torch.randn(len(part), 2, *SHAPE)
        store.put({key(n): {"mean": drawn[i, 0], "std": drawn[i, 1]} for i, n in enumerate(part)})
    store.close()
    files = [file for file in folder.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    raw = count * 2 * 4 * torch.Size(SHAPE).numel()
    return {
        "entries": count,
        "puts_per_second": round(len(numbers) / (time.perf_counter() - start)),
        "bytes": size,
        "bytes_besides_tensors_each": round((size - raw) / count, 1),
        "files": len(files),
    }


def read(folder: Path, count: int, reads: int) -> dict[str, Any]:
    """In a process of its own: opens the store, looks keys up as a run does at its start, and reads at random."""
    start = time.perf_counter()
    store = OnDisk(folder)
    store.get(key(0))
    opened = time.perf_counter()
    store.verify()
    verified = time.perf_counter()
    keys = [key(n) for n in range(min(count, 10_000))]
    began = time.perf_counter()
    assert not store.missing(keys)
    looked = time.perf_counter()
    drawn = [key(random.randrange(count)) for _ in range(reads)]
    first = time.perf_counter()
    for wanted in drawn:
        store.get(wanted)
    return {
        "open_seconds": round(opened - start, 4),
        "verify_unchanged_seconds": round(verified - opened, 4),
        "look_ups_per_second": round(len(keys) / (looked - began)),
        "random_reads_per_second": round(reads / (time.perf_counter() - first)),
    }


def measure(folder: Path, counts: list[int], reads: int) -> dict[str, Any]:
    rows = []
    for count in counts:
        filled = fill(folder, count)
        words = [sys.executable, __file__, "--read", str(folder), str(count), str(reads)]
        rows.append(filled | json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout))
    (low, high) = rows[-2:]
    steps = (MILLION - high["entries"]) / (high["entries"] - low["entries"])
    grown = {name: high[name] + steps * (high[name] - low[name]) for name in ("bytes", "files", "open_seconds")}
    load = round(os.getloadavg()[0], 1)
    return {
        "shape": SHAPE,
        "load_average": load,
        "measured": rows,
        "million": {what: round(value, 2) for what, value in grown.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=at_least(1), nargs=2, default=[10_000, 100_000])
    parser.add_argument("--reads", type=at_least(1), default=5_000)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        print(json.dumps(read(Path(given.read[0]), int(given.read[1]), int(given.read[2]))))
        return
    scratch = Path(tempfile.mkdtemp())
    try:
        print(json.dumps(measure(scratch, sorted(given.entries), given.reads), indent=1))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
