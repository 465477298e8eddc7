"""Names of a run's files, derived from `output.name`."""

from __future__ import annotations

BEST, TAGS = "-best", "-tags.txt"


def after_epoch(epoch: int) -> str:
    return f"-{epoch:06d}"


def after_step(step: int) -> str:
    return f"-step{step:08d}"


def longest(name: str, format: str) -> str:
    """The longest name that a run may give a file."""
    names = (after_step(0), after_epoch(0), BEST)
    return max(*(f"{name}{suffix}.{format}" for suffix in names), f"{name}{TAGS}", key=len)
