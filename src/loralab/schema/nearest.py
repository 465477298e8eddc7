"""Did you mean …? The most similar of the names that exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str], similarity: float = 0.6) -> str | None:
    """The most similar name, where one is at least that similar (0 to 1)."""
    return next(iter(difflib.get_close_matches(name, list(valid), 1, similarity)), None)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The remedy for a misspelt name; "" where no name is similar."""
    near = nearest(name, valid)
    return f"did you mean '{near}'?" if near else ""
