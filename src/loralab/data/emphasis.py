"""Emphasis in captions: `(tag:1.2)`, `(tag)` and `[tag]`, as AUTOMATIC1111's web UI reads it."""

from __future__ import annotations

import re
from itertools import groupby

STEP = 1.1
"""The factor of one pair of brackets."""

_TOKEN = re.compile(
    r"""\\(?P<literal>[\\()\[\]])            # an escaped bracket stands for itself
      | (?P<open>[(\[])
      | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)   # the end of (tag:1.2)
      | (?P<close>[)\]])
      | (?P<text>[^\\()\[\]:]+|.)""",
    re.VERBOSE | re.DOTALL,
)


def parse(caption: str) -> list[tuple[str, float]]:
    """The caption's pieces with their weights: "a (red:1.5) [star]" → ("a ", 1), ("red", 1.5), (" ", 1), ("star", 1/1.1).

    `(x)` multiplies by 1.1, `[x]` divides by it, `(x:w)` multiplies by w; they nest. A bracket left open reaches to the end;
    one that was never opened is text, as are those after a backslash. Neighbours of equal weight are joined.
    """
    pieces: list[tuple[str, float]] = []
    open_brackets: list[tuple[str, int]] = []  # (kind, where in `pieces` it opened)

    def close(factor: float) -> None:
        _, start = open_brackets.pop()
        pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]

    for token in _TOKEN.finditer(caption):
        kind = token.lastgroup
        inner = open_brackets[-1][0] if open_brackets else None
        if kind == "open":
            open_brackets.append((token["open"], len(pieces)))
        elif kind == "weight" and inner == "(":
            close(float(token["weight"]))
        elif kind == "close" and inner == {")": "(", "]": "["}[token["close"]]:
            close(STEP if inner == "(" else 1 / STEP)
        else:
            pieces.append((token["literal"] or token[0], 1.0))
    while open_brackets:
        close(STEP if open_brackets[-1][0] == "(" else 1 / STEP)
    return [("".join(t for t, _ in run), weight) for weight, run in groupby(pieces, key=lambda piece: piece[1])]
