"""The settings of the chosen options: a setting that they do not have is reported and dropped."""

from __future__ import annotations

from functools import cache
from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema.tree import leaves

ONE_NODE = ("model", "adapter", "targets", "optimizer", "scheduler")
"""Groups whose options are one node each, with all settings written out."""


def drop_unknown(foreign: Foreign, ours: Ours) -> None:
    groups = {group: ours.chosen(group) for group in (*ONE_NODE, *ours.given.choices)}
    for key in list(ours.values):
        for group, chosen in groups.items():
            prefix = f"{group.replace('/', '.')}."
            if not key.startswith(prefix) or chosen is None:
                continue
            options = chosen if isinstance(chosen, list) else [chosen]
            rest = key.removeprefix(prefix)
            if all(rest.split(".")[0] not in settings_of(group, str(option)) for option in options):
                names, value = ours.origins.get(key, ()), ours.drop(key)
                for name in names:
                    foreign.leave(name, f"{group}={','.join(map(str, options))} has no {rest} ({value})")
                break


@cache
def settings_of(group: str, option: str) -> frozenset[str]:
    """The settings in an option's YAML, including inherited ones."""
    node = yaml_of(group, option)
    found = set(map(str, node.get(group, node))) - {"defaults"}
    for default in node.get("defaults", ()):
        if isinstance(default, str) and default != "_self_":
            found |= settings_of(group, default.split("@")[0])
        elif isinstance(default, dict):
            found |= {str(name).removeprefix(f"override /{group}/") for name in default}
    return frozenset(found)


@cache
def values_of(group: str, option: str) -> dict[str, Any]:
    """The values in an option's YAML by dotted key, over those that it inherits."""
    node = yaml_of(group, option)
    parents = [d.split("@")[0] for d in node.get("defaults", ()) if isinstance(d, str) and d != "_self_"]
    found = {key: value for parent in parents for key, value in values_of(group, parent).items()}
    return found | dict(leaves(node.get(group, node)))


def yaml_of(group: str, option: str) -> dict[str, Any]:
    """The YAML of an option as written; {} where there is no such file."""
    from loralab.schema.compose import option_file
    from loralab.schema.sources import raw

    file = option_file(group, option)
    return raw(file) if file else {}
