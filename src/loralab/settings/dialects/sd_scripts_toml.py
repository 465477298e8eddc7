"""sd-scripts' configuration (`--config_file`), as TOML or JSON, in sections or without, whose names mean nothing.

Absent keys have sd-scripts' own values; values are what they are, 0 is 0. Epochs decide before steps. Warm-up is in
optimizer steps, below 1 a share of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loralab.settings.content import Content
from loralab.settings.dialects import dataset_toml
from loralab.settings.dialects.dataset_toml import DATA, FOLDER, WITHOUT
from loralab.settings.dialects.defaults import SD_SCRIPTS
from loralab.settings.foreign import Foreign
from loralab.settings.table import OPTIONS

NAMES = {name: name for name in OPTIONS if name not in ("epoch", "lr_warmup")}
NAMES["caption_extention"] = "caption_extension"  # as it was once spelt

TABLES = ("network_args", "optimizer_args", "lr_scheduler_args")
"""Options that may be tables themselves."""

OF_DATASETS = frozenset((*FOLDER, *DATA, *WITHOUT))
"""What a dataset configuration may say itself."""


def settings_beside_datasets(data: Mapping[str, Any]) -> bool:
    """Whether a file with a dataset configuration in it configures the training, too."""
    keys = {key for name, value in data.items() for key in (value if isinstance(value, dict) else (name,))}
    return bool(keys & NAMES.keys() - OF_DATASETS)


def read(content: Content) -> Foreign:
    """The options; [[datasets]] in the same file is read like a file of its own, with what of [general] is its."""
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
    """One option; null and empty texts are as good as absent, since no option means anything by them."""
    name = names.get(key, key)
    if name in found.options:
        raise found.error(key, "is given twice", "keep one of them")
    found.add(key, name, value, empty=empty or value in (None, ""))
