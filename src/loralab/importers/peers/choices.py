"""Options of our groups by another trainer's words, and the arguments of the chosen optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from loralab.errors import UserError
from loralab.importers.foreign import Foreign
from loralab.importers.rules.groups import settings_of
from loralab.importers.rules.ours import Ours
from loralab.models import registry


class Chosen(NamedTuple):
    """An option, and what the other trainer gives it where a file does not."""

    option: str
    defaults: Mapping[str, Any] = {}


def choose(foreign: Foreign, ours: Ours, name: str, group: str, options: Mapping[str, str]) -> str | None:
    """Chooses the option for a word of the file; reports a word that has none."""
    word = foreign.take(name)
    option = options.get(str(word))
    if option:
        ours.choose(group, option, name)
    elif word is not None:
        foreign.leave(name, f"not supported; valid: {', '.join(options)}", group)
    return option


ADAPTIVE = ("prodigy", "dadapt_adam")
"""They find a single rate for all parts."""


def optimizer(
    foreign: Foreign,
    ours: Ours,
    name: str,
    options: Mapping[str, Chosen],
    given: Mapping[str, tuple[Any, str]],
    word: str = "",
) -> None:
    """Chooses the optimizer. given: our argument → its value and the file's key; word: where not that of `name`."""
    word = word or str(foreign.take(name))
    chosen = options.get(word)
    if chosen is None:
        foreign.leave(name, "not supported: add a YAML to conf/optimizer for it", "optimizer")
        return
    ours.choose("optimizer", chosen.option, name)
    if ours.chosen("optimizer") != chosen.option:
        for _, key in given.values():
            foreign.leave(key, f"an argument of {word}, which is not chosen")
        return
    known = settings_of("optimizer", chosen.option)
    for argument, value in chosen.defaults.items():
        ours.set(f"optimizer.{argument}", value, name)
    for argument, (value, key) in given.items():
        if argument in known:
            ours.set(f"optimizer.{argument}", value, key)
        else:
            foreign.leave(key, f"has no effect: optimizer={chosen.option} has no {argument}")


def one_rate(foreign: Foreign, ours: Ours) -> None:
    """Optimizers that find the rate have one for all parts: those of parts are dropped."""
    if ours.chosen("optimizer") not in ADAPTIVE:
        return
    for key in [key for key in ours.values if key.startswith("targets.") and key.endswith("_lr")]:
        for name in ours.origins.get(key, ()):
            foreign.leave(name, f"has no effect: {ours.chosen('optimizer')} has a single learning rate")
        ours.drop(key)


def other_family(foreign: Foreign, key: str, family: str) -> UserError:
    """The error about a model family that is not supported."""
    return foreign.error(key, f"{family} is not supported", f"supported: {registry.named()}")
