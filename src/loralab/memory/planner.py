"""Chooses how a run fits into memory: the choices that cost the least time, none that is not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from loralab.memory.options import Choice, Option

Size = Callable[[Mapping[str, Any]], int]
"""Bytes at the peak with these settings changed, by key."""
LEAST = 0.001
"""The share of the peak that a choice must save to be worth its cost."""


def choose(options: Sequence[Option], size: Size, limit: int) -> tuple[list[Choice], int]:
    """The choices, in the order of the options, and the bytes with them: more than the limit where nothing fits.

    Options are added in their order until all fits; then those added before are made as cheap as the others allow, the
    costliest first.
    """
    chosen: dict[str, Choice] = {}
    for option in options:
        if size(_together(chosen)) <= limit:
            break
        with_all = {**chosen, option.name: option.choices[-1]}
        if size(_together(with_all)) < (1 - LEAST) * size(_together(chosen)):
            chosen = with_all
    if size(_together(chosen)) <= limit:
        for option in reversed([option for option in options if option.name in chosen]):
            chosen = _cheapest(option, chosen, size, limit)
    return [*chosen.values()], size(_together(chosen))


def _cheapest(option: Option, chosen: dict[str, Choice], size: Size, limit: int) -> dict[str, Choice]:
    """The choices with the first of an option with which all fits, or with none of it."""
    without = {name: choice for name, choice in chosen.items() if name != option.name}
    if size(_together(without)) <= limit:
        return without
    choices = option.choices
    return {**chosen, option.name: first(choices, lambda c: size(_together({**chosen, option.name: c})) <= limit)}


T = TypeVar("T")


def first(choices: Sequence[T], fits: Callable[[T], bool]) -> T:
    """The first that fits, of choices of which the last does and each is smaller than those before it."""
    low, high = 0, len(choices) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(choices[middle]) else (middle + 1, high)
    return choices[low]


def _together(chosen: Mapping[str, Choice]) -> dict[str, Any]:
    return {key: value for choice in chosen.values() for key, value in choice.settings.items()}
