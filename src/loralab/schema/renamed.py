"""Settings that had another name once: old command lines, recipes, files and training states still count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "adapter.rank_stabilised": "adapter.rs_lora",
    "data.validation.share": "data.validation.split",
    "health.movement": "health.stop_if_unchanged",
    "targets.ends": "targets.in_out",
}
"""The old key → the key."""

OPTIONS = {("data/validation", "share"): "split"}
"""Group and old option → the option."""


def current(override: str) -> str:
    """An override with the names of today."""
    bare = override.lstrip("+~")
    key, equals, value = bare.partition("=")
    return override.removesuffix(bare) + RENAMED.get(key, key) + equals + OPTIONS.get((key, value), value)


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, under the keys of today."""
    return {RENAMED.get(key, key): value for key, value in values.items()}


def note(old: str, new: str) -> str:
    return f"{old} is now called {new}"
