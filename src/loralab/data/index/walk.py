"""The files in a folder of images, sorted, each with a stamp by which a change is detected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

import numpy as np

from loralab.data.extensions import EXTENSIONS
from loralab.data.index.caption_table import NAMES
from loralab.data.sources.mounts import Source, source_of
from loralab.data.sources.tar import Shards
from loralab.files import stamp
from loralab.urls import below

# Names are bytes: a file name need not be UTF-8.
_IMAGES = frozenset(extension.encode() for extension in EXTENSIONS)
_TABLES = {name.encode(): name for name in NAMES}
_SYSTEM = frozenset(
    (
        *(b"$recycle.bin", b"recycler", b"recycled", b"system volume information", b"thumbs.db", b"ehthumbs.db"),
        *(b"desktop.ini", b"$winreagent", b"found.000", b"__macosx", b"network trash folder", b"temporary items"),
        *(b"@eadir", b"@tmp", b"@recycle", b"@recently-snapshot", b"@__thumb", b"#recycle", b"#snapshot"),
        *(b"lost+found", b"__pycache__"),
    )
)
"""What operating systems and network drives put beside images: bins, thumbnails, resource forks; lower case."""


class Skipped(NamedTuple):
    """A file or folder that is skipped, and why."""

    path: str
    reason: str


class Files(NamedTuple):
    """Files of one directory as columns, sorted by name."""

    names: list[bytes]
    sizes: np.ndarray
    """(n,) int64, bytes."""
    stamps: np.ndarray
    """(n,) int64, see files.stamp()."""

    @staticmethod
    def of(rows: list[tuple[bytes, int, int]]) -> Files:
        """From rows of (name, size, stamp)."""
        names, sizes, stamps = zip(*sorted(rows), strict=True) if rows else ((), (), ())
        return Files(list(names), np.array(sizes, np.int64), np.array(stamps, np.int64))

    def some(self, positions: list[int]) -> Files:
        """Those at some positions."""
        return Files([self.names[position] for position in positions], self.sizes[positions], self.stamps[positions])


class Directory(NamedTuple):
    path: bytes
    """Absolute."""
    parts: tuple[bytes, ...]
    """Its path below the root."""
    images: Files
    texts: Files
    """Files with the caption extension."""
    samples: Files
    """JSON files of tar shards, in which WebDataset keeps what is known of a sample."""
    tables: list[str]
    """Names of metadata files, in the order of NAMES."""
    others: list[bytes]
    """Names of files that are none of these."""
    hidden: list[bytes]
    """Names of hidden and system files and folders, which are skipped."""


def walk(root: str, extension: str, omit: frozenset[str], skipped: list[Skipped]) -> Iterator[Directory]:
    """Every directory under `root`, sorted; links are followed but not in circles, hidden and system folders skipped.

    extension: of caption files, with its dot, in any case; omit: absolute folders that are not entered.
    What cannot be read is appended to `skipped`.
    """
    suffix, left_out = os.fsencode(extension).lower(), frozenset(map(os.fsencode, omit))
    if source := source_of(root):
        yield from _walk_source(source, root, suffix, left_out)
        return
    todo: list[tuple[bytes, tuple[bytes, ...], frozenset, int]] = [(os.fsencode(root), (), frozenset(), 0)]
    seen: set[tuple[int, int]] = set()
    while todo:
        path, parts, above, links = todo.pop()
        try:
            status = os.stat(path)
            this = (status.st_dev, status.st_ino)
            links += os.path.islink(path) and bool(parts)
            if this in above or (links > 1 and this in seen):  # folders that link to each other have endless paths
                reason = (
                    "is a link to a folder that contains it" if this in above else "is a link to a folder already read"
                )
                skipped.append(Skipped(os.fsdecode(path), reason))
                continue
            seen.add(this)
            directory, inner = _list(path, parts, suffix, skipped)
        except OSError as error:
            skipped.append(Skipped(os.fsdecode(path), f"cannot be opened ({error.strerror})"))
            continue
        yield directory
        within = above | {this}
        below = [(os.path.join(path, name), (*parts, name), within, links) for name in sorted(inner, reverse=True)]
        todo += [folder for folder in below if folder[0] not in left_out]


class _Kinds:
    """The files of one directory, as they are found."""

    def __init__(self, suffix: bytes, has_samples: bool = False) -> None:
        self.suffix, self.has_samples = suffix, has_samples
        self.images: list[tuple[bytes, int, int]] = []
        self.texts: list[tuple[bytes, int, int]] = []
        self.samples: list[tuple[bytes, int, int]] = []
        self.tables: list[str] = []
        self.others: list[bytes] = []
        self.hidden: list[bytes] = []

    def rows_for(self, name: bytes) -> list[tuple[bytes, int, int]] | None:
        """Where a file of this name is listed with its size and stamp."""
        low = name.lower()
        if low.endswith(self.suffix):
            return self.texts
        if self.has_samples and low.endswith(b".json"):
            return self.samples
        return self.images if low[low.rfind(b".") :] in _IMAGES else None

    def add_other(self, name: bytes) -> None:
        if name in _TABLES:
            self.tables.append(_TABLES[name])
        else:
            self.others.append(name)

    def directory(self, path: bytes, parts: tuple[bytes, ...]) -> Directory:
        tables, others, hidden = sorted(self.tables, key=NAMES.index), sorted(self.others), sorted(self.hidden)
        images, texts, samples = map(Files.of, (self.images, self.texts, self.samples))
        return Directory(path, parts, images, texts, samples, tables, others, hidden)


def _is_hidden(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in _SYSTEM


def _walk_source(source: Source, root: str, suffix: bytes, left_out: frozenset[bytes]) -> Iterator[Directory]:
    """The same for what is mounted; of folders without a file of their own only hidden ones in them are told."""
    start, told = os.fsencode(below(source.root, root) or ""), set()
    depth = len(start.split(b"/")) if start else 0
    by_folder = groupby(source.listing.below(start), lambda file: tuple(file.name.split(b"/")[depth:-1]))
    for parts, files in by_folder:
        found = _Kinds(suffix, isinstance(source, Shards))
        at = next((at for at, part in enumerate(parts) if _is_hidden(part)), None)
        if at is not None:
            if parts[: at + 1] in told:
                continue
            told.add(parts[: at + 1])
            found.hidden.append(parts[at])
            parts = parts[:at]
        elif any(b"/".join((os.fsencode(root), *parts[:end])) in left_out for end in range(len(parts) + 1)):
            continue
        else:
            for file in files:
                name = file.name.rpartition(b"/")[2]
                rows = found.rows_for(name)
                if _is_hidden(name):
                    found.hidden.append(name)
                elif rows is None:
                    found.add_other(name)
                else:
                    rows.append((name, file.size, file.stamp))
        yield found.directory(b"/".join((os.fsencode(root), *parts)), parts)


def _list(path: bytes, parts: tuple, suffix: bytes, skipped: list[Skipped]) -> tuple[Directory, list[bytes]]:
    """One directory, and the names of those in it."""
    found = _Kinds(suffix)
    inner: list[bytes] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if _is_hidden(name):
                found.hidden.append(name)
                continue
            rows = found.rows_for(name)
            try:
                if rows is None and not entry.is_dir():
                    found.add_other(name)
                    continue
                status = entry.stat()
                if S_ISDIR(status.st_mode):
                    inner.append(name)
                elif S_ISREG(status.st_mode) and rows is not None:
                    rows.append((name, status.st_size, stamp(status)))
                else:
                    skipped.append(Skipped(os.fsdecode(entry.path), "is not a regular file"))
            except OSError as error:
                is_broken = entry.is_symlink() and isinstance(error, FileNotFoundError)
                reason = "is a broken link" if is_broken else error.strerror or str(error)
                skipped.append(Skipped(os.fsdecode(entry.path), reason))
    return found.directory(path, parts), inner
