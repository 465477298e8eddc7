"""Pictures while training."""

from __future__ import annotations

import re
from typing import Any

from loralab.callbacks.prompts import FLAGS, split
from loralab.settings import kinds
from loralab.settings.foreign import Foreign
from loralab.settings.rules.ours import Ours

TIMES = {
    "sample_every_n_epochs": "callbacks.samples.every_n_epochs",
    "sample_every_n_steps": "callbacks.samples.every_n_steps",
}


def samples(foreign: Foreign, ours: Ours) -> None:
    times = {name: foreign.take(name, kinds.whole) or None for name in TIMES}
    first = foreign.take("sample_at_first", kinds.flag)
    prompts = foreign.take("sample_prompts", _prompts)
    if not (prompts or ours.value("callbacks.samples.prompts")) or not (first or any(times.values())):
        for name in (*TIMES, "sample_at_first", "sample_prompts"):
            foreign.leave(name, "no pictures: that takes prompts, and times to draw them")
        return
    ours.set("callbacks.samples.enabled", True, "sample_prompts")
    if prompts:
        ours.set("callbacks.samples.prompts", prompts, "sample_prompts")
    ours.set("callbacks.samples.before", bool(first), "sample_at_first")
    for name, key in TIMES.items():
        if name in foreign.options:
            ours.set(key, times[name], name)


def _prompts(value: Any) -> str | list[dict[str, Any]]:
    """The path of a text file with them, or the prompts themselves, one a line."""
    given = kinds.text(value).strip()
    if re.search(r"\.(txt|json|toml)$", given) and "\n" not in given:
        return kinds.path(given)
    return [_prompt(line) for line in given.splitlines() if line.strip() and not line.startswith("#")]


def _prompt(line: str) -> dict[str, Any]:
    words, flags = split(line)
    found: dict[str, Any] = {"prompt": words}
    for flag, value in flags:
        if key := FLAGS.get(flag):
            kind = kinds.text if key == "negative" else kinds.number if key == "guidance" else kinds.whole
            found[key] = kind(value)
    return found
