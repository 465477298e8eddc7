"""sd-scripts' configuration (`--config_file`), as TOML or JSON, with or without sections, whose names have no meaning.

Absent keys have sd-scripts' defaults; 0 means 0. Epochs take precedence over steps. Warm-up is in optimizer steps,
below 1 a share of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loralab.importers.content import Content
from loralab.importers.dialects import dataset_toml
from loralab.importers.dialects.dataset_toml import DATA, FOLDER, WITHOUT
from loralab.importers.dialects.defaults import SD_SCRIPTS
from loralab.importers.foreign import Foreign
from loralab.schema.catalogue import OPTIONS

NAMES = {name: name for name in OPTIONS if name not in ("epoch", "lr_warmup")}
NAMES["caption_extention"] = "caption_extension"  # an old spelling

TABLES = ("network_args", "optimizer_args", "lr_scheduler_args")
"""Options that may be tables themselves."""

OF_DATASETS = frozenset((*FOLDER, *DATA, *WITHOUT))
"""Keys that a dataset configuration may contain."""


def settings_beside_datasets(data: Mapping[str, Any]) -> bool:
    """Whether a file with a dataset configuration contains training settings, too."""
    keys = {key for name, value in data.items() for key in (value if isinstance(value, dict) else (name,))}
    return bool(keys & NAMES.keys() - OF_DATASETS)


def read(content: Content) -> Foreign:
    """The options; [[datasets]] in the same file is read like a separate file, with its keys of [general]."""
    found = Foreign("sd-scripts-toml", content, NAMES, SD_SCRIPTS, SD_SCRIPTS)
    datasets = isinstance(content.data.get("datasets"), list)
    general: dict[str, Any] = {}
    for key, value in content.data.items():
        if datasets and key == "datasets":
            continue
        if not isinstance(value, dict) or key in TABLES:
            take(found, key, value)
            continue
        for inner, inside in value.items():
            if datasets and key == "general" and inner in OF_DATASETS:
                general[inner] = inside
            else:
                take(found, inner, inside)
    if datasets:
        found.datasets = {"general": general, "datasets": content.data["datasets"]}
    dataset_toml.follow(found)
    return found


def take(found: Foreign, key: str, value: object, names: Mapping[str, str] = NAMES, empty: bool = False) -> None:
    """Adds one option; null and empty text count as absent, since they have a meaning for no option."""
    name = names.get(key, key)
    if name in found.options:
        raise found.error(key, "defined twice", "keep one of them")
    found.add(key, name, value, empty=empty or value in (None, ""))
