"""The columns of the index in SQLite against Arrow files, as JSON: pip install pyarrow; python benchmarks/columns.py

A folder's file names, sizes, times and image headers are written, and then read and compared, as a warm scan does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from loralab.at_least import at_least
from loralab.data.index.blocks import Blocks, Fact
from loralab.data.index.walk import Files

HEADER = Fact("header", np.dtype([("width", "<i4"), ("height", "<i4"), ("kind", "S16"), ("turned", "?")]))
EACH = 1000
"""Files in a folder."""


class Columns(Protocol):
    def put(self, folder: bytes, files: Files, headers: np.ndarray) -> None: ...
    def is_same(self, folder: bytes, files: Files) -> bool: ...
    def close(self) -> None: ...


class Sqlite:
    """The blocks of loralab's index."""

    def __init__(self, folder: Path) -> None:
        self.blocks = Blocks(folder)
        self.close = self.blocks.close

    def put(self, folder: bytes, files: Files, headers: np.ndarray) -> None:
        self.blocks.add(folder, HEADER, files, headers)

    def is_same(self, folder: bytes, files: Files) -> bool:
        return self.blocks.load(folder, HEADER).holds(files)


class Arrow:
    """One memory-mapped Arrow file per folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def put(self, folder: bytes, files: Files, headers: np.ndarray) -> None:
        import pyarrow

        columns = {"names": files.names, "sizes": files.sizes, "stamps": files.stamps}
        columns |= {name: np.ascontiguousarray(headers[name]) for name in headers.dtype.names or ()}
        table = pyarrow.table(columns)
        path = str(self.folder / folder.decode())
        with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    def is_same(self, folder: bytes, files: Files) -> bool:
        import pyarrow

        with pyarrow.memory_map(str(self.folder / folder.decode())) as file:
            table = pyarrow.ipc.open_file(file).read_all()
            names = pyarrow.array(files.names)
            sizes, stamps = (table[name].to_numpy() for name in ("sizes", "stamps"))
            return (
                table["names"].combine_chunks().equals(names)
                and np.array_equal(sizes, files.sizes)
                and np.array_equal(stamps, files.stamps)
            )

    def close(self) -> None:
        pass


KINDS: dict[str, Callable[[Path], Columns]] = {"sqlite": Sqlite, "arrow": Arrow}


def measure(scratch: Path, folders: int, rounds: int) -> dict[str, Any]:
    """Seconds of the median round of each kind in turn, the bytes on disk; ratios to those of SQLite."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    size = {}
    for number in range(rounds):
        for name, make in KINDS.items():
            place = scratch / f"{name}{number}"
            times[name].append(_round(make, place, folders))
            size[name] = sum(file.stat().st_size for file in place.rglob("*"))
    found = {
        name: {
            "put": statistics.median(put for put, _ in taken),
            "compare": statistics.median(compare for _, compare in taken),
            "bytes": size[name],
        }
        for name, taken in times.items()
    }
    ratios = {
        name: {f"{what}_ratio": round(value / found["sqlite"][what], 2) for what, value in figures.items()}
        for name, figures in found.items()
    }
    return {"files": folders * EACH, **{name: {**found[name], **ratios[name]} for name in KINDS}}


def _round(make: Callable[[Path], Columns], place: Path, folders: int) -> tuple[float, float]:
    """Seconds of writing the columns of all folders, and of comparing each with what a scan has found."""
    draw = np.random.default_rng(0)
    headers = np.array([(640, 480, b"JPEG RGB", False)] * EACH, HEADER.dtype)
    found = {
        b"folder%d" % number: Files(
            [b"%d-%d.jpg" % (number, at) for at in range(EACH)],
            draw.integers(1, 1 << 22, EACH),
            draw.integers(1, 1 << 60, EACH),
        )
        for number in range(folders)
    }
    start = time.perf_counter()
    columns = make(place)
    for folder, files in found.items():
        columns.put(folder, files, headers)
    columns.close()
    middle = time.perf_counter()
    columns = make(place)
    assert all(columns.is_same(folder, files) for folder, files in found.items())
    columns.close()
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=at_least(1), default=200)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(Path(scratch), given.folders, given.rounds), indent=1))
