"""Lists every setting in docs/configuration.md, from the YAMLs of conf/: python -m loralab.command.reference"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loralab.command.menu import first_comment
from loralab.schema.compose import CONF, group_options
from loralab.schema.constructors import parameters
from loralab.schema.sources import raw
from loralab.schema.third_party import RANGES

PAGE = CONF.parent / "docs" / "configuration.md"
START = "<!-- every setting: written by `make docs` from the YAMLs of conf/ -->"
RECIPES = ("experiment", "debug", "sweep")
LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z_]\w*):(?: +(?P<value>.*))?")
TRAILING = re.compile(r"(^|\s+)#\s*(?P<words>.*)$")


@dataclass(slots=True)
class Setting:
    """A setting as written in the YAMLs of its group."""

    key: str
    defaults: dict[str, str] = field(default_factory=dict)
    """Option → the value that it sets, as written."""
    valid: str = ""
    words: str = ""


def text() -> str:
    """The page with an up-to-date list."""
    before, start, _ = PAGE.read_text("utf8").partition(START)
    assert start, f"{PAGE} has lost its marker"
    return before + START + "\n\n" + "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    groups = group_options()
    yield "### Top level\n"
    yield from _table(_of_files({"": CONF / "train.yaml"}, ""))
    for group, options in groups.items():
        yield f"### {group}\n"
        yield from (f"- `{group}={option}`: {first_comment(group, option)}" for option in options)
        yield ""
        files = {option: CONF / group / f"{option}.yaml" for option in options}
        below = [other.replace("/", ".") + "." for other in groups if other.startswith(f"{group}/")]
        settings = [s for s in _of_files(files, group.replace("/", ".")) if not s.key.startswith(tuple(below))]
        if group not in RECIPES and settings:
            yield from _table(settings)


def _table(settings: list[Setting]) -> Iterator[str]:
    yield "| setting | default | valid | what it does |"
    yield "|---|---|---|---|"
    for setting in settings:
        cells = (f"`{setting.key}`", _default(setting.defaults), setting.valid, setting.words)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _default(defaults: dict[str, str]) -> str:
    """One value where all options agree, else each value with its options."""
    options: dict[str, list[str]] = {}
    for option, value in defaults.items():
        options.setdefault(value, []).append(option)
    if len(options) == 1:
        return _code(next(iter(options)))
    return ", ".join(f"{_code(value)} ({', '.join(names)})" for value, names in options.items())


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _of_files(files: dict[str, Path], prefix: str) -> list[Setting]:
    """The settings of a group's options, merged by key."""
    found: dict[str, Setting] = {}
    for option, file in files.items():
        entries = list(_inherited(file, prefix))
        of_all = target = next((value for path, value, _ in reversed(entries) if path == f"{prefix}._target_"), "")
        for path, value, words in entries:
            if path.endswith("._target_"):
                target = of_all or value
            if path.rpartition(".")[2].startswith("_") or not path.startswith(prefix) or value == "{}":
                continue
            if prefix == "callbacks" and path.endswith(
                ".enabled"
            ):  # of a callback, which is what the YAML's heading is about
                words = first_comment(prefix, option) + (f" {words}" if words else "")
            setting = found.setdefault(path, Setting(path))
            setting.defaults[option] = value
            setting.words = setting.words or words
            setting.valid = setting.valid or _valid(target, path)
    return list(found.values())


def _valid(target: str, path: str) -> str:
    """What the constructor accepts; of third-party constructors the range in `RANGES`."""
    node, _, key = path.rpartition(".")
    if target.startswith("loralab."):
        known = parameters(target) or {}
        return known[key].words if key in known else ""
    limits = RANGES.get(node, {}).get(key, "")
    return " | ".join(limits) if isinstance(limits, tuple) else str(limits)


def _inherited(file: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """The same of a YAML and of the one of its group that it starts from, which comes first."""
    starts = [start for start in raw(file).get("defaults") or () if isinstance(start, str) and start != "_self_"]
    if prefix and len(starts) == 1:
        yield from _inherited(file.with_name(f"{starts[0].partition('@')[0]}.yaml"), prefix)
    yield from _entries(file, prefix)


def _entries(file: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """(path, value as written, comment) of each setting of a YAML; a comment is above its key or behind it."""
    lines = file.read_text("utf8").splitlines()
    parents: list[tuple[int, str]] = []
    root = [] if "@package _global_" in lines[0] else [prefix] * bool(prefix)
    comment: list[str] = []
    skipped = None  # the indentation of the defaults list, which sets nothing
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith("#") or not stripped:
            in_heading = not any(LINE.match(above) for above in lines[:number])
            comment = [*comment, stripped.lstrip("# ")] if stripped and not in_heading else []
            continue
        match = LINE.fullmatch(line)
        indent = len(line) - len(line.lstrip())
        if skipped is not None and (indent > skipped or not match):
            continue
        skipped = None
        if not match:
            continue
        while parents and parents[-1][0] >= indent:
            parents.pop()
        value = match["value"] or ""
        behind = TRAILING.search(value)
        value, words = value[: behind.start()] if behind else value, [behind["words"]] if behind else comment
        path = ".".join([*root, *(name for _, name in parents), match["key"]])
        comment = []
        if match["key"] in ("defaults", "hydra"):
            skipped = indent
        elif value or (number + 1 < len(lines) and lines[number + 1].lstrip().startswith("- ")):
            yield path, value, " ".join(words)
        else:
            parents.append((indent, match["key"]))


if __name__ == "__main__":
    PAGE.write_text(text(), "utf8")
