"""Facts about files, kept between scans: rows of (name, size, stamp, fact), many to one row of SQLite.

A folder that has not changed is recognised by comparing whole columns: a million files take no longer than their
`stat` calls.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loralab.data.index.walk import Files
from loralab.data.storage.sqlite import connect, writing

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY, folder BLOB, kind TEXT, names BLOB, sizes BLOB, stamps BLOB, facts BLOB, checksum INTEGER
);
CREATE INDEX IF NOT EXISTS by_folder ON blocks (folder, kind);
"""
_FIND = "SELECT names, sizes, stamps, facts, checksum FROM blocks WHERE folder = ? AND kind = ? ORDER BY id"
_ADD = "INSERT INTO blocks (folder, kind, names, sizes, stamps, facts, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"
_CLEAR = "DELETE FROM blocks WHERE folder = ? AND kind = ?"
ROWS = 10_000
"""Rows per block and transaction: the work that a killed scan loses at most."""


class Fact(NamedTuple):
    """A kind of fact about files; dtype: object for bytes of any length without a NUL."""

    name: str
    dtype: np.dtype

    def pack(self, facts: np.ndarray) -> bytes:
        return b"\0".join(facts.tolist()) if self.dtype == object else facts.tobytes()

    def unpack(self, packed: Sequence[bytes]) -> np.ndarray:
        if self.dtype != object:
            return np.frombuffer(b"".join(packed), self.dtype)
        return np.array(b"\0".join(packed).split(b"\0") if packed else [], object)


class Stored(NamedTuple):
    """The stored facts of one kind about the files of a folder; if a name occurs twice, the later row is valid."""

    names: bytes
    """Joined by "/", which no name has."""
    sizes: np.ndarray
    stamps: np.ndarray
    facts: np.ndarray

    def holds(self, files: Files) -> bool:
        """Whether it is about exactly these files, unchanged."""
        return (
            self.names == b"/".join(files.names)
            and np.array_equal(self.sizes, files.sizes)
            and np.array_equal(self.stamps, files.stamps)
        )

    def find(self, files: Files) -> np.ndarray:
        """(n,) the row of each file, or −1 if it is new or has changed."""
        if not len(self.sizes):
            return np.full(len(files.names), -1)
        row = {name: number for number, name in enumerate(self.names.split(b"/"))}
        rows = np.array([row.get(name, -1) for name in files.names], np.int64)
        same = (self.sizes[rows] == files.sizes) & (self.stamps[rows] == files.stamps)
        return np.where(same, rows, -1)


class Blocks:
    """The database of one cache folder. Additions are written in blocks, the rest when it is closed."""

    def __init__(self, folder: Path) -> None:
        self._connection = connect(folder / "index-2.sqlite", _SCHEMA)
        self._pending: list[tuple[str, tuple]] = []
        self._rows = 0

    def load(self, folder: bytes, kind: Fact) -> Stored:
        found = self._connection.execute(_FIND, (folder, kind.name)).fetchall()
        columns = list(zip(*(row[:4] for row in found if row[4] == _checksum(row[:4])), strict=True)) or [()] * 4
        sizes, stamps = (np.frombuffer(b"".join(column), np.int64) for column in columns[1:3])
        return Stored(b"/".join(columns[0]), sizes, stamps, kind.unpack(columns[3]))

    def add(self, folder: bytes, kind: Fact, files: Files, facts: np.ndarray) -> None:
        for start in range(0, len(facts), ROWS):
            part = slice(start, start + ROWS)
            names, times = files.names[part], (files.sizes[part].tobytes(), files.stamps[part].tobytes())
            row = (b"/".join(names), *times, kind.pack(facts[part]))
            self._put(_ADD, (folder, kind.name, *row, _checksum(row)), len(names))

    def replace(self, folder: bytes, kind: Fact, files: Files, facts: np.ndarray) -> None:
        """Replaces all rows of this kind and folder by these."""
        self._put(_CLEAR, (folder, kind.name), 0)
        self.add(folder, kind, files, facts)

    def flush(self) -> None:
        with writing(self._connection):
            for statement, row in self._pending:
                self._connection.execute(statement, row)
        self._pending.clear()
        self._rows = 0

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._connection.close()

    def _put(self, statement: str, row: tuple, rows: int) -> None:
        self._pending.append((statement, row))
        self._rows += rows
        if self._rows >= ROWS:
            self.flush()


def _checksum(row: Sequence[bytes]) -> int:
    checksum = 0
    for column in row:
        checksum = zlib.crc32(column, checksum)
    return checksum
