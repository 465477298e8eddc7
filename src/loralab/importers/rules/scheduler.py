"""The learning-rate schedule."""

from __future__ import annotations

from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.kwargs import kwargs
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

OURS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt")
BY_NAME = {
    **{name: name for name in (*OURS, "step", "plateau")},
    "adafactor": "constant",  # the factor of Adafactor's own rate
    "cosine_with_min_lr": "cosine",
}
BY_CLASS = {"steplr": "step", "reducelronplateau": "plateau", "constantlr": "constant"}

ONLY_OF = {
    "lr_scheduler_num_cycles": ("scheduler.num_cycles", coerce.whole, "cosine_with_restarts"),
    "lr_scheduler_power": ("scheduler.power", coerce.number, "polynomial"),
    "lr_scheduler_timescale": ("scheduler.timescale", coerce.whole, "inverse_sqrt"),
    "lr_scheduler_min_lr_ratio": ("scheduler.end_ratio", coerce.number, "cosine"),
}
"""Options of a single schedule."""

LR_END = 1e-7
"""Where the polynomial of sd-scripts (that of transformers) ends."""


def scheduler(foreign: Foreign, ours: Ours) -> None:
    name = str(foreign.take("lr_scheduler", coerce.name) or "").lower()
    custom = str(foreign.take("lr_scheduler_type", coerce.name) or "")
    if custom:
        _by_class(foreign, ours, custom)
    elif name:
        _by_name(foreign, ours, name)
    chosen = ours.chosen("scheduler")
    for option, (key, kind, only) in ONLY_OF.items():
        value = foreign.take(option, kind)
        if chosen == only and value is not None:
            ours.set(key, value, option)
        elif foreign.has(option):
            foreign.leave(option, f"has no effect: only scheduler={only} has it")
    arguments = foreign.take("lr_scheduler_args", kwargs) or {}
    if chosen == "polynomial":
        _polynomial_end(foreign, ours, arguments.pop("lr_end", LR_END))
    if chosen is None or chosen != ours.choices.get("scheduler"):
        foreign.leave(
            "lr_scheduler_args", f"has no effect: arguments of {custom or name or 'no schedule'}, which is not chosen"
        )
    else:
        for key, value in arguments.items():
            ours.set(f"scheduler.{key}", value, "lr_scheduler_args")
    _warmup(foreign, ours)


def _polynomial_end(foreign: Foreign, ours: Ours, end: Any) -> None:
    """sd-scripts' polynomial ends at a learning rate, ours at a ratio of optimizer.lr."""
    lr = foreign.take("learning_rate", coerce.number)
    if lr and isinstance(end, (int, float)):
        ours.set(
            "scheduler.end_ratio",
            min(1.0, float(f"{end / lr:.12g}")),
            "lr_scheduler",
            "learning_rate",
            "lr_scheduler_args",
        )


def _by_name(foreign: Foreign, ours: Ours, name: str) -> None:
    if name.split(":")[0] in BY_NAME:
        ours.choose("scheduler", BY_NAME[name.split(":")[0]], "lr_scheduler")
    else:
        valid = ", ".join((*OURS, "step", "plateau"))
        foreign.leave("lr_scheduler", f"not supported; valid: {valid}", "scheduler")


def _by_class(foreign: Foreign, ours: Ours, custom: str) -> None:
    foreign.leave("lr_scheduler", f"overridden by {foreign.keys['lr_scheduler_type']}")
    option = BY_CLASS.get(custom.rpartition(".")[2].lower())
    if option:
        ours.choose("scheduler", option, "lr_scheduler_type")
    else:
        foreign.leave("lr_scheduler_type", "not supported: add a YAML to conf/scheduler for it", "scheduler")


def _warmup(foreign: Foreign, ours: Ours) -> None:
    """In steps, or as a share of them: `lr_warmup_steps` below 1, the old `warmup_lr_ratio`, the GUI's percent."""
    given: dict[str, Any] = {
        "lr_warmup_steps": foreign.take("lr_warmup_steps", coerce.number),
        "warmup_lr_ratio": foreign.take("warmup_lr_ratio", coerce.number),
        "lr_warmup": foreign.take("lr_warmup", coerce.number),
    }
    steps, ratio, percent = given.values()
    decides = "lr_warmup_steps" if steps else "warmup_lr_ratio" if ratio else "lr_warmup"
    if steps and steps >= 1:
        ours.set("scheduler.warmup_steps", int(steps), "lr_warmup_steps")
        ours.set("scheduler.warmup_ratio", 0.0, "lr_warmup_steps")
    elif any(value is not None for value in given.values()):
        share = steps or ratio or (percent or 0) / 100
        ours.set("scheduler.warmup_ratio", float(share), *(n for n, v in given.items() if v == given[decides]))
    for name in given:
        if name not in ours.origins.get("scheduler.warmup_ratio", ()):
            foreign.leave(name, f"overridden by {decides}")
