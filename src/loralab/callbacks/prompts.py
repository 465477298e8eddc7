"""The prompts to sample: from the settings, or from a file as sd-scripts reads it (text, TOML, JSON)."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from loralab.errors import Problem, UserError, user_error
from loralab.files import printable
from loralab.schema.constructors import parameters
from loralab.schema.ranges import Guidance, PictureSide, SamplingSteps

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

SETTING = "callbacks.samples.prompts"
FLAGS = {"w": "width", "h": "height", "d": "seed", "s": "steps", "l": "guidance", "n": "negative"}
"""What `--w 768` and the like behind a prompt say, in sd-scripts' files and here."""
KEYS = {"negative_prompt": "negative", "sample_steps": "steps", "scale": "guidance"}
"""sd-scripts' names in TOML and JSON, where they are not ours."""
LARGEST_FILE = 1 << 22
"""Bytes; a larger file is not a prompts file."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One picture to sample."""

    prompt: str
    negative: str
    seed: int
    width: PictureSide
    height: PictureSide
    steps: SamplingSteps
    guidance: Guidance

    def described(self) -> str:
        """The settings in the form that web UIs write into their pictures and read back."""
        return (
            f"{self.prompt}\nNegative prompt: {self.negative}\nSteps: {self.steps}, CFG scale: {self.guidance:g}, "
            f"Seed: {self.seed}, Size: {self.width}x{self.height}"
        )

    @classmethod
    def parse(cls, described: str) -> Prompt | None:
        """The prompt that is described so; None for another text."""
        texts = r"(.*)\nNegative prompt: (.*)\nSteps: (\d+), CFG scale: ([\d.e+-]+), "
        if not (found := re.fullmatch(texts + r"Seed: (-?\d+), Size: (\d+)x(\d+)", described, re.DOTALL)):
            return None
        steps, seed, width, height = (int(found[number]) for number in (3, 5, 6, 7))
        return cls(found[1], found[2], seed, width, height, steps, float(found[4]))


Ignored = dict[str, list[str]]
"""Option without a counterpart here → where it is given."""


