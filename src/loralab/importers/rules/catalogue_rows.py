"""Rows of the catalogue become settings: the value of an option is that of its key, where the row's conditions hold."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema.catalogue import Option

TOGETHER = {
    "objective/noise": ("offset", "multires", "input_perturbation"),
    "objective/weighting": ("min_snr", "scaled_v", "v_like", "debiased"),
}
"""Groups of which several options may be chosen, in sd-scripts' order."""


def plain(foreign: Foreign, ours: Ours) -> None:
    """Rows without conditions."""
    for option in foreign.rows.values():
        if option.is_row and not option.only and (value := foreign.take(option.name)) is not None:
            key, _, word = option.key.partition("=")
            if word == "…":
                ours.choose(key, value, option.name)
            elif key not in TOGETHER:
                ours.set(key, value, option.name)


def switches(foreign: Foreign, ours: Ours) -> None:
    """Options that are chosen together, each by a row of its own, where it is on."""
    for group, order in TOGETHER.items():
        rows = [row for word in order for row in foreign.rows.values() if row.is_row and row.key == f"{group}={word}"]
        on = [row for row in rows if foreign.take(row.name)]
        for row in rows:
            if row not in on:
                foreign.leave(row.name, "is off")
            elif row.holder:
                ours.set(row.holder, foreign.take(row.name), row.name)
        if on:
            chosen = [row.key.partition("=")[2] for row in on]
            ours.choose(group, chosen if len(on) > 1 else chosen[0], *(row.name for row in on))
        elif group == "objective/weighting" and (foreign.absent or any(row.name in foreign.options for row in rows)):
            ours.choose(group, "none")  # data=shapes would choose another


def conditional(foreign: Foreign, ours: Ours) -> None:
    """Rows with conditions, after what they depend on."""
    for option in foreign.rows.values():
        if not (option.is_row and option.only):
            continue
        value, conditions = foreign.take(option.name), option.only.split()
        if not all(_holds(condition, foreign, ours) for condition in conditions):
            if foreign.has(option.name) or option.name in conditions:
                foreign.leave(option.name, why_not(option))
        elif value is not None:
            others = (name for name in conditions if "=" not in name and name != option.name)
            ours.set(option.key, value, option.name, *others)


def _holds(condition: str, foreign: Foreign, ours: Ours) -> bool:
    group, is_choice, options = condition.partition("=")
    if not is_choice:
        return bool(foreign.take(condition))
    chosen = ours.chosen(group.removesuffix("!"))
    either = not set(chosen if isinstance(chosen, list) else [chosen]).isdisjoint(options.split("|"))
    return either != group.endswith("!")


def why_not(option: Option) -> str:
    """Why an option has no effect, in words."""
    if option.why or not option.only:
        return option.why or "has no effect here"
    return f"has no effect: only {option.only.replace('|', ' or ')} has it" if "=" in option.only else "is off"
