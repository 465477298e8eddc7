"""Which settings the user has set, which the planner leaves as they are."""

from __future__ import annotations

from loralab.schema.compose import CONF, Composed
from loralab.schema.sources import Sources, raw, within
from loralab.schema.tree import exists

RECIPES = ("experiment", "debug", "sweep")
"""Groups whose options set what others leave open."""


def is_explicit(composed: Composed, key: str) -> bool:
    """Whether an override, a settings file, a recipe or a file of the user's own has set it.

    An option of a group inside another, such as data/cache=memory, sets all that is below it.
    """
    groups = [override.lstrip("+").partition("=")[0] for override in composed.overrides]
    if any("/" in group and key.startswith(f"{group.replace('/', '.')}.") for group in groups):
        return True
    if Sources(composed).given(key):
        return True
    for file, package in composed.files:
        is_theirs = not file.is_relative_to(CONF) or file.relative_to(CONF).parts[0] in RECIPES
        place = within(package, key) if is_theirs else None
        if place and exists(raw(file), place):
            return True
    return False
