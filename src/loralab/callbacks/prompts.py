"""What pictures are asked for: in settings, or in a text file with a prompt a line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.errors import user_error

SETTING = "callbacks.samples.prompts"
KINDS: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative": (str,),
    "seed": (int,),
    "width": (int,),
    "height": (int,),
    "steps": (int,),
    "guidance": (float, int),
}
FLAGS = {"w": "width", "h": "height", "d": "seed", "s": "steps", "l": "guidance", "n": "negative"}
"""What `--w 768` and the like behind a prompt say, in sd-scripts' files and here."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One picture that is asked for."""

    prompt: str
    negative: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float

    def described(self) -> str:
        """The settings in the form that web UIs write into their pictures and read back."""
        return (
            f"{self.prompt}\nNegative prompt: {self.negative}\nSteps: {self.steps}, CFG scale: {self.guidance:g}, "
            f"Seed: {self.seed}, Size: {self.width}x{self.height}"
        )


def read(given: str | Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings of each prompt, as far as they are given: of texts and mappings, or of the lines of a file.

    Raises a UserError for a file that is not there, and for what is no prompt.
    """
    entries = list(_lines(Path(given).expanduser())) if isinstance(given, str) else given
    return [_checked({"prompt": entry} if isinstance(entry, str) else dict(entry)) for entry in entries]


def split(line: str) -> tuple[str, list[tuple[str, str]]]:
    """The words of a line, and (flag, value) of each option behind them: `a star --w 64 --n blue`."""
    words, *options = re.split(r"\s+--(?=\w+(?:\s|$))", line.strip())
    flags = [option.partition(" ") for option in options]
    return words, [(flag, value.strip()) for flag, _, value in flags]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Empty lines and those that begin with # are none."""
    if not path.is_file():
        raise user_error(SETTING, f"'{path}' is not there", "a text file, or a list of prompts")
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            words, flags = split(line)
            try:
                yield {"prompt": words} | {FLAGS[flag]: _value(FLAGS[flag], value) for flag, value in flags}
            except (KeyError, ValueError):
                valid = ", ".join(f"--{flag} {name}" for flag, name in FLAGS.items())
                raise user_error(SETTING, f"line {number} of '{path}' is not a prompt: {line}", valid) from None


def _value(name: str, text: str) -> str | int | float:
    return text if name == "negative" else float(text) if name == "guidance" else int(text)


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    if "prompt" not in entry or entry.keys() - KINDS.keys():
        raise user_error(SETTING, f"{entry!r} is not a prompt", f"it may have: {', '.join(KINDS)}")
    for name, value in entry.items():
        if not isinstance(value, KINDS[name]) or isinstance(value, bool):
            raise user_error(SETTING, f"{name}: {value!r} of {entry['prompt']!r} does not fit", _valid(name))
        if name in ("width", "height"):
            check_side(SETTING, value)
        if name == "steps" and value < 1:
            raise user_error(SETTING, f"steps: {value} of {entry['prompt']!r} does not fit", "at least 1")
    return entry


def check_side(setting: str, side: int | None) -> None:
    """Raises a UserError for a side that the model cannot draw; None stands for its own."""
    if side is not None and (side < 8 or side % 8):
        raise user_error(setting, f"a picture cannot have a side of {side} px", "a multiple of 8")


def _valid(name: str) -> str:
    return "a text" if str in KINDS[name] else "a number" if float in KINDS[name] else "a whole number"
