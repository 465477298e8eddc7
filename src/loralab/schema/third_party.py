"""Checks of values for third-party constructors: types are those of the YAML, ranges are listed here."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from loralab.schema.ranges import Range

MEMORY = Range(0, 1, below=True)
"""The share of an average that is kept in a step."""

SMALL = Range(0, 1, above=True)
FACTOR = Range(0, 1e3)
STEPS = Range(1, 1e9)

RANGES: dict[str, dict[str, Range | tuple[str, ...]]] = {
    "optimizer": {
        "lr": FACTOR,
        "betas": MEMORY,
        "beta1": MEMORY,
        "beta3": MEMORY,
        "momentum": MEMORY,
        "dampening": Range(0, 1),
        "eps": SMALL,
        "weight_decay": FACTOR,
        "alpha": FACTOR,
        "clip_threshold": Range(1e-6, 1e6),
        "decay_rate": Range(-1, 0),
        "d0": Range(1e-12, 1e3),
        "d_coef": Range(1e-6, 1e6),
        "growth_rate": Range(1, above=True),
        "slice_p": STEPS,
        "warmup_steps": Range(0, 1e9),
        "t_alpha": STEPS,
        "t_beta3": STEPS,
        "r": FACTOR,
        "weight_lr_power": FACTOR,
        "min_8bit_size": Range(0, 1e12),
    },
}
"""Node → key → the range of a number, or of every number in a list; or the valid words."""


def misfit(path: str, value: Any, written: Any) -> str | None:
    """The valid values of the setting at `path` in words, where `value` is not one. written: its value in the YAML."""
    return unlike(path, value, written) or _out_of_range(path, value, isinstance(written, list))


def unlike(path: str, value: Any, written: Any) -> str | None:
    """The type of the value in the YAML in words, where `value` has another type."""
    if value is None:
        fits = written is None or path.endswith(".lr") or not path.startswith(("optimizer.", "callbacks."))
        return None if fits else _kind(written)
    if written is None:
        return "a plain value" if isinstance(value, dict) else None
    if isinstance(written, list) and isinstance(value, list):
        parts = zip(value, written, strict=False)
        same = len(value) == len(written) and not any(unlike(path, part, like) for part, like in parts)
        return None if same or not written else _kind(written)
    if _is_number(written) or (isinstance(written, str) and written.startswith("${suggested.")):
        whole = isinstance(written, int)
        fits = _is_number(value) and (isinstance(value, int) or not whole) and (isfinite(value) or written == inf)
        return None if fits else _kind(written)
    if isinstance(written, str):
        return None if isinstance(value, str) or _is_number(value) else _kind(written)
    return None if isinstance(value, type(written)) else _kind(written)


def _kind(written: Any) -> str:
    if isinstance(written, bool):
        return "true or false"
    if isinstance(written, list):
        return f"a list such as {written}"
    if _is_number(written):
        return f"{'a whole number' if isinstance(written, int) else 'a number'}, such as {written:g}"
    if isinstance(written, dict):
        return f"a mapping such as {written}"
    return "a number" if written.startswith("${suggested.") else f"text, such as {written}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _out_of_range(path: str, value: Any, several: bool) -> str | None:
    node, _, key = path.rpartition(".")
    valid = RANGES.get(node, {}).get(key)
    if valid is None or value is None:
        return None
    if isinstance(valid, tuple):
        return None if value in valid else " | ".join(valid)
    numbers = value if several and isinstance(value, list) else [value]
    return None if all(_is_number(number) and number in valid for number in numbers) else str(valid)
