"""The optimizer and its learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema.tree import Tree


class Named(NamedTuple):
    """The option for an optimizer of sd-scripts."""

    option: str
    how: str = ""
    """How it differs from what was asked for, in words."""
    arguments: Mapping[str, Any] = MappingProxyType({})
    """What the name implies, which arguments of the file replace."""


NESTEROV = {"momentum": 0.9, "nesterov": True}

NAMES = {
    **{name: Named(name) for name in ("adam8bit", "adamw", "adamw8bit", "adafactor", "ademamix8bit", "lion")},
    **{name: Named(name) for name in ("lion8bit", "prodigy", "sgd")},
    "adamwschedulefree": Named("schedulefree"),
    "dadaptation": Named("dadapt_adam", "as published"),
    "dadaptadam": Named("dadapt_adam"),
    "dadaptadampreprint": Named("dadapt_adam", "as published"),
    "pagedadamw": Named("adamw", "without paging"),
    "pagedadamw32bit": Named("adamw", "without paging"),
    "pagedadamw8bit": Named("paged_adamw8bit"),
    "pagedlion8bit": Named("lion8bit", "without paging"),
    "sgdnesterov": Named("sgd", "", NESTEROV),
    "sgdnesterov8bit": Named("sgd", "in 32 bits", NESTEROV),
}
"""By the last part of a name in lower case: torch.optim.AdamW and AdamW are the same."""

RATES = {
    "learning_rate": "optimizer.lr",
    "unet_lr": "targets.unet_lr",
    "text_encoder_lr": "targets.text_encoder_lr",
}

ADAPTIVE = ("prodigy", "dadapt_adam")
"""They find a single rate for all parts."""


def optimizer(foreign: Foreign, ours: Ours) -> None:
    given, lr = foreign.take("optimizer_args") or {}, foreign.take("learning_rate")
    name, source = _name(foreign)
    if name:
        given = _choose(foreign, ours, name, source, given)
    asked, chosen = ours.choices.get("optimizer"), ours.chosen("optimizer")
    if name and asked != chosen:
        foreign.leave("optimizer_args", f"arguments of {name}, overridden by optimizer={chosen}")
        given = {}
        if asked and (chosen in ADAPTIVE) != (asked in ADAPTIVE):
            _leave_rates(foreign, ours, f"a learning rate for {name}, which does not suit {chosen}")
            return
    if chosen == "adafactor":
        lr, given = _adafactor(foreign, ours, lr, given)
    if lr is not None or chosen == "adafactor":
        ours.set("optimizer.lr", lr, "learning_rate")
    for key, value in given.items():
        ours.set(f"optimizer.{key}", value, "optimizer_args")
    if chosen in ADAPTIVE:
        _one_rate(foreign, ours)


def _choose(foreign: Foreign, ours: Ours, name: str, source: str, given: Tree) -> Tree:
    """Chooses the option for a name, if it is supported; returns its arguments."""
    named = NAMES.get(name.rpartition(".")[2].lower())
    if named is None:
        foreign.leave(source, "not supported: add a YAML to conf/optimizer for it", "optimizer")
        if "optimizer" not in ours.given.choices:
            foreign.leave("optimizer_args", "arguments of an optimizer that is not supported")
        return {}
    ours.choose("optimizer", named.option, source)
    if named.how and source in foreign.options:
        foreign.warnings.append(f"asks for {name}: optimizer={named.option} is used, {named.how}")
    those_scripts = foreign.dialect == "old-json" and name.lower().endswith("dadaptation")
    return {**named.arguments, **({"decouple": True} if those_scripts else {}), **given}


def _leave_rates(foreign: Foreign, ours: Ours, why: str) -> None:
    for name, key in RATES.items():
        ours.drop(key)
        foreign.leave(name, why)
    ours.drop("targets.text_encoder_2_lr")


def _name(foreign: Foreign) -> tuple[str | None, str]:
    """The optimizer's name, and the option that gives it. Old flags take precedence over the dialect's default, in the
    old scripts over everything."""
    flags = ("use_8bit_adam", "use_lion_optimizer")
    if foreign.dialect == "old-json" and any(foreign.take(flag) for flag in flags if foreign.has(flag)):
        foreign.leave("optimizer_type", "overridden by use_8bit_adam or use_lion")
    elif foreign.has("optimizer_type"):
        for flag in flags:
            if foreign.take(flag):
                foreign.leave(flag, f"overridden by {foreign.keys['optimizer_type']}")
        return foreign.take("optimizer_type"), "optimizer_type"
    if foreign.take("use_lion_optimizer"):
        return "Lion", "use_lion_optimizer"
    if foreign.take("use_8bit_adam"):
        return ("Adam8bit" if foreign.dialect == "old-json" else "AdamW8bit"), "use_8bit_adam"
    if foreign.has("use_8bit_adam"):
        return "AdamW", "use_8bit_adam"  # off, even if the file that this one starts from sets it
    return foreign.take("optimizer_type"), "optimizer_type"


def _adafactor(foreign: Foreign, ours: Ours, lr: float | None, given: Tree) -> tuple[float | None, Tree]:
    """sd-scripts lets Adafactor find its rate by default: then there is neither a rate nor a schedule."""
    given = {"scale_parameter": True, "relative_step": True, "warmup_init": False, **given}
    if not given["relative_step"] and not given["warmup_init"]:
        return lr, given
    why = "has no effect: Adafactor finds its own rate (relative_step)"
    _leave_rates(foreign, ours, why)
    for key in [key for key in ours.values if key.startswith("scheduler.")]:
        for name in ours.origins[key]:
            foreign.leave(name, why)
        ours.drop(key)
    if ours.choices.get("scheduler") not in (None, "constant"):
        foreign.leave("lr_scheduler", why)
    ours.choose("scheduler", "constant", "lr_scheduler")
    return None, {**given, "relative_step": True}


def _one_rate(foreign: Foreign, ours: Ours) -> None:
    """Of several rates sd-scripts uses the first: the text encoder's, where it is trained."""
    keys = [f"targets.{part}_lr" for part in ("text_encoder", "text_encoder_2", "unet")]
    keys = [key for key in keys if ours.values.get(key)]
    base = ours.values.get("optimizer.lr")
    if not keys:
        return
    parts = 1 if ours.chosen("targets") in ("unet_only", "text_encoder_only") else 2
    every = {ours.values[key] for key in keys} | ({base} if len(keys) < parts else set())
    if len(every) > 1:
        chosen = ours.chosen("optimizer")
        foreign.warnings.append(f"sets several learning rates, but {chosen} finds a single one: the first is used")
    first = ours.origins[keys[0]]
    ours.set("optimizer.lr", ours.values[keys[0]], *first)
    for key in keys:
        ours.drop(key)
    for name in RATES:
        if name not in first:
            foreign.leave(name, f"has no effect: {ours.chosen('optimizer')} has a single learning rate")
