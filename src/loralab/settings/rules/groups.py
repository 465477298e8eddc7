"""What the chosen options of conf/ have: a setting that is not there is reported, not set."""

from __future__ import annotations

from functools import cache

from loralab.settings.foreign import Foreign
from loralab.settings.rules.ours import Ours

ONE_NODE = ("model", "adapter", "targets", "optimizer", "scheduler")
"""Groups whose options are one node each, with all of its settings written out."""


def drop_what_is_not_there(foreign: Foreign, ours: Ours) -> None:
    for key in list(ours.values):
        group, _, rest = key.partition(".")
        option = ours.choices.get(group)
        if group not in ONE_NODE or not isinstance(option, str):
            continue
        if rest.split(".")[0] not in settings_of(group, option):
            value, names = ours.values.pop(key), ours.origins.pop(key)
            for name in names:
                foreign.leave(name, f"{group}={option} has no {rest} ({value})")


@cache
def settings_of(group: str, option: str) -> frozenset[str]:
    """The settings that an option's YAML writes out."""
    from omegaconf import OmegaConf

    from loralab.config.compose import CONF

    node = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"), resolve=False)
    assert isinstance(node, dict)
    return frozenset(map(str, node.get(group, node)))
