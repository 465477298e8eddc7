"""The constructor's parameter that a setting is given to, found in the YAMLs of conf/."""

from __future__ import annotations

from functools import cache
from typing import Any

from loralab.schema.compose import CONF
from loralab.schema.constructors import Parameter, parameters
from loralab.schema.sources import raw
from loralab.schema.tree import get
from loralab.schema.trusted import OURS


@cache
def destination(key: str) -> Parameter | None:
    """The parameter of a loralab constructor that the setting at a dotted key is given to; None where there is none.

    Of several, the first that can be other than null.
    """
    parent, _, name = key.rpartition(".")
    known = [parameters(target) or {} for target in _targets(parent) if target.startswith(OURS)]
    found = [parameters_of[name] for parameters_of in known if name in parameters_of]
    return next((parameter for parameter in found if not parameter.is_null), found[0] if found else None)


def _targets(path: str) -> list[str]:
    """What the node at a path may build, in any option of its groups."""
    parts = path.split(".")
    places: list[Any] = [get(raw(CONF / "train.yaml"), path)]
    for end in range(1, len(parts) + 1):
        inside = ".".join(parts[end:])
        for file in sorted((CONF / "/".join(parts[:end])).glob("*.yaml")):
            node = raw(file)
            places += [get(node, inside) if inside else node, get(node, path)]
    return [str(node["_target_"]) for node in places if isinstance(node, dict) and "_target_" in node]
