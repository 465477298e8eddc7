"""The store of cached latents against SQLite alone and LMDB, as JSON: pip install lmdb; python benchmarks/stores.py

A record is the mean and deviation of a 512×512 image's latents in fp32. All stores check a CRC of what they read.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from loralab.at_least import at_least
from loralab.data.storage.shards import Shards

RECORD = 2 * 4 * 64 * 64 * 4
BATCH = 8
"""Records put at once, as encoding an epoch does."""


class Store(Protocol):
    def put(self, records: Mapping[bytes, bytes]) -> None: ...
    def get(self, key: bytes) -> bytes: ...


class Sqlite:
    """Records as blobs of one table."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.database = sqlite3.connect(folder / "records.sqlite", isolation_level=None)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("CREATE TABLE records (key BLOB PRIMARY KEY, record BLOB, checksum INTEGER)")

    def put(self, records: Mapping[bytes, bytes]) -> None:
        self.database.execute("BEGIN")
        rows = [(key, record, zlib.crc32(record)) for key, record in records.items()]
        self.database.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
        self.database.execute("COMMIT")

    def get(self, key: bytes) -> bytes:
        query = "SELECT record, checksum FROM records WHERE key = ?"
        record, checksum = self.database.execute(query, (key,)).fetchone()
        assert zlib.crc32(record) == checksum
        return record


class Lmdb:
    def __init__(self, folder: Path) -> None:
        import lmdb  # pyright: ignore[reportMissingImports]

        self.environment = lmdb.open(str(folder), map_size=1 << 36)

    def put(self, records: Mapping[bytes, bytes]) -> None:
        with self.environment.begin(write=True) as transaction:
            for key, record in records.items():
                transaction.put(key, zlib.crc32(record).to_bytes(4, "little") + record)

    def get(self, key: bytes) -> bytes:
        with self.environment.begin() as transaction:
            found = transaction.get(key)
        record = found[4:]
        assert zlib.crc32(record) == int.from_bytes(found[:4], "little")
        return record


STORES: dict[str, Callable[[Path], Store]] = {"shards": Shards, "sqlite": Sqlite, "lmdb": Lmdb}


def measure(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds of the median round, each store in turn; ratio: of the store's seconds to those of shards."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in STORES}
    for number in range(rounds):
        for name, make in STORES.items():
            seconds[name].append(_round(make(folder / f"{name}{number}"), count))
    found = {
        name: {"put": statistics.median(p for p, _ in times), "get": statistics.median(g for _, g in times)}
        for name, times in seconds.items()
    }
    return {
        "records": count,
        "bytes_each": RECORD,
        **{
            name: {
                **{f"{what}_seconds": round(taken, 3) for what, taken in times.items()},
                **{f"{what}_ratio": round(taken / found["shards"][what], 2) for what, taken in times.items()},
            }
            for name, times in found.items()
        },
    }


def _round(store: Store, count: int) -> tuple[float, float]:
    """Seconds of putting all records and of reading them in random order."""
    draw = random.Random(0)
    keys = [draw.randbytes(16) for _ in range(count)]
    record = draw.randbytes(RECORD)
    start = time.perf_counter()
    for at in range(0, count, BATCH):
        store.put({key: key + record[len(key) :] for key in keys[at : at + BATCH]})
    middle = time.perf_counter()
    draw.shuffle(keys)
    assert all(store.get(key).startswith(key) for key in keys)
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=at_least(1), default=2000)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(Path(scratch), given.records, given.rounds), indent=1))
