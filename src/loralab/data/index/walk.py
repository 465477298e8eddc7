"""The files in a folder of images, sorted, each with a stamp by which a change is detected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

import numpy as np

from loralab.data.images import EXTENSIONS
from loralab.data.index.caption_table import NAMES
from loralab.files import stamp

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


class Directory(NamedTuple):
    path: bytes
    """Absolute."""
    parts: tuple[bytes, ...]
    """Its path below the root."""
    images: Files
    texts: Files
    """Files with the caption extension."""
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


def _list(path: bytes, parts: tuple, suffix: bytes, skipped: list[Skipped]) -> tuple[Directory, list[bytes]]:
    """One directory, and the names of those in it."""
    images: list[tuple[bytes, int, int]] = []
    texts: list[tuple[bytes, int, int]] = []
    tables: list[str] = []
    inner: list[bytes] = []
    others: list[bytes] = []
    hidden: list[bytes] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name, low = entry.name, entry.name.lower()
            if name.startswith(b".") or low in _SYSTEM:
                hidden.append(name)
                continue
            rows = texts if low.endswith(suffix) else images if low[low.rfind(b".") :] in _IMAGES else None
            try:
                if rows is None and not entry.is_dir():
                    if name in _TABLES:
                        tables.append(_TABLES[name])
                    else:
                        others.append(name)
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
    tables.sort(key=NAMES.index)
    return Directory(path, parts, Files.of(images), Files.of(texts), tables, sorted(others), sorted(hidden)), inner
