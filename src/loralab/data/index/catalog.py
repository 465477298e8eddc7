"""What is known of files that have not changed: image headers, content hashes, captions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice, tee
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from loralab.data import images
from loralab.data.captions import read_caption
from loralab.data.images import ImageError
from loralab.data.index.blocks import ROWS, Blocks, Fact
from loralab.data.index.caption_table import caption_of_sample
from loralab.data.index.walk import Directory, Files
from loralab.data.sources import mounts
from loralab.errors import UserError, user_error
from loralab.remote import Unreachable

_HEADERS = Fact(
    "header with transparency", np.dtype([("width", "<i4"), ("height", "<i4"), ("kind", "S16"), ("turned", "?")])
)
_DIGESTS = Fact("digest", np.dtype("V16"))
_CAPTIONS = Fact("caption", np.dtype(object))
_OF_SAMPLES = Fact("caption of a sample", np.dtype(object))
_THREADS = 8
_BLOCK = 64
"""Files that are read together."""
_WAITING = 4
"""If reading takes this many times its CPU time, the disk is the bottleneck, not a busy processor."""
_TRY = 16
"""Every so many blocks one is read without threads, to measure whether the disk is the bottleneck."""

T = TypeVar("T")
R = TypeVar("R")


class Catalog:
    """Reads files, each unchanged file only once; used as a context manager.

    Only successes are kept: a file that could not be read is tried again each time.
    """

    def __init__(self, folder: Path, advance: Callable[[int], None]) -> None:
        """advance: called for each file that is read."""
        self._blocks = Blocks(folder)
        self._advance = advance
        self._pool = ThreadPoolExecutor(_THREADS)
        self._waits = False
        self._looks = 0

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._blocks.close()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def headers(self, directory: Directory) -> tuple[np.ndarray, dict[int, Exception]]:
        """(n,) width, height, kind, turned of each of the directory's images; and position → what is wrong with it."""
        return self._facts(_HEADERS, directory.path, directory.images, _header)

    def digests(self, directory: Directory) -> np.ndarray:
        """(n,) content hashes of the directory's images, zeros where not hashed yet."""
        return self._facts(_DIGESTS, directory.path, directory.images, None)[0]

    def captions(self, directory: Directory) -> tuple[np.ndarray, dict[int, Exception]]:
        """(n,) texts of the directory's caption files, UTF-8; and position → what is wrong with it."""
        return self._facts(_CAPTIONS, directory.path, directory.texts, partial(_caption, read_caption))

    def captions_of_samples(self, directory: Directory, files: Files) -> tuple[np.ndarray, dict[int, Exception]]:
        """The same of some of its samples' JSON files; empty where there is no caption."""
        return self._facts(_OF_SAMPLES, directory.path, files, partial(_caption, caption_of_sample))

    def hash(self, paths: Iterable[str]) -> Iterator[bytes | ImageError]:
        """The content hashes of images, computed now and stored for next time."""
        asked, paths = tee(paths)
        hashed = zip(asked, self._read(_digest, paths, in_threads=True), strict=True)
        for folder, files in groupby(hashed, lambda pair: os.path.dirname(pair[0])):
            while part := list(islice(files, ROWS)):
                rows = [(os.fsencode(os.path.basename(path)), made) for path, made in part if isinstance(made, _Digest)]
                self._blocks.add(
                    os.fsencode(folder),
                    _DIGESTS,
                    Files.of([(name, made.size, made.stamp) for name, made in rows]),
                    np.array([made.digest for _, made in sorted(rows)], _DIGESTS.dtype),
                )
                yield from (made.digest if isinstance(made, _Digest) else made for _, made in part)

    def _facts(
        self, kind: Fact, folder: bytes, files: Files, read: Callable[[bytes], Any] | None
    ) -> tuple[np.ndarray, dict[int, Exception]]:
        """(n,) facts of a folder's files, zero where unknown; and position → what is wrong with it.

        read: returns the fact of a new file, or an exception; None: it stays unknown.
        """
        stored = self._blocks.load(folder, kind)
        if stored.holds(files):
            return stored.facts, {}
        rows = stored.find(files)
        known = rows >= 0
        facts, errors = np.zeros(len(rows), kind.dtype), {}
        facts[known] = stored.facts[rows[known]]
        is_tidy = known.sum() == len(stored.facts) and bool(np.all(np.diff(rows[known]) > 0))
        fresh = np.flatnonzero(~known).tolist() if read else []
        for start in range(0, len(fresh), ROWS):
            part = fresh[start : start + ROWS]
            paths = (os.path.join(folder, files.names[position]) for position in part)
            for position, fact in zip(part, self._read(read, paths), strict=True):  # type: ignore[arg-type]
                if isinstance(fact, Exception):
                    errors[position] = fact
                else:
                    facts[position], known[position] = fact, True
            learned = [position for position in part if known[position]]
            self._blocks.add(folder, kind, files.some(learned), facts[learned])
            is_tidy = is_tidy and not (learned and len(stored.facts))
        if not is_tidy:
            kept = np.flatnonzero(known).tolist()
            self._blocks.replace(folder, kind, files.some(kept), facts[kept])
        return facts, errors

    def _read(self, look: Callable[[T], R], paths: Iterable[T], in_threads: bool = False) -> Iterator[R]:
        """The result of `look` for each file.

        In threads if the disk is the bottleneck, or (in_threads) for work that runs in parallel, such as hashing; else
        not, as threads that only take turns are several times slower.
        """
        paths = iter(paths)
        while block := list(islice(paths, _BLOCK)):
            self._looks += 1
            tries = not in_threads and (self._looks % _TRY == 0 or not self._waits)
            started, worked = time.perf_counter(), time.thread_time()
            for result in map(look, block) if tries else self._pool.map(look, block):
                self._advance(1)
                yield result
            if tries:
                self._waits = time.perf_counter() - started > _WAITING * (time.thread_time() - worked)


class _Digest(NamedTuple):
    digest: bytes
    size: int
    stamp: int


def _header(path: bytes) -> tuple | ImageError:
    try:
        found = images.header(path)
    except ImageError as error:
        return error
    return found.width, found.height, found.kind.encode(), found.turned


def _caption(read: Callable[[str], str], path: bytes) -> bytes | UserError:
    try:
        return read(os.fsdecode(path)).encode()
    except Unreachable:
        raise
    except UserError as error:
        return error
    except OSError as error:
        return user_error(os.fsdecode(path), f"cannot be read ({error.strerror})")


def _digest(path: str) -> _Digest | ImageError:
    try:
        size, stamp = mounts.size_and_stamp(path)
        digest = bytes.fromhex(mounts.digest(path))
    except OSError as error:
        return ImageError(f"cannot be read ({error.strerror})")
    return _Digest(digest, size, stamp)
