"""Many strings in one block of memory: a million paths or captions without a million objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice


class Texts(Sequence[str]):
    """A growing list of strings, held as bytes. File names that are not UTF-8 are preserved (surrogateescape)."""

    def __init__(self, texts: Iterable[str | bytes] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")
        self.extend(texts)

    def extend(self, texts: Iterable[str | bytes]) -> None:
        raw = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape") for text in texts]
        ends = accumulate(map(len, raw), initial=len(self._bytes))
        self._bytes += b"".join(raw)
        self._ends.extend(islice(ends, 1, None))

    def raw(self, position: int) -> bytes:
        start = self._ends[position - 1] if position else 0
        return bytes(self._bytes[start : self._ends[position]])

    def __getitem__(self, position: int) -> str:  # type: ignore[override]  # no slices
        return self.raw(position).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))

    def __len__(self) -> int:
        return len(self._ends)
