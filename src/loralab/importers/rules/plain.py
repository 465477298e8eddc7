"""Options whose value is used as it is."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema.catalogue import OPTIONS


def plain(foreign: Foreign, ours: Ours) -> None:
    for option in OPTIONS.values():
        if option.kind is not None and (value := foreign.take(option.name, option.kind)) is not None:
            ours.set(option.key, value, option.name)
