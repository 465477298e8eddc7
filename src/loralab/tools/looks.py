"""What is only known after decoding an image: whether it is damaged, and which others it looks like."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from loralab.data import images
from loralab.data.images import ImageError
from loralab.data.storage.sqlite import connect, writing
from loralab.progress import progress

_SCHEMA = """
CREATE TABLE IF NOT EXISTS looks (digest TEXT PRIMARY KEY, mark BLOB, problem TEXT) WITHOUT ROWID;
"""
_FEW = 64
"""Up to this many images are decoded in this process: starting workers would take longer."""
_NEAR = 4
"""Near duplicates differ in at most this many of the 64 bits of their hashes …"""
_TINT = 12
"""… and in at most this many of 255 levels of their mean colours."""


class Look(NamedTuple):
    mark: bytes
    """8 bytes of difference hash (where brightness rises to the right), 3 of mean colour; empty if damaged."""
    problem: str | None = None


def look_at(paths: Sequence[str], digests: Sequence[str], cache_folder: Path) -> list[Look]:
    """Decodes images, each distinct file once; results are kept in the cache folder."""
    database = connect(cache_folder / "looks-1.sqlite", _SCHEMA)
    rows = (database.execute("SELECT mark, problem FROM looks WHERE digest = ?", (d,)).fetchone() for d in digests)
    known = {digest: Look(*row) for digest, row in zip(digests, rows, strict=True) if row}
    fresh = {digest: path for path, digest in zip(paths, digests, strict=True) if digest not in known}
    with progress("decoding images", len(fresh), "images") as advance:
        for digest, look in zip(fresh, _decoded(list(fresh.values())), strict=True):
            known[digest] = look
            with writing(database):
                database.execute("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", (digest, *look))
            advance(1)
    database.close()
    return [known[digest] for digest in digests]


def near_duplicates(looks: Sequence[Look]) -> list[list[int]]:
    """Groups of positions of images that look alike, identical files included."""
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for position, look in enumerate(looks):
        if look.mark:
            places[look.mark].append(position)
    bits = np.array([int.from_bytes(mark[:8], "big") for mark in places], np.uint64)
    tints = np.array([list(mark[8:]) for mark in places], np.int16).reshape(-1, 3)
    leader = list(range(len(places)))

    def lead(mark: int) -> int:
        while leader[mark] != mark:
            mark = leader[mark]
        return mark

    for together in _candidates(bits):
        for at, one in enumerate(together[:-1]):
            others = together[at + 1 :]
            near = np.bitwise_count(bits[others] ^ bits[one]) <= _NEAR
            near &= (np.abs(tints[others] - tints[one]) <= _TINT).all(1)
            for other in others[near]:
                first, second = sorted((lead(int(one)), lead(int(other))))
                leader[second] = first
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for mark, positions in enumerate(places.values()):
        groups[lead(mark)] += positions
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _candidates(bits: np.ndarray) -> Iterator[np.ndarray]:
    """Groups to compare: hashes that differ in at most four bits agree in one of five parts."""
    for part in range(5):
        values = bits >> np.uint64(13 * part) & np.uint64(0x1FFF)
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order])) + 1
        yield from (group for group in np.split(order, starts) if len(group) > 1)


def _decoded(paths: list[str]) -> Iterator[Look]:
    if len(paths) <= _FEW:
        yield from map(_look, paths)
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_look, paths, chunksize=16)


def _look(path: str) -> Look:
    try:
        small = Image.fromarray(images.thumbnail(path, 64))
    except ImageError as error:
        return Look(b"", str(error))
    grey = np.asarray(small.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(int)
    rising = np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()
    return Look(rising + np.asarray(small).reshape(-1, 3).mean(0).round().astype(np.uint8).tobytes())
