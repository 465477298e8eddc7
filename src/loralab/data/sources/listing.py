"""The files of a source as columns: a million names without a million objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from loralab.data.texts import Texts


class Where(NamedTuple):
    """A file of a source, and where its bytes are."""

    name: bytes
    """Its path below the root of the source."""
    size: int
    stamp: int
    """Changes with its content."""
    part: int = 0
    """The number of the shard it is in."""
    start: int = 0
    """Of its first byte in the shard."""


class Listing:
    """Sorted as folders are walked: by the folder, its parent first, then by the name."""

    def __init__(self, files: Iterable[Where]) -> None:
        rows = sorted(files, key=lambda row: _key(row.name))
        self._names = Texts(row.name for row in rows)
        self._numbers = np.array([row[1:] for row in rows], np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Where]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, row: int) -> Where:
        return Where(self._names.raw(row), *self._numbers[row].tolist())

    @property
    def bytes(self) -> int:
        """The sum of all sizes."""
        return int(self._numbers[:, 0].sum())

    def find(self, name: bytes) -> Where:
        """Raises FileNotFoundError where there is no file of this name."""
        row = self._first(name)
        if row == len(self) or self._names.raw(row) != name:
            raise FileNotFoundError(name)
        return self[row]

    def below(self, folder: bytes) -> Iterator[Where]:
        """The files in a folder and those in it; b"": all."""
        path = folder.split(b"/") if folder else []
        for row in range(self._first(folder + b"/" if folder else b""), len(self)):
            file = self[row]
            if file.name.split(b"/")[:-1][: len(path)] != path:
                return
            yield file

    def _first(self, name: bytes) -> int:
        """The first row that is not before a name."""
        low, high, key = 0, len(self), _key(name)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _key(self._names.raw(middle)) < key else (low, middle)
        return low


def _key(name: bytes) -> tuple[list[bytes], bytes]:
    *folders, last = name.split(b"/")
    return folders, last
