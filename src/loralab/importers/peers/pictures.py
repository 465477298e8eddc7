"""The pictures that another trainer draws while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from loralab.importers.foreign import Foreign
from loralab.schema import coerce

KINDS = {"prompt": coerce.text, "negative": coerce.text, "guidance": coerce.number}


def pictures(foreign: Foreign, given: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Prompts of callbacks.samples. names: the trainer's names → ours; others are listed in one note."""
    found, ignored = [], dict[str, None]()
    for number, sample in enumerate(given):
        prompt: dict[str, Any] = {}
        for key, value in sample.items():
            name = names.get(key)
            if name is None:
                ignored[key] = None
            elif value not in (None, ""):
                taken = foreign.valid(f"samples.{number}.{key}", value, KINDS.get(name, coerce.whole))
                prompt |= {} if taken is None else {name: taken}
        found += [prompt] if prompt.get("prompt") else []
    if ignored:
        foreign.warnings.append(f"has options of its samples that are not used: {', '.join(ignored)}")
    return found
