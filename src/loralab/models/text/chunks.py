"""How the tokens of a caption lie in the chunks that a text encoder reads."""

from __future__ import annotations

from collections.abc import Sequence

CHUNK = 75
"""Tokens in a chunk, its own begin and end not counted."""
END_OF_WORD = "</w>"
"""What the name of a word's last token ends with, in CLIP's vocabulary."""


def chunked(names: Sequence[str], chunks: int) -> tuple[list[slice], int]:
    """So many slices of at most 75 tokens, and the number of tokens that were cut off.

    names: of the tokens. A word that would be cut goes whole into the next chunk.
    """
    found, start = [], 0
    for remaining in reversed(range(chunks)):
        stop = start + CHUNK
        if remaining and stop < len(names):
            ends = (at for at in range(stop, start, -1) if names[at - 1].endswith(END_OF_WORD))
            stop = next(ends, stop)
        found.append(slice(start, stop))
        start = min(stop, len(names))
    return found, len(names) - start