def read(given: str | Sequence[str | Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Ignored]:
    """The settings of each prompt, as far as they are given; and the options that are ignored.

    given: the path of a file, or prompts: lines as in a text file, and mappings. Raises a UserError that lists
    everything wrong with them, and where there is no prompt.
    """
    from_file = isinstance(given, str)
    entries = list(_of_file(Path(given).expanduser()) if from_file else _numbered(given))
    ignored: Ignored = {}
    prompts: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for where, entry in entries:
        found, unknown = _settings(entry)
        prompts.append(found)
        problems += [Problem(SETTING, f"{where}: {words}", remedy) for words, remedy in _wrong(found)]
        if unknown and isinstance(entry, Mapping) and not from_file:
            valid = ", ".join(field.name for field in fields(Prompt))
            problems.append(Problem(SETTING, f"{where}: unknown {', '.join(unknown)}", f"valid: {valid}"))
        for option in unknown:
            ignored.setdefault(option, []).append(where)
    if problems:
        raise UserError(*problems)
    if not prompts:
        found = f"'{given}' contains no prompt" if from_file else "the list is empty"
        raise user_error(
            SETTING, found, "give one prompt per line (# starts a comment), or null for the images' captions"
        )
    return prompts, ignored


def notes(ignored: Ignored) -> list[str]:
    """The note about ignored options, each with its first location."""
    if not ignored:
        return []
    places = {name: where[0] + (f" and {len(where) - 1} more" if where[1:] else "") for name, where in ignored.items()}
    listed = ", ".join(f"{printable(name)} ({printable(place)})" for name, place in places.items())
    return [f"prompt options that are not supported and ignored: {listed}"]


def split(line: str) -> tuple[str, list[tuple[str, str]]]:
    """The words of a line, and (flag, value) of each option behind them: `a star --w 64 --n blue`."""
    words, *options = re.split(r"(?:^|\s+)--(?=[A-Za-z])", line.strip())
    flags = [re.split(r"[\s=]+", option, maxsplit=1) for option in options]
    return words, [(flag.lower(), value[0].strip() if value else "") for flag, *value in flags]


def _settings(entry: Any) -> tuple[dict[str, Any], list[str]]:
    """The settings of a line or a mapping by our names, and the names of those that are none of ours."""
    if isinstance(entry, str):
        words, flags = split(entry)
        named = {FLAGS.get(flag, f"--{flag}"): _number(flag, value) for flag, value in flags}
        if named.get("seed") == -1:  # what web UIs call a random one
            del named["seed"]
        named = {"prompt": words} | named if words else named
    elif isinstance(entry, Mapping):
        named = {KEYS.get(key, key): value for key, value in entry.items() if value is not None}
    else:
        named = {"prompt": entry}
    ours = {field.name for field in fields(Prompt)}
    return {k: v for k, v in named.items() if k in ours}, [str(key) for key in named if key not in ours]


def _number(flag: str, text: str) -> str | float:
    """The value of an option: a number where it must be and is one, else the text."""
    kind = {"w": int, "h": int, "d": int, "s": int, "l": float}.get(flag, str)
    try:
        return kind(text)
    except ValueError:
        return text


def _wrong(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the settings of one prompt, each with its remedy."""
    if "prompt" not in settings:
        yield "no prompt", "write the prompt in front of its options"
    valid = parameters(f"{__name__}.Prompt")
    assert valid, "read from this file"
    for name, value in settings.items():
        if expected := valid[name].mismatch(value):
            yield f"invalid {name}: {value!r}", f"valid: {expected}"


def _numbered(entries: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"prompt {number}", entry) for number, entry in enumerate(entries, 1))


def _of_file(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, line or mapping) for each prompt of a file."""
    text, kind = _text(path), path.suffix.lower()
    if kind not in ("", ".txt", ".toml", ".json"):
        raise user_error(SETTING, f"'{path}' is not a prompts file", "valid: .txt, .toml, .json, or a list of prompts")
    if kind not in (".toml", ".json"):
        yield from _lines(path, text)
        return
    try:
        table = tomllib.loads(text) if kind == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise user_error(SETTING, f"'{path}' is not valid {kind[1:].upper()} ({error})", "correct the file") from None
    yield from ((f"{where} of '{path}'", entry) for where, entry in _numbered(_of_table(path, table)))


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """The prompts of a text file, without empty lines and comments (#)."""
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"line {number} of '{path}'", line


def _of_table(path: Path, table: Any) -> list[Any]:
    """A list of prompts; or {prompt: {…, subset: […]}}, what all have in common and what each has of its own."""
    common = table.get("prompt") if isinstance(table, dict) else None
    subsets = common.get("subset") if isinstance(common, dict) else None
    if isinstance(common, dict) and isinstance(subsets, list) and all(isinstance(each, dict) for each in subsets):
        shared = {key: value for key, value in common.items() if key != "subset"}
        return [shared | each for each in subsets]
    if isinstance(common, dict) and "subset" not in common:
        return [common] if common else []
    if isinstance(common, str):
        return [table]
    if isinstance(table, list):
        return table
    remedy = "valid: a list of prompts, or [prompt] with a [[prompt.subset]] for each"
    raise user_error(SETTING, f"'{path}' contains no prompts", remedy)


def _text(path: Path) -> str:
    """The text of a file. Raises a UserError where there is none."""
    remedy = "give a prompts file (.txt, .toml, .json), or a list: ['a cat','a dog']"
    if not os.path.isfile(path):  # unlike Path's, it takes any text
        found = "is a folder" if os.path.isdir(path) else "is not a file" if os.path.exists(path) else "not found"
        raise user_error(SETTING, f"'{path}' {found}", remedy)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise user_error(SETTING, f"'{path}' is larger than {LARGEST_FILE >> 20} MB", remedy)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise user_error(SETTING, f"'{path}' cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError:
        raise user_error(SETTING, f"'{path}' is not UTF-8 text", "save the file as UTF-8") from None
    if "\0" in text:
        raise user_error(SETTING, f"'{path}' is a binary file", remedy)
    return text
