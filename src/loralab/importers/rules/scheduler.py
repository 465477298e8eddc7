"""The learning-rate schedule."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours

SUPPORTED = (
    *("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"),
    *("step", "plateau"),
)
BY_NAME = {
    **{name: name for name in SUPPORTED},
    "adafactor": "constant",  # the factor of Adafactor's own rate
    "cosine_with_min_lr": "cosine",
}
BY_CLASS = {"steplr": "step", "reducelronplateau": "plateau", "constantlr": "constant"}

LR_END = 1e-7
"""Where the polynomial of sd-scripts (that of transformers) ends."""


def scheduler(foreign: Foreign, ours: Ours) -> None:
    name, custom = str(foreign.take("lr_scheduler") or "").lower(), str(foreign.take("lr_scheduler_type") or "")
    if custom:
        foreign.leave("lr_scheduler", f"overridden by {foreign.keys['lr_scheduler_type']}")
        source, option = "lr_scheduler_type", BY_CLASS.get(custom.rpartition(".")[2].lower())
        why = "not supported: add a YAML to conf/scheduler for it"
    else:
        source, option = "lr_scheduler", BY_NAME.get(name.split(":")[0])
        why = f"not supported; valid: {', '.join(SUPPORTED)}"
    if option:
        ours.choose("scheduler", option, source)
    elif custom or name:
        foreign.leave(source, why, "scheduler")
    _arguments(foreign, ours, custom or name or "no schedule")


def _arguments(foreign: Foreign, ours: Ours, name: str) -> None:
    chosen, given = ours.chosen("scheduler"), foreign.take("lr_scheduler_args") or {}
    if chosen == "polynomial":  # that of sd-scripts ends at a learning rate, ours at a ratio of optimizer.lr
        end, lr = given.pop("lr_end", LR_END), foreign.take("learning_rate")
        if lr and isinstance(end, (int, float)):
            ratio = min(1.0, float(f"{end / lr:.12g}"))
            ours.set("scheduler.end_ratio", ratio, "lr_scheduler", "learning_rate", "lr_scheduler_args")
    if chosen is None or chosen != ours.choices.get("scheduler"):
        foreign.leave("lr_scheduler_args", f"has no effect: arguments of {name}, which is not chosen")
        return
    for key, value in given.items():
        ours.set(f"scheduler.{key}", value, "lr_scheduler_args")


def warmup(foreign: Foreign, ours: Ours) -> None:
    """In steps, or as a share of them: `lr_warmup_steps` below 1, the old `warmup_lr_ratio`, the GUI's percent."""
    given = {name: foreign.take(name) for name in ("lr_warmup_steps", "warmup_lr_ratio", "lr_warmup")}
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
