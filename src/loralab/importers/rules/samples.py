"""Pictures while training."""

from __future__ import annotations

import re
from typing import Any

from loralab.callbacks import prompts
from loralab.errors import UserError
from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS

TIMES = ("sample_every_n_epochs", "sample_every_n_steps")


def samples(foreign: Foreign, ours: Ours) -> None:
    times = {name: foreign.take(name) or None for name in TIMES}
    first = foreign.take("sample_at_first")
    given = _prompts(foreign)
    if not (given or ours.value("callbacks.samples.prompts")) or not (first or any(times.values())):
        return
    ours.set("callbacks.samples.enabled", True, "sample_prompts")
    if given:
        ours.set("callbacks.samples.prompts", given, "sample_prompts")
    ours.set("callbacks.samples.before", bool(first), "sample_at_first")
    for name, every in times.items():
        if name in foreign.options:
            ours.set(OPTIONS[name].key, every, name)


def _prompts(foreign: Foreign) -> str | list[dict[str, Any]] | None:
    """The path of a prompts file, or the prompts themselves, one per line; problems and ignored options are noted."""
    given = (foreign.take("sample_prompts") or "").strip()
    if not given or (re.search(r"\.(txt|json|toml)$", given) and "\n" not in given):
        return foreign.checked("sample_prompts", foreign.options["sample_prompts"], coerce.path) if given else None
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
