"""sd-scripts' TOML configuration (`--config_file`), in sections or without; the sections' names mean nothing.

Absent keys have sd-scripts' own values; values are what they are, 0 is 0. Epochs decide before steps. Warm-up is in
optimizer steps, below 1 a share of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from loralab.settings.content import Content
from loralab.settings.dialects import dataset_toml
from loralab.settings.dialects.defaults import SD_SCRIPTS
from loralab.settings.foreign import Foreign
from loralab.settings.table import OPTIONS

NAMES = {name: name for name in OPTIONS if name not in ("epoch", "lr_warmup")}
NAMES["caption_extention"] = "caption_extension"  # as it was once spelt

TABLES = ("network_args", "optimizer_args", "lr_scheduler_args")
"""Options that may be tables themselves."""


def read(content: Content) -> Foreign:
    found = Foreign("sd-scripts-toml", content, NAMES, SD_SCRIPTS, SD_SCRIPTS)
    for key, value in content.data.items():
        if isinstance(value, dict) and key not in TABLES:
            for inner, inside in value.items():
                take(found, inner, inside)
        else:
            take(found, key, value)
    dataset_toml.follow(found)
    return found


def take(found: Foreign, key: str, value: object, names: Mapping[str, str] = NAMES, empty: bool = False) -> None:
    """One option; empty texts are as good as absent, since no option means anything by them."""
    name = names.get(key, key)
    if name in found.options:
        raise found.error(key, "stands there twice", "keep one of them")
    found.add(key, name, value, empty=empty or value == "")
