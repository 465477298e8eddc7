"""Folders of images that are not folders of this disk: object stores by URL, and sets of tar shards.

Once mounted, a folder is read under its path like any other: its files are `ROOT/10_cat/x.jpg`, wherever they are. This
is the one place that turns a path of a setting into a source. Nothing here writes into it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Protocol

from loralab import remote
from loralab.data.extensions import EXTENSIONS
from loralab.data.sources.bucket import Bucket
from loralab.data.sources.downloads import Downloads
from loralab.data.sources.listing import Listing, Where
from loralab.data.sources.tar import SUFFIX, open_shards
from loralab.errors import user_error
from loralab.files import digest_file, stamp
from loralab.places import existing
from loralab.remote import Entry
from loralab.urls import below, is_url, plain

_IMAGES = tuple(EXTENSIONS)
AnyPath = str | bytes | os.PathLike


class Source(Protocol):
    """Files that are read as if they were below `root`."""

    @property
    def root(self) -> str: ...
    @property
    def listing(self) -> Listing: ...
    def read(self, file: Where) -> bytes: ...
    def told(self) -> str: ...


_mounted: dict[str, Source] = {}
"""By root. Processes that are forked inherit it; others are given it by `mount_all`."""
_last: tuple[str, bytes] = "", b""
"""The file read last: images are hashed and decoded."""


def absolute(path: str) -> str:
    """The path of a folder as its files are named below it: a URL, or an absolute path."""
    path = plain(path)
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))


def mount(path: str, setting: str, cache: Path, limit: float) -> None:
    """Makes what is at a path readable, if it is no ordinary folder of this disk.

    What was mounted there before is listed anew. cache: folder of indices and downloads; limit: bytes of downloads.
    Raises a UserError where a URL leads to nothing.
    """
    root = absolute(path)
    _mounted.pop(root, None)
    if source_of(root):
        return
    downloads = Downloads(cache / "downloads", limit)
    if not is_url(root):
        folder = str(existing(Path(root)))  # ROOT/masks may be in the shards of ROOT
        if shards := _shards_here(folder):
            _mounted[folder] = open_shards(folder, setting, shards, cache, downloads)
        return
    found = remote.files(root, setting)
    if [entry.url for entry in found] == [root] and not root.endswith(SUFFIX):  # a file
        root = root.rpartition("/")[0]
    if shards := _only_shards(root, found):
        _mounted[root] = open_shards(root, setting, shards, cache, downloads)
    elif found:
        files = (Where(os.fsencode(entry.url[len(root) + 1 :]), entry.size, entry.stamp) for entry in found)
        _mounted[root] = Bucket(root, setting, Listing(files), downloads)
    else:
        raise user_error(setting, f"'{root}' was not found, or is empty", "check the URL, and the endpoint")


def in_shards(path: str) -> bool:
    """Whether a path of this disk is a set of shards, or may be in one."""
    return bool(_shards_here(str(existing(Path(absolute(path))))))


def all_files(folder: str) -> Iterator[bytes]:
    """The paths of all files below an absolute path, hidden ones too, without it; sorted as folders are walked."""
    if source := source_of(folder):
        start = os.fsencode(below(source.root, folder) or "")
        yield from (file.name[len(start) :].lstrip(b"/") for file in source.listing.below(start))
        return
    yield from _local_files(os.fsencode(folder), b"", frozenset())


def _local_files(folder: bytes, parts: bytes, above: frozenset[bytes]) -> Iterator[bytes]:
    here = os.path.realpath(folder)
    if here in above:
        return  # a link to a folder that contains it
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    yield from (parts + entry.name for entry in entries if not entry.is_dir())
    for entry in entries:
        if entry.is_dir():
            yield from _local_files(entry.path, parts + entry.name + b"/", above | {here})


def mounts() -> dict[str, Source]:
    """All that is mounted, for a process that does not inherit it."""
    return dict(_mounted)


def mount_all(given: dict[str, Source]) -> None:
    _mounted.update(given)


def source_of(path: str) -> Source | None:
    """What is mounted at or above a path."""
    for root, source in _mounted.items():
        if below(root, path) is not None:
            return source
    return None


def is_folder(path: str) -> bool:
    """Whether there are files below an absolute path, on this disk or in what is mounted."""
    if source := source_of(path):
        name = below(source.root, path) or ""
        return next(source.listing.below(os.fsencode(name)), None) is not None
    return os.path.isdir(path)


@contextmanager
def opened(path: AnyPath) -> Iterator[IO[bytes]]:
    """A file to read, of this disk or of what is mounted. Raises OSError, or Unreachable."""
    if _mounted and (source := source_of(name := os.fsdecode(path))):
        yield io.BytesIO(_read(source, name))
        return
    with open(path, "rb") as file:
        yield file


def digest(path: AnyPath) -> str:
    """The hash of a file's bytes, as `digest_file` gives it."""
    if _mounted and (source := source_of(name := os.fsdecode(path))):
        return blake2b(_read(source, name), digest_size=16).hexdigest()
    return digest_file(path)  # type: ignore[arg-type]


def size_and_stamp(path: str) -> tuple[int, int]:
    """By which a change of a file is detected. Raises OSError."""
    if _mounted and (source := source_of(path)):
        file = source.listing.find(os.fsencode(below(source.root, path) or ""))
        return file.size, file.stamp
    status = os.stat(path)
    return status.st_size, stamp(status)


def _read(source: Source, path: str) -> bytes:
    global _last
    before, content = _last  # other threads read, too
    if before != path:
        content = source.read(source.listing.find(os.fsencode(below(source.root, path) or "")))
        _last = path, content
    return content


def _shards_here(folder: str) -> list[Entry]:
    """The shards at a path: a tar file itself, or those of a folder that has no images beside them."""
    if folder.endswith(SUFFIX) and os.path.isfile(folder):
        return [_entry(folder)]
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        names = [entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith(".")]
    if not any(name.endswith(SUFFIX) for name in names):
        return []
    return _only_shards(folder, [_entry(os.path.join(folder, name)) for name in sorted(names)])


def _only_shards(root: str, files: list[Entry]) -> list[Entry]:
    """The tar files of a folder that has neither images beside them nor further folders."""
    names = [file.url[len(root) + 1 :].lower() for file in files]
    if any("/" in name or name.endswith(_IMAGES) for name in names):
        return []
    return [file for file in files if file.url.endswith(SUFFIX)]


def _entry(path: str) -> Entry:
    status = os.stat(path)
    return Entry(path, status.st_size, stamp(status))


def told(paths: Iterable[str]) -> list[str]:
    """What the mounted ones among some folders are, for the opening lines of a run."""
    found = {source.root: source for path in paths if (source := source_of(absolute(path)))}
    return [source.told() for source in found.values()]
