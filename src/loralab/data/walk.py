"""A folder of images as the file system shows it: its files in one order, with what tells that they have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from loralab.data.images import EXTENSIONS

# Names are bytes: a file name need not be UTF-8, and bytes sort alike here and in SQLite.
_IMAGES = frozenset(extension.encode() for extension in EXTENSIONS)


class Skipped(NamedTuple):
    """Something that is left out, and why."""

    path: str
    reason: str


File = tuple[bytes, int, int]
"""Name, size and stamp."""


def stamp(status: os.stat_result) -> int:
    """The later of a file's modification and status change, ns: so an edit that restores the time is seen too."""
    return max(status.st_mtime_ns, status.st_ctime_ns)


class Directory(NamedTuple):
    path: bytes
    """Absolute."""
    parts: tuple[bytes, ...]
    """Its path below the root."""
    images: list[File]
    """Sorted by name."""
    texts: list[File]
    """Files with the caption extension, sorted by name."""


def walk(root: str, extension: str, omit: frozenset[str], skipped: list[Skipped]) -> Iterator[Directory]:
    """Every directory under `root`, sorted, links followed but not in circles; what is hidden is not looked at.

    extension: of caption files, with its dot; omit: absolute folders that are not entered.
    What cannot be read is appended to `skipped`.
    """
    suffix, left_out = os.fsencode(extension), frozenset(map(os.fsencode, omit))
    todo: list[tuple[bytes, tuple[bytes, ...], frozenset]] = [(os.fsencode(root), (), frozenset())]
    while todo:
        path, parts, above = todo.pop()
        try:
            status = os.stat(path)
            this = (status.st_dev, status.st_ino)
            if this in above:
                skipped.append(Skipped(os.fsdecode(path), "is a link to a folder that it lies in"))
                continue
            directory, inner = _list(path, parts, suffix, skipped)
        except OSError as error:
            skipped.append(Skipped(os.fsdecode(path), f"cannot be opened ({error.strerror})"))
            continue
        yield directory
        below = ((os.path.join(path, name), (*parts, name), above | {this}) for name in sorted(inner, reverse=True))
        todo.extend(folder for folder in below if folder[0] not in left_out)


def _list(path: bytes, parts: tuple, suffix: bytes, skipped: list[Skipped]) -> tuple[Directory, list[bytes]]:
    """One directory, and the names of those in it."""
    images: list[File] = []
    texts: list[File] = []
    inner: list[bytes] = []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b"."):
                continue
            try:
                if entry.is_dir():
                    inner.append(name)
                elif name.endswith(suffix):
                    texts.append(_file(entry))
                elif name[name.rfind(b".") :].lower() in _IMAGES:
                    images.append(_file(entry))
            except OSError as error:
                skipped.append(Skipped(os.fsdecode(entry.path), error.strerror or str(error)))
    images.sort()
    texts.sort()
    return Directory(path, parts, images, texts), inner


def _file(entry: os.DirEntry[bytes]) -> File:
    if not entry.is_file():
        raise OSError("is a link to nothing" if entry.is_symlink() else "is not a regular file")
    status = entry.stat()
    return entry.name, status.st_size, stamp(status)
