"""Pictures while training."""

from __future__ import annotations

import re
from typing import Any

from loralab.callbacks import prompts
from loralab.errors import UserError
from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

TIMES = {
    "sample_every_n_epochs": "callbacks.samples.every_n_epochs",
    "sample_every_n_steps": "callbacks.samples.every_n_steps",
}


def samples(foreign: Foreign, ours: Ours) -> None:
    times = {name: foreign.take(name, coerce.whole) or None for name in TIMES}
    first = foreign.take("sample_at_first", coerce.flag)
    given = _prompts(foreign)
    if not (given or ours.value("callbacks.samples.prompts")) or not (first or any(times.values())):
        for name in (*TIMES, "sample_at_first", "sample_prompts"):
            foreign.leave(name, "has no effect: pictures need both prompts and an interval")
        return
    ours.set("callbacks.samples.enabled", True, "sample_prompts")
    if given:
        ours.set("callbacks.samples.prompts", given, "sample_prompts")
    ours.set("callbacks.samples.before", bool(first), "sample_at_first")
    for name, key in TIMES.items():
        if name in foreign.options:
            ours.set(key, times[name], name)


def _prompts(foreign: Foreign) -> str | list[dict[str, Any]] | None:
    """The path of a prompts file, or the prompts themselves, one per line; problems and ignored options are noted."""
    given = foreign.take("sample_prompts", coerce.text)
    given = given.strip() if given else None
    if not given or (re.search(r"\.(txt|json|toml)$", given) and "\n" not in given):
        return given and foreign.take("sample_prompts", coerce.path)
    lines = [line for line in given.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return None
    try:
        found, ignored = prompts.read(lines)
    except UserError as error:
        for problem in error.problems:
            foreign.problem("sample_prompts", problem.found, problem.remedy)
        return None
    foreign.warnings += [f"has {note}" for note in prompts.notes(ignored)]
    return found
