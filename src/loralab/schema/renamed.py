"""Settings that had another name once: old command lines, recipes, files and training states still count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "adapter.rank_stabilised": "adapter.rs_lora",
    "data.validation.share": "data.validation.split",
    "health.movement": "health.stop_if_unchanged",
    "model.convolutions": "model.kernels",
    "targets.ends": "targets.in_out",
}
"""The old key → the key."""

NO_LONGER = ("data.cache.text",)
"""What signatures of earlier versions hold, and those of today do not."""

OPTIONS = {("data/validation", "share"): "split", ("model.convolutions", "plain"): "torch"}
"""Group and old option → the option."""

TARGETS = {
    "loralab.models.sd.load": "loralab.models.families.sd.load",
    "loralab.models.sdxl.load": "loralab.models.families.sdxl.load",
    "loralab.models.miniature.sdxl": "loralab.models.families.sdxl.miniature",
}
"""The old `_target_` → the target."""


def current(override: str) -> str:
    """An override with the names of today."""
    bare = override.lstrip("+~")
    key, equals, value = bare.partition("=")
    if key.endswith("_target_"):
        value = TARGETS.get(value.strip("'\""), value)
    return override.removesuffix(bare) + RENAMED.get(key, key) + equals + OPTIONS.get((key, value), value)


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, under the names of today."""
    return {RENAMED.get(key, key): current_target(key, value) for key, value in values.items()}


def current_target(key: str, value: Any) -> Any:
    """The value of a key, a target under its name of today."""
    return TARGETS.get(value, value) if key.endswith("_target_") and isinstance(value, str) else value


def note(old: str, new: str) -> str:
    return f"{old} is now called {new}"
