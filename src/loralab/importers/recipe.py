"""The settings of a run that are stored in its adapter file: enough to repeat it on other images."""

from __future__ import annotations

from typing import Any

from loralab.importers.save import several, stored
from loralab.importers.section import is_left_out


def recipe(tree: dict[str, Any], choices: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The `choices` of the groups and the `values` of the settings, from a composed configuration (plain values)."""
    chosen = several(tree) | choices
    return {
        "choices": {group: option for group, option in chosen.items() if option is not None and not is_left_out(group)},
        "values": {key: value for key, value in stored(tree) if not is_left_out(key)},
    }
