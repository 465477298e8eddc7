"""What the flags of the command choose: strengths, seeds, prompts and checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loralab.callbacks import prompts
from loralab.errors import Problem, UserError, invalid
from loralab.files import digest_file
from loralab.grid.sources import Source

ALL, LAST = "all", "last"
FEW = 6
"""So many checkpoints of a run are drawn where none are asked for: the first, the last, and others evenly between."""
STRONGEST = 100.0


@dataclass(frozen=True)
class Checkpoint:
    """One adapter file."""

    source: str
    """The title of its run, or of the file."""
    time: str
    """When it was saved: step 500. Empty for a file alone."""
    path: Path
    digest: str


def strengths(text: str) -> list[float]:
    """Numbers by commas. Raises a UserError for anything else."""
    return _numbers(
        "--strength", text, float, f"numbers from -{STRONGEST:g} to {STRONGEST:g}, such as 0.5,1", STRONGEST
    )


def seeds(text: str) -> list[int]:
    return _numbers("--seeds", text, int, "whole numbers, such as 0,1,2", 2**63 - 1)


def _numbers(flag: str, text: str, kind: type, valid: str, most: float) -> list[Any]:
    found = []
    for word in text.split(","):
        try:
            found.append(kind(word))
            fits = math.isfinite(found[-1]) and abs(found[-1]) <= most
        except ValueError:
            fits = False
        if not fits:
            raise UserError(invalid(flag, word, valid))
    return [*dict.fromkeys(found)]


def given_prompts(texts: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The settings of prompts given as files or as themselves; and notes on what of them is ignored."""
    found, ignored = [], {}
    try:
        for text in texts:
            is_file = os.path.exists(os.path.expanduser(text)) or text.endswith((".txt", ".toml", ".json"))
            entries, others = prompts.read(text if is_file else [text])
            found += entries
            ignored |= others
    except UserError as error:
        raise UserError(*(replace(problem, setting="--prompts") for problem in error.problems)) from None
    return found, prompts.notes(ignored)


def checkpoints(found: list[Source], words: str | None) -> tuple[list[Checkpoint], list[str]]:
    """Those asked for of each source, and a note where there are more.

    words: all, last, or steps by commas; None: some of a single run, the last of each of several. Raises a UserError
    for a step of which no run has a file.
    """
    notes: list[str] = []
    if words is None and len(found) == 1 and len(found[0].files) > FEW:
        notes.append(f"{FEW} of {len(found[0].files)} checkpoints · --checkpoints all for all of them")
    chosen = [(source, time) for source in found for time in _times(source, words, len(found))]
    asked = {word.strip() for word in (words or LAST).split(",")}
    have = {word for source in found for time in source.files for word in (time, time.split()[-1] if time else "")}
    if lost := sorted(asked - {ALL, LAST} - have):
        valid = [ALL, LAST, *dict.fromkeys(time.removeprefix("step ") for source in found for time in source.files)]
        raise UserError(*(_no_checkpoint(word, [each for each in valid if each]) for word in lost))
    return [Checkpoint(s.title, time, s.files[time], digest_file(s.files[time])) for s, time in chosen], notes


def _no_checkpoint(word: str, valid: list[str]) -> Problem:
    return Problem("--checkpoints", f"no file was saved at '{word}'", f"valid: {', '.join(valid)}")


def _times(source: Source, words: str | None, sources: int) -> Iterator[str]:
    times = [*source.files]
    if words is None:
        few = [times[round(at * (len(times) - 1) / (FEW - 1))] for at in range(FEW)] if len(times) > FEW else times
        yield from few if sources == 1 else times[-1:]
        return
    asked = {word.strip() for word in words.split(",")}
    for time in times:
        called = {time, time.split()[-1] if time else "", ALL} | ({LAST} if time == times[-1] else set())
        if called & asked:
            yield time
