"""Sets of tar shards in the layout of WebDataset, read in any order and without unpacking.

The members of all shards together are the files of one folder: `10_cat/x.jpg`, `10_cat/x.txt`, `masks/10_cat/x.png`.
webdataset, litdata and mosaicml-streaming were considered: the first reads shards from front to back and shuffles
within a buffer, the others have formats of their own; neither gives the n-th sample of an epoch that only the seed
determines, which exact resume rests on. A tar file stores its members as they are, so the standard library's `tarfile`
finds them once, and a range of bytes is a file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path

import numpy as np

from loralab import remote
from loralab.data.sources.downloads import Downloads
from loralab.data.sources.listing import Listing, Where
from loralab.errors import user_error
from loralab.progress import progress
from loralab.remote import Entry
from loralab.urls import is_url
from loralab.writing import WriteError, atomic_path

SUFFIX = ".tar"
BLOCK = 8 << 20
"""Bytes that are read at once of a remote shard, where all shards fit into the limit of downloads."""


@dataclass(frozen=True)
class Shards:
    """The shards of a folder, on this disk or not."""

    root: str
    setting: str
    """Where it was given, for messages."""
    shards: Sequence[Entry]
    listing: Listing
    downloads: Downloads

    def read(self, file: Where) -> bytes:
        """The bytes of a member. Raises OSError, or Unreachable."""
        return _read(self.shards[file.part], file.start, file.size, self.setting, self.downloads, self._has_room)

    def told(self) -> str:
        """What it is, for the opening lines of a run."""
        size = sum(shard.size for shard in self.shards) / 1e9
        return f"{self.root}: {len(self.shards):,} tar shards, {len(self.listing):,} files, {size:.2f} GB"

    @property
    def _has_room(self) -> bool:
        return sum(shard.size for shard in self.shards) < self.downloads.limit


def open_shards(root: str, setting: str, shards: Sequence[Entry], cache: Path, downloads: Downloads) -> Shards:
    """The set of some shards, sorted by name. Each is indexed once; the index is kept in the cache folder.

    Raises a UserError if a shard is damaged, or if two have a member of the same name.
    """
    found: list[Where] = []
    has_room = sum(shard.size for shard in shards) < downloads.limit
    with progress("indexing shards", len(shards), "shards") as advance:
        for part, shard in enumerate(shards):
            rows = _indexed(shard, setting, cache, downloads, has_room)
            found += [Where(name, size, shard.stamp, part, start) for name, size, start in rows]
            advance(1)
    listing = Listing(found)
    _refuse_doubles(listing, shards, setting)
    return Shards(root, setting, shards, listing, downloads)


def _refuse_doubles(listing: Listing, shards: Sequence[Entry], setting: str) -> None:
    before: Where | None = None
    for file in listing:
        if before and before.name == file.name:
            places = " and ".join(shards[part].url for part in sorted({before.part, file.part}))
            name = file.name.decode("utf8", "replace")
            raise user_error(setting, f"{name} is in {places} more than once", "give each image a name of its own")
        before = file


def _indexed(
    shard: Entry, setting: str, cache: Path, downloads: Downloads, has_room: bool
) -> Iterator[tuple[bytes, int, int]]:
    """(name, size, start) of the files in a shard, from the cache where it has not changed."""
    key = blake2b(f"{shard.url} {shard.size} {shard.stamp}".encode("utf8", "surrogateescape"), digest_size=16)
    place = cache / "shards" / f"{key.hexdigest()}.npz"
    try:
        with np.load(place) as kept:
            names, numbers = kept["names"].tobytes().split(b"\0"), kept["numbers"]
        return ((name, *row) for name, row in zip(names, numbers.tolist(), strict=True) if name)
    except (OSError, ValueError, KeyError, EOFError):
        rows = list(_scan(shard, setting, downloads, has_room))
    try:
        with atomic_path(place, "data.cache_folder", flush=False) as beside, beside.open("wb") as file:
            names = np.frombuffer(b"\0".join(name for name, *_ in rows), np.uint8)
            np.savez(file, names=names, numbers=np.array([row[1:] for row in rows], np.int64).reshape(-1, 2))
    except WriteError:
        pass  # it is indexed again next time
    return iter(rows)


def _scan(shard: Entry, setting: str, downloads: Downloads, has_room: bool) -> Iterator[tuple[bytes, int, int]]:
    source = _Ranges(shard, setting, downloads, has_room) if is_url(shard.url) else FileIO(shard.url)
    try:
        with (
            BufferedReader(source, BLOCK if is_url(shard.url) else tarfile.RECORDSIZE) as file,
            tarfile.open(fileobj=file, mode="r:", encoding="utf8", errors="surrogateescape") as tar,
        ):
            for member in tar:
                name = _clean(member.name)
                if member.isreg() and name:
                    yield name, member.size, member.offset_data
            if tar.offset > shard.size - tarfile.BLOCKSIZE:
                raise tarfile.ReadError("the end is missing")
    except (tarfile.TarError, EOFError) as error:
        words = f"{shard.url} is not a complete, uncompressed tar file ({error})"
        raise user_error(setting, words, "make or copy it again") from None


def _clean(name: str) -> bytes:
    """A member's name below the root; empty for one that would be outside of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return b"" if ".." in parts else "/".join(parts).encode("utf8", "surrogateescape")


def _read(shard: Entry, start: int, size: int, setting: str, downloads: Downloads, has_room: bool) -> bytes:
    if not is_url(shard.url):
        with open(shard.url, "rb") as file:
            file.seek(start)
            found = file.read(size)
        if len(found) != size:
            raise OSError(f"{shard.url} was cut short")
        return found
    if not has_room:  # blocks would be read for a single image each, over and over
        return _kept(shard, start, start + size, setting, downloads)
    first, last = start // BLOCK, (start + max(size, 1) - 1) // BLOCK
    blocks = [
        _kept(shard, number * BLOCK, min((number + 1) * BLOCK, shard.size), setting, downloads)
        for number in range(first, last + 1)
    ]
    return b"".join(blocks)[start - first * BLOCK :][:size]


def _kept(shard: Entry, start: int, stop: int, setting: str, downloads: Downloads) -> bytes:
    key = f"{shard.url} {shard.stamp} {start} {stop}"
    return downloads.get(key, stop - start, lambda: remote.read(shard.url, setting, start, stop))


class _Ranges(RawIOBase):
    """A remote shard as a file to seek in."""

    def __init__(self, shard: Entry, setting: str, downloads: Downloads, has_room: bool) -> None:
        self._shard, self._given, self._at = shard, (setting, downloads, has_room), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._shard.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self._shard.size - self._at))
        buffer[:size] = _read(self._shard, self._at, size, *self._given) if size else b""
        self._at += size
        return size
