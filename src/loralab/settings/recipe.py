"""The settings of a training as its adapter file holds them: enough to repeat the run on other images."""

from __future__ import annotations

from typing import Any

from loralab.settings.save import leaves, several
from loralab.settings.section import is_left_out


def recipe(tree: dict[str, Any], choices: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`choices` made in the groups and `values` of the settings, of a composed configuration (plain values)."""
    chosen = several(tree) | choices
    return {
        "choices": {group: option for group, option in chosen.items() if option is not None and not is_left_out(group)},
        "values": {key: value for key, value in leaves(tree) if not is_left_out(key)},
    }
