"""Kinds of values in settings files: each converts a value of a file to ours.

A kind raises a ValueError that gives the valid values in words. Numbers may be written as text and flags as words, as
many programs write them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from functools import cache
from typing import Any

Coercion = Callable[[Any], Any]

LARGEST, LARGEST_WHOLE = 1e38, 2**63 - 1
"""Limits of a 32-bit float and a 64-bit integer."""


class Within(ValueError):
    """An invalid part of a value: the part's name, and the valid values in words."""

    def __init__(self, name: str, words: object) -> None:
        super().__init__(str(words))
        self.name = name


def text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("text")
    found = str(value)
    if "${" in found or found == "???":
        raise ValueError("text without ${ or ???, which Hydra would interpolate")
    if any("\ud800" <= letter <= "\udfff" for letter in found):
        raise ValueError("valid Unicode text")
    return found


def name(value: Any) -> str:
    """A name, without spaces around it."""
    return text(value).strip()


def path(value: Any) -> str:
    """A path; `~` is the home folder, everything else stays as written."""
    given = value if isinstance(value, str) else ""
    if not given or "\0" in given:
        raise ValueError("a path")
    return text(os.path.expanduser(given))


def positive_or_none(value: Any) -> float | None:
    """A number, where those up to 0 switch something off."""
    return found if (found := number(value)) > 0 else None


def number(value: Any) -> float:
    try:
        found = math.nan if isinstance(value, (bool, list, dict)) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("a number")
    if abs(found) > LARGEST:
        raise ValueError(f"a number of at most {LARGEST:g}")
    return found


def whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        try:
            given = number(value)
        except ValueError:
            given = math.nan
        if given != given or given != int(given):
            raise ValueError("a whole number")
        found = int(given)
    if abs(found) > LARGEST_WHOLE:
        raise ValueError(f"a whole number of at most {LARGEST_WHOLE}")
    return found


def flag(value: Any) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if word in ("true", "yes", "on", "1") or word is True or (word == 1 and isinstance(word, int)):
        return True
    if word in ("false", "no", "off", "0", "none", "") or word is False or (word == 0 and isinstance(word, int)):
        return False
    raise ValueError("true or false")


def flag_or_count(value: Any) -> bool | int:
    """A flag, or a number above one."""
    try:
        return flag(value)
    except ValueError:
        pass
    try:
        found = whole(value)
    except ValueError:
        found = 0
    if found < 1:
        raise ValueError("true, false or a number of blocks")
    return found


def extension(value: Any) -> str:
    """A file extension, with its dot."""
    found = text(value).strip()
    return found if not found or found.startswith(".") else f".{found}"


def size(value: Any) -> int | list[int]:
    """A side, or width and height: 512, "512", "512,768", "(512, 768)", [512, 768]."""
    parts = re.split(r"\s*[,x]\s*", value.strip("()[] ")) if isinstance(value, str) else value
    try:
        sides = [whole(part) for part in (parts if isinstance(parts, list) else [parts])]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError("a size: 512, or width and height: 512,768")
    return sides[0] if len(set(sides)) == 1 else sides


def names(value: Any) -> list[str]:
    """A list of names, or one text with commas between them."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list):
        raise ValueError("a list of names")
    return [text(part) for part in value]


class OneOf:
    """One of the words, in any capitalisation; converted to the value of that keyword."""

    def __init__(self, **choices: Any) -> None:
        self.choices = choices

    def __call__(self, value: Any) -> Any:
        word = str(value).strip().lower()
        if isinstance(value, (list, dict)) or word not in self.choices:
            raise ValueError(" | ".join(self.choices))
        return self.choices[word]

    def word(self, value: Any) -> str | None:
        """The first word for a value."""
        return next((word for word, known in self.choices.items() if known == value), None)


class Either:
    """A flag as one of two values."""

    def __init__(self, on: Any, off: Any) -> None:
        self.on, self.off = on, off

    def __call__(self, value: Any) -> Any:
        return self.on if flag(value) else self.off

    def word(self, value: Any) -> bool:
        """The flag for a value."""
        return value == self.on


def words(text: str) -> OneOf:
    """One of the words of a text."""
    return OneOf(**{word: word for word in text.split()})


precision = OneOf(no="32-true", fp16="16-mixed", bf16="bf16-mixed", true="16-mixed", false="32-true")
save_precision = OneOf(fp16="fp16", bf16="bf16", float="fp32", fp32="fp32", true="fp16", false="fp32")


def rates(value: Any) -> list[float]:
    """One learning rate for all text encoders, or one for each of the two."""
    parts = value if isinstance(value, list) else re.split(r"[,\s]+", str(value).strip("[]() "))
    found = [number(part) for part in parts]
    if len(found) not in (1, 2):
        raise ValueError("a number, or two numbers")
    return found


def numbers(value: Any, kind: Coercion = number) -> list[Any]:
    """A list, or one text with commas between them."""
    parts = value if isinstance(value, list) else str(value).split(",") if str(value).strip() else []
    return [kind(part.strip() if isinstance(part, str) else part) for part in parts]


def wholes(value: Any) -> list[int]:
    return numbers(value, whole)


@cache
def of(key: str) -> Coercion:
    """The kind of value that the constructor of a setting takes."""
    from loralab.schema.destination import destination  # without Hydra until a file is converted

    parameter = destination(key)
    assert parameter is not None, key
    if parameter.plain is str and parameter.choices:
        return OneOf(**{choice: choice for choice in parameter.choices})
    return {bool: flag, int: whole, float: number, str: text}[parameter.plain]
