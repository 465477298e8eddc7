"""Options whose value is used as it is."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS, PLAIN


def plain(foreign: Foreign, ours: Ours) -> None:
    for option in OPTIONS.values():
        kind = coerce.of(option.key) if option.kind is PLAIN else option.kind
        if kind is not None and (value := foreign.take(option.name, kind)) is not None:
            ours.set(option.key, value, option.name)
