"""What is known of files that have not changed: image headers, content hashes, captions — kept in SQLite."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice, tee
from pathlib import Path
from typing import NamedTuple, TypeVar

from loralab.data import images
from loralab.data.captions import read_caption
from loralab.data.images import Header, ImageError
from loralab.data.store import connect, writing
from loralab.data.walk import Directory, File, stamp
from loralab.errors import UserError, user_error
from loralab.files import digest_file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS images (
    folder INTEGER, name BLOB, size INTEGER, stamp INTEGER,
    width INTEGER, height INTEGER, kind TEXT, turned INTEGER, digest BLOB,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS captions (
    folder INTEGER, name BLOB, size INTEGER, stamp INTEGER, text TEXT, PRIMARY KEY (folder, name)
) WITHOUT ROWID;
"""
_PUT_IMAGE = "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)"
_PUT_CAPTION = "INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?)"
_PUT_DIGEST = "UPDATE images SET digest = ? WHERE folder = ? AND name = ? AND size = ? AND stamp = ?"
_PENDING = 10_000
"""Rows in a transaction: what a killed scan may have to do again."""
_THREADS = 8  # mostly they wait for the disk

T = TypeVar("T")
R = TypeVar("R")


class Known(NamedTuple):
    """An image that is usable, as far as its header tells."""

    width: int
    height: int
    kind: str
    turned: bool
    digest: bytes | None
    """Content hash, where it was needed before."""


class Catalog:
    """The database of one cache folder; used as a context manager.

    Only what is well is kept: a file that could not be read is looked at again each time.
    """

    def __init__(self, folder: Path, advance: Callable[[int], None]) -> None:
        """advance: told of each file that is read."""
        self._connection = connect(folder / "index-1.sqlite", _SCHEMA)
        self._advance = advance
        self._pool = ThreadPoolExecutor(_THREADS)
        self._pending: defaultdict[str, list[tuple]] = defaultdict(list)
        self._folders: dict[bytes, int] = {}

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._connection.close()

    def headers(self, directory: Directory) -> list[Known | ImageError]:
        """One for each of the directory's images."""
        folder = self._folder(directory.path)
        columns = "name, size, stamp, width, height, kind, turned, digest"
        found: list = []
        fresh: list[int] = []
        for position, row in enumerate(self._rows("images", columns, folder, directory.images)):
            found.append(row and Known._make(row[3:]))
            if row is None:
                fresh.append(position)
        paths = (os.path.join(directory.path, directory.images[position][0]) for position in fresh)
        for position, header in zip(fresh, self._map(_header, paths), strict=True):
            found[position] = header
            if isinstance(header, Header):
                found[position] = Known(*header, None)
                self._put(_PUT_IMAGE, folder, *directory.images[position], *header)
        return found

    def captions(self, directory: Directory) -> dict[bytes, str | UserError]:
        """The name of each caption file in the directory → its text, or what is wrong with it."""
        if not directory.texts:
            return {}
        folder = self._folder(directory.path)
        rows = self._rows("captions", "name, size, stamp, text", folder, directory.texts)
        found: dict = {file[0]: row and row[3] for file, row in zip(directory.texts, rows, strict=True)}
        fresh = [file for file in directory.texts if found[file[0]] is None]
        paths = (os.path.join(directory.path, file[0]) for file in fresh)
        for file, text in zip(fresh, self._map(_caption, paths), strict=True):
            found[file[0]] = text
            if isinstance(text, str):
                self._put(_PUT_CAPTION, folder, *file, text)
        return found

    def digests(self, paths: Iterable[str]) -> Iterator[bytes | ImageError]:
        """The content hashes of images, made now and remembered for next time."""
        asked, paths = tee(paths)
        for path, result in zip(asked, self._map(_digest, paths), strict=True):
            if isinstance(result, ImageError):
                yield result
                continue
            digest, size, stamp = result
            folder, name = os.path.split(os.fsencode(path))
            self._put(_PUT_DIGEST, digest, self._folder(folder), name, size, stamp)
            yield digest

    def _folder(self, path: bytes) -> int:
        if path not in self._folders:
            find = "SELECT id FROM folders WHERE path = ?"
            if self._connection.execute(find, (path,)).fetchone() is None:
                with writing(self._connection):
                    self._connection.execute("INSERT OR IGNORE INTO folders (path) VALUES (?)", (path,))
            self._folders[path] = self._connection.execute(find, (path,)).fetchone()[0]
        return self._folders[path]

    def _rows(self, table: str, columns: str, folder: int, files: list[File]) -> Iterator[tuple | None]:
        """For each file, which are sorted by name, the row of the same name, size and stamp, or None."""
        query = f"SELECT {columns} FROM {table} WHERE folder = ? ORDER BY name"
        with closing(self._connection.execute(query, (folder,))) as rows:
            row = next(rows, None)
            for file in files:
                while row is not None and row[0] < file[0]:
                    row = next(rows, None)
                yield row if row is not None and row[:3] == file else None

    def _map(self, function: Callable[[T], R], arguments: Iterable[T]) -> Iterator[R]:
        arguments = iter(arguments)
        while block := list(islice(arguments, 512)):
            for result in self._pool.map(function, block):
                self._advance(1)
                yield result

    def _put(self, statement: str, *row: object) -> None:
        self._pending[statement].append(row)
        if len(self._pending[statement]) >= _PENDING:
            self._flush()

    def _flush(self) -> None:
        with writing(self._connection):
            for statement, rows in self._pending.items():
                self._connection.executemany(statement, rows)
        self._pending.clear()


def _header(path: bytes) -> Header | ImageError:
    try:
        return images.header(path)
    except ImageError as error:
        return error


def _caption(path: bytes) -> str | UserError:
    try:
        return read_caption(os.fsdecode(path))
    except UserError as error:
        return error
    except OSError as error:
        return user_error(os.fsdecode(path), f"cannot be read ({error.strerror})")


def _digest(path: str) -> tuple[bytes, int, int] | ImageError:
    try:
        status = os.stat(path)
        digest = bytes.fromhex(digest_file(path))
    except OSError as error:
        return ImageError(f"cannot be read ({error.strerror})")
    return digest, status.st_size, stamp(status)
