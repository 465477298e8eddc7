"""Settings as choices and values, and their form as Hydra overrides."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

RIVALS = (
    ("trainer.max_steps", "trainer.max_epochs"),
    ("scheduler.warmup_steps", "scheduler.warmup_ratio"),
    ("data.folder", "data.folders"),
)
"""Two ways of setting the same thing: setting one removes the other."""

Choice = str | list[str]


@dataclass(slots=True)
class Settings:
    """The option chosen in each group, and values by their dotted keys."""

    choices: dict[str, Choice] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The overrides, choices first."""
        return [f"{group}={_choice(option)}" for group, option in self.choices.items()] + [
            f"{key}={written(value)}" for key, value in self.values.items()
        ]

    def without(self, name: str, rivals: bool = True) -> list[str]:
        """Removes a group with everything below it, or a key with its rivals; returns what was removed."""
        prefix = name.replace("/", ".")
        gone = [key for key in self.values if key == prefix or key.startswith(f"{prefix}.")]
        gone += [key for key in self.values if rivals and _rivals(key, prefix)]
        groups = [group for group in self.choices if group == name or group.startswith(f"{name}/")]
        return Settings({g: self.choices.pop(g) for g in groups}, {k: self.values.pop(k) for k in gone}).lines()

    def over(self, other: Settings) -> Settings:
        """These settings over others: a group chosen here removes the other's values of that group."""
        below = Settings(dict(other.choices), dict(other.values))
        for group, option in self.choices.items():
            if below.choices.get(group) != option:
                below.without(group)
        for key, value in self.values.items():
            below.without(key, rivals=value is not None)
        return Settings({**below.choices, **self.choices}, {**below.values, **self.values})


def written(value: Any) -> str:
    """A value in the grammar of Hydra's overrides; text is quoted where it could be parsed as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        assert not math.isnan(value), "no setting is NaN"
        return repr(value)
    if isinstance(value, str):
        return value if _is_plain(value) else quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_key(key)}: {written(part)}" for key, part in value.items()) + "}"
    assert isinstance(value, (list, tuple)), value
    return "[" + ",".join(map(written, value)) + "]"


PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
"""Texts that need no quotes, unless they are words of the grammar."""

WORDS = frozenset(["true", "false", "null", "nan", "inf"])


def _is_plain(text: str) -> bool:
    return bool(PLAIN.fullmatch(text)) and text.isascii() and text.lower() not in WORDS


def quoted(text: str, mark: str = "'") -> str:
    """A text in quotes of Hydra's grammar: a backslash is literal, except before a quote, the closing one included."""
    text = re.sub(rf"(\\*){mark}", rf"\1\1\\{mark}", text)
    return mark + re.sub(r"(\\+)\Z", r"\1\1", text) + mark


def _key(key: str) -> str:
    assert re.fullmatch(r"\w+", key), key
    return key


def _choice(option: Choice) -> str:
    return f"[{','.join(option)}]" if isinstance(option, list) else option


def _rivals(key: str, other: str) -> bool:
    return any({key, other} == set(pair) for pair in RIVALS)
