"""Writes docs/parameters.md from the table: python -m loralab.tools.parameters_page"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loralab.schema.catalogue import FURTHER, NETWORK_ARGS, NO_COUNTERPART, PARAMETERS, SECTIONS, Option

PAGE = Path(__file__).resolve().parents[3] / "docs" / "parameters.md"

INTRODUCTION = """\
# Parameters

Every setting of the LoRA Easy Training scripts and of sd-scripts, by its old names and by its key in loralab. All of
them can be set on the command line (`python train.py adapter.rank=16`), in a YAML of `conf/`, or by an old settings
file ([settings files](settings.md)).

This page is generated from the table that settings files are read with: `make docs`.
"""


def text() -> str:
    """The page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    for section in SECTIONS:
        yield from _table(section, ("#", "old name", "sd-scripts", "key", "what it does"), _rows(section))
    yield from _table(
        "Further options of sd-scripts and its GUI", ("name", "key", "what it does"), map(_further, FURTHER)
    )
    mapped = [option for option in NETWORK_ARGS if option.key]
    yield from _table("Arguments of networks (`network_args`)", ("name", "key", "what it does"), map(_further, mapped))
    yield "## Not supported\n"
    yield "A settings file may contain these; they are reported with the reason and ignored.\n"
    yield from _reasons([*NO_COUNTERPART, *(option for option in (*FURTHER, *NETWORK_ARGS) if not option.key)])


def _rows(section: str) -> Iterator[tuple[str, ...]]:
    for option in PARAMETERS:
        if option.section == section:
            other = f"`{option.sd_scripts}`" if option.sd_scripts else "–"
            yield str(option.number), f"`{option.old}`", other, f"`{option.key}`", option.what


def _further(option: Option) -> tuple[str, ...]:
    return f"`{option.name}`", f"`{option.key}`" if option.key else "–", option.what


def _table(title: str, head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _reasons(options: list[Option]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for option in options:
        reasons.setdefault(option.what, []).append(f"`{option.name}`")
    for reason, names in reasons.items():
        yield f"- {', '.join(names)}: {reason}"


if __name__ == "__main__":
    PAGE.write_text(text(), "utf8")
