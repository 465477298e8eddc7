"""A store of byte strings by key: large append-only files, and an SQLite index of the records in them.

A record is valid once its row is committed, so a killed process loses at most the records it was adding. Each process
writes to a file of its own, so two may add at once, and claims what it is about to make, so that none is made twice.
Every record carries a checksum of its key and its bytes.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from loralab import writing as disk
from loralab.data.storage.sqlite import connect, writing
from loralab.errors import UserError
from loralab.files import stamp

_SCHEMA = """
CREATE TABLE IF NOT EXISTS shards (id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, stamp INTEGER);
CREATE TABLE IF NOT EXISTS records (
    key BLOB PRIMARY KEY, shard INTEGER, start INTEGER, length INTEGER, checksum INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, owner TEXT, until REAL) WITHOUT ROWID;
"""
LEASE = 600.0
"""Seconds that a claim holds, of a process on another machine that may have died; longer than a batch takes."""
SETTING = "data.cache.folder"
DATABASE = "records-1.sqlite"
_LARGEST = 1 << 30
"""Bytes; a shard that has grown over it is followed by another."""


class Damaged(Exception):
    """A record is not what was written."""


class Shards:
    """The records of one folder. May be sent to other processes; each opens its own connection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._shard: Path | None = None
        self._claimant = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_connection": None, "_shard": None}

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those keys that have no record."""
        find = self._database().execute
        return [key for key in keys if find("SELECT 1 FROM records WHERE key = ?", (key,)).fetchone() is None]

    def claim(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those keys that have no record and that no other living store has claimed: the caller makes them now."""
        if not (wanted := self.missing(keys)):
            return []
        database = self._database()
        with writing(database, SETTING):
            free = [key for key in self.missing(wanted) if self._is_free(key)]
            rows = [(key, self._claimant, time.time() + LEASE) for key in free]
            database.executemany("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", rows)
        return free

    def release(self) -> None:
        """Ends this store's claims, and those that have run out."""
        with suppress(UserError), writing(self._database(), SETTING):
            given = (self._claimant, time.time())
            self._database().execute("DELETE FROM claims WHERE owner = ? OR until < ?", given)

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Adds records, all or none; when this returns, they outlive the process. Raises a UserError on a full disk."""
        with disk.writing(self.folder, SETTING):
            self._append(self._open_shard(), records)

    def get(self, key: bytes) -> bytes:
        """A key's record. KeyError where there is none; Damaged, and then forgotten, where it is not what was put."""
        query = "SELECT name, start, length, checksum FROM records JOIN shards ON shard = id WHERE key = ?"
        try:
            row = self._database().execute(query, (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise Damaged(str(self.folder / DATABASE)) from error
        if row is None:
            raise KeyError(key)
        name, start, length, checksum = row
        record = _read(self.folder / name, start, length)
        if record is None or _checksum(key, record) != checksum:
            with suppress(UserError), writing(self._database(), SETTING):  # the database may be gone too
                self._database().execute("DELETE FROM records WHERE key = ?", (key,))
            raise Damaged(str(self.folder / name))
        return record

    def verify(self) -> int:
        """Removes damaged records and returns their number; reads only files changed since written."""
        database = self._database()
        forgotten = 0
        for number, name, *written in database.execute("SELECT id, name, size, stamp FROM shards").fetchall():
            now = _state(self.folder / name)
            if now == tuple(written):
                continue
            rows = database.execute("SELECT key, start, length, checksum FROM records WHERE shard = ?", (number,))
            bad = [(row[0],) for row in rows.fetchall() if not self._holds(name, row)]
            with writing(database, SETTING):
                database.executemany("DELETE FROM records WHERE key = ?", bad)
                database.execute("UPDATE shards SET size = ?, stamp = ? WHERE id = ?", (*now, number))
            forgotten += len(bad)
        return forgotten

    def close(self) -> None:
        """Closes the connection, as is wise before processes are forked; it is opened again when needed."""
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    def _is_free(self, key: bytes) -> bool:
        row = self._database().execute("SELECT owner, until FROM claims WHERE key = ?", (key,)).fetchone()
        return row is None or row[0] == self._claimant or row[1] < time.time() or _is_dead(row[0])

    def _holds(self, name: str, row: tuple) -> bool:
        key, start, length, checksum = row
        record = _read(self.folder / name, start, length)
        return record is not None and _checksum(key, record) == checksum

    def _database(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():
            self._connection = connect(self.folder / DATABASE, _SCHEMA, SETTING)
            self._owner = os.getpid()
        return self._connection

    def _open_shard(self) -> Path:
        """The file that this process adds to."""
        database = self._database()  # before the file: it makes the folder
        if self._shard is None or self._owner != os.getpid() or _state(self._shard)[0] > _LARGEST:
            self._shard = self.folder / f"{time.time_ns():x}-{os.getpid():x}.shard"
            with writing(database, SETTING):
                database.execute("INSERT INTO shards (name, size, stamp) VALUES (?, 0, 0)", (self._shard.name,))
        return self._shard

    def _append(self, shard: Path, records: Mapping[bytes, bytes]) -> None:
        database = self._database()
        with writing(database, SETTING):
            (number,) = database.execute("SELECT id FROM shards WHERE name = ?", (shard.name,)).fetchone()
        before = at = _state(shard)[0]
        rows = []
        try:
            with open(shard, "ab") as file:
                for key, record in records.items():
                    file.write(record)
                    rows.append((key, number, at, len(record), _checksum(key, record)))
                    at += len(record)
            with writing(database, SETTING):
                database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", rows)
                database.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key in records])
                database.execute("UPDATE shards SET size = ?, stamp = ? WHERE id = ?", (*_state(shard), number))
        except BaseException:
            if shard.exists():
                os.truncate(shard, before)
            raise


def _is_dead(claimant: str) -> bool:
    """Whether a process of this machine has ended; unknown of those of others."""
    host, process, _ = claimant.rsplit(":", 2)
    if host != socket.gethostname() or os.name == "nt":
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _read(path: Path, start: int, length: int) -> bytes | None:
    """None where the file does not reach so far."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            record = file.read(length)
    except OSError:
        return None
    return record if len(record) == length else None


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file, by which a change is detected; (0, 0) if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, stamp(status)


def _checksum(key: bytes, record: bytes) -> int:
    return zlib.crc32(record, zlib.crc32(key))
