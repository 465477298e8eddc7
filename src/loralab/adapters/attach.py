"""The adapters of a finished file on a model: to draw with, not to train."""

from __future__ import annotations

from collections.abc import Mapping

from loralab.adapters.base import Adapter, Layer
from loralab.adapters.inject import AdapterSet, check_shape
from loralab.adapters.kinds import Group, some
from loralab.adapters.targets import Targets
from loralab.errors import user_error
from loralab.models.family import Family
from loralab.models.registry import named


def attach(family: Family, groups: Mapping[str, Group], setting: str) -> AdapterSet:
    """Puts adapters on a model as they are, also kinds that cannot be trained, several kinds, and those without effect.

    Raises a UserError that names `setting`, before anything is changed, where the model lacks a module or has a weight
    of another shape.
    """
    parts, targets = family.parts(), Targets()
    table = {part: family.targets(part) for part in parts}
    sites = {site.name: site for site in targets.choose(table, family.block_count, conv=True, also=groups)}
    if strange := [name for name in groups if name not in sites]:
        found = f"contains modules that the base model lacks: {some(strange)}"
        raise user_error(setting, found, f"use the base model that the file was made for ({named()})")
    layers: dict[str, Layer] = {}
    for name, group in groups.items():
        layer = parts[sites[name].part].get_submodule(sites[name].target.path)
        assert isinstance(layer, Layer), f"{name} cannot be adapted"
        check_shape(name, group, layer, setting)
        layers[name] = layer
    adapters = {
        name: Adapter(layers[name], group.kind(rank=group.rank or 1), group.tensors, group.alpha)
        for name, group in groups.items()
    }
    return AdapterSet(adapters, {name: sites[name] for name in groups}, targets).eval()
