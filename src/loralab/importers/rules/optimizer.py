"""The optimizer and its learning rate."""

from __future__ import annotations

from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.kwargs import kwargs
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

BY_NAME = {
    "adam8bit": "adam8bit",
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "adafactor": "adafactor",
    "ademamix8bit": "ademamix8bit",
    "adamwschedulefree": "schedulefree",
    "dadaptation": "dadapt_adam",
    "dadaptadam": "dadapt_adam",
    "dadaptadampreprint": "dadapt_adam",
    "lion": "lion",
    "lion8bit": "lion8bit",
    "pagedadamw": "adamw",
    "pagedadamw32bit": "adamw",
    "pagedadamw8bit": "paged_adamw8bit",
    "pagedlion8bit": "lion8bit",
    "prodigy": "prodigy",
    "sgd": "sgd",
    "sgdnesterov": "sgd",
    "sgdnesterov8bit": "sgd",
}
"""Last part of a name in lower case → option: torch.optim.AdamW and AdamW are the same."""

NEAREST = {
    "pagedadamw": "without paging",
    "pagedadamw32bit": "without paging",
    "pagedlion8bit": "without paging",
    "sgdnesterov8bit": "in 32 bits",
    "dadaptadampreprint": "as published",
    "dadaptation": "as published",
}
"""Optimizers that are supported in a slightly different form only."""

RATES = {
    "learning_rate": "optimizer.lr",
    "unet_lr": "targets.unet_lr",
    "text_encoder_lr": "targets.text_encoder_lr",
}

ADAPTIVE = ("prodigy", "dadapt_adam")
"""They find a single rate for all parts."""


def optimizer(foreign: Foreign, ours: Ours) -> None:
    given = foreign.take("optimizer_args", kwargs) or {}
    name, source = _name(foreign)
    lr = foreign.take("learning_rate", coerce.number)
    own = _choose(foreign, ours, name, source) if name else None
    chosen = ours.chosen("optimizer")
    if name and not chosen:
        given = {}  # of an optimizer that is not supported
    if own and own.startswith("sgdnesterov"):
        given = {"momentum": 0.9, "nesterov": True, **given}
    if own == "dadaptation" and foreign.dialect == "old-json":
        given = {"decouple": True, **given}  # set by those scripts
    if name and ours.choices.get("optimizer") != chosen:
        foreign.leave("optimizer_args", f"arguments of {name}, overridden by optimizer={chosen}")
        given = {}
        if ours.choices.get("optimizer") and (chosen in ADAPTIVE) != (ours.choices["optimizer"] in ADAPTIVE):
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


def _choose(foreign: Foreign, ours: Ours, name: str, source: str) -> str | None:
    """Chooses the option for a name and returns the name's last part; None where the optimizer is not supported."""
    last = name.rpartition(".")[2].lower()
    if last not in BY_NAME:
        foreign.leave(source, "not supported: add a YAML to conf/optimizer for it", "optimizer")
        if "optimizer" not in ours.given.choices:
            foreign.leave("optimizer_args", "arguments of an optimizer that is not supported")
            foreign.drop("optimizer_args")
        return None
    ours.choose("optimizer", BY_NAME[last], source)
    if last in NEAREST and source in foreign.options:
        foreign.warnings.append(f"asks for {name}: optimizer={BY_NAME[last]} is used, {NEAREST[last]}")
    return last


def _leave_rates(foreign: Foreign, ours: Ours, why: str) -> None:
    for name, key in RATES.items():
        ours.drop(key)
        foreign.leave(name, why)
    ours.drop("targets.text_encoder_2_lr")


def _name(foreign: Foreign) -> tuple[str | None, str]:
    """The optimizer's name, and the option that gives it. Old flags take precedence over the dialect's default, in the
    old scripts over everything."""
    flags = ("use_8bit_adam", "use_lion_optimizer")
    if foreign.dialect == "old-json" and any(foreign.take(flag, coerce.flag) for flag in flags if foreign.has(flag)):
        foreign.leave("optimizer_type", "overridden by use_8bit_adam or use_lion")
    elif foreign.has("optimizer_type"):
        for flag in flags:
            if foreign.take(flag, coerce.flag):
                foreign.leave(flag, f"overridden by {foreign.keys['optimizer_type']}")
        return foreign.take("optimizer_type", coerce.name), "optimizer_type"
    if foreign.take("use_lion_optimizer", coerce.flag):
        return "Lion", "use_lion_optimizer"
    if foreign.take("use_8bit_adam", coerce.flag):
        return ("Adam8bit" if foreign.dialect == "old-json" else "AdamW8bit"), "use_8bit_adam"
    if foreign.has("use_8bit_adam"):
        return "AdamW", "use_8bit_adam"  # off, even if the file that this one starts from sets it
    return foreign.take("optimizer_type", coerce.name), "optimizer_type"


def _adafactor(
    foreign: Foreign, ours: Ours, lr: float | None, given: dict[str, Any]
) -> tuple[float | None, dict[str, Any]]:
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
