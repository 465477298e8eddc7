"""Errors that are shown to a user: the setting, what was found, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loralab.files import printable
from loralab.urls import without_secrets


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: the setting (its config path, or a file), what was found, and the remedy."""

    setting: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        words = f"{self.setting}: {self.found}" + (f"\n    → {self.remedy}" if self.remedy else "")
        return "\n".join(map(printable, without_secrets(words).split("\n")))


class UserError(Exception):
    """A user's mistake: shown as its problems, without a traceback, exit code 1."""

    def __init__(self, *problems: Problem) -> None:
        assert problems, "a UserError names at least one problem"
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))

    def __reduce__(self) -> tuple:  # for pickling between processes
        return type(self), self.problems


class Diverged(UserError):
    """Losses, gradients or weights became NaN or infinite. A search continues with other settings."""


def invalid(setting: str, value: Any, valid: str) -> Problem:
    """The problem of an invalid value; valid: the values that the setting can have, in words."""
    shown = repr(value)
    return Problem(setting, f"invalid value {shown if len(shown) <= 80 else shown[:79] + '…'}", f"valid: {valid}")


def user_error(setting: str, found: str, remedy: str = "") -> UserError:
    """A UserError of a single problem."""
    return UserError(Problem(setting, found, remedy))
