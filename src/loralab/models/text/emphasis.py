"""Weights in a caption: `(tag)` ×1.1, `[tag]` ÷1.1, `(tag:1.3)` ×1.3, nested at will; a backslash before a bracket
makes it a plain character."""

from __future__ import annotations

import re

STRENGTH = 1.1

_PIECE = re.compile(
    r"""\\[\\()\[\]]                  # a plain bracket or backslash
      | :\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)   # the end of (…:1.3)
      | [()\[\]]
      | [^\\()\[\]:]+ | . """,
    re.VERBOSE | re.DOTALL,
)


def parse(caption: str) -> list[tuple[str, float]]:
    """The caption's runs of equal weight, in order. Brackets left open end with the caption."""
    runs: list[tuple[str, float]] = []
    open_at: dict[str, list[int]] = {"(": [], "[": []}

    def scale(start: int, factor: float) -> None:
        runs[start:] = [(text, weight * factor) for text, weight in runs[start:]]

    for piece in _PIECE.findall(caption):
        if piece in open_at:
            open_at[piece].append(len(runs))
        elif piece == ")" and open_at["("]:
            scale(open_at["("].pop(), STRENGTH)
        elif piece == "]" and open_at["["]:
            scale(open_at["["].pop(), 1 / STRENGTH)
        elif len(piece) > 1 and piece.startswith(":") and open_at["("]:
            scale(open_at["("].pop(), float(piece[1:-1]))
        else:
            plain = piece[1:] if piece.startswith("\\") and len(piece) == 2 else piece
            runs.append((plain, 1.0))
    for start in open_at["("]:
        scale(start, STRENGTH)
    for start in open_at["["]:
        scale(start, 1 / STRENGTH)
    return _joined(runs)


def _joined(runs: list[tuple[str, float]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in runs:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined
