"""Learning rates that cannot be what they say: several where an optimizer finds one, some where it takes none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loralab.errors import Problem

ADAPTIVE = ("prodigyopt.", "dadaptation.")
"""Optimizers that find one rate for everything; lr multiplies it."""

CONSTANT = "loralab.optim.schedules.constant"


def rate_problems(optimizer: dict[str, Any], scheduler: dict[str, Any], targets: dict[str, Any]) -> Iterator[Problem]:
    """Of three nodes as plain values. Values of the wrong kind are passed over: the check of types tells them."""
    given = {key: value for key, value in _given(targets) if isinstance(value, (int, float))}
    yield from _contradictions(optimizer)
    if optimizer.get("lr") is None and "lr" in optimizer:
        yield from _without_a_rate(given, scheduler)
    elif str(optimizer.get("_target_")).startswith(ADAPTIVE):
        yield from _with_one_rate(optimizer, targets, given)


def _contradictions(optimizer: dict[str, Any]) -> Iterator[Problem]:
    """What the optimizers' own constructors refuse."""
    name, relative = str(optimizer.get("_target_")).rpartition(".")[2], optimizer.get("relative_step")
    if "lr" in optimizer and optimizer["lr"] is None and not relative:
        remedy = "give one" + (", or optimizer.relative_step=true" if relative is False else "")
        yield Problem("optimizer.lr", f"is null, and {name} needs one", remedy)
    if relative and optimizer.get("lr") is not None:
        yield Problem("optimizer.relative_step", "finds its own rate, and one is given", "add optimizer.lr=null")
    if optimizer.get("warmup_init") and not relative:
        yield Problem("optimizer.warmup_init", "is a part of relative_step", "add optimizer.relative_step=true")
    if optimizer.get("nesterov") and (optimizer.get("momentum") == 0 or optimizer.get("dampening") != 0):
        remedy = "optimizer.momentum=0.9 optimizer.dampening=0"
        yield Problem("optimizer.nesterov", "needs a momentum, and no dampening", remedy)


def _given(targets: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What says a rate, or multiplies one, and by its key."""
    for part in ("unet", "text_encoder", "text_encoder_2"):
        if targets.get(part) is not False:
            yield f"targets.{part}_lr", targets.get(f"{part}_lr")
    yield "targets.loraplus_ratio", targets.get("loraplus_ratio")
    for number, pattern in enumerate(targets.get("patterns") or []):
        yield f"targets.patterns.{number}.lr", pattern.get("lr") if isinstance(pattern, dict) else None
    blocks = targets.get("blocks")
    factors = blocks.get("lr_factor") if isinstance(blocks, dict) else None
    for factor in factors if isinstance(factors, list) else []:
        if factor not in (0, 1):
            yield "targets.blocks.lr_factor", factor


def _without_a_rate(given: Mapping[str, float], scheduler: dict[str, Any]) -> Iterator[Problem]:
    """optimizer.lr=null leaves the rate to the optimizer (Adafactor's relative step); 0 still freezes a part."""
    why = "has no effect: optimizer.lr=null leaves the rate to the optimizer"
    for key, value in given.items():
        if value != 0:
            yield Problem(key, why, f"give optimizer.lr, or set {key}=null")
    warms_up = scheduler.get("warmup_ratio") or scheduler.get("warmup_steps")
    if scheduler.get("_target_") != CONSTANT or warms_up:
        yield Problem("scheduler", why, "give optimizer.lr, or choose scheduler=constant")


def _with_one_rate(optimizer: dict[str, Any], targets: dict[str, Any], given: Mapping[str, float]) -> Iterator[Problem]:
    """Parts may have another rate than optimizer.lr, if it is the same for all of them."""
    name, lr = str(optimizer["_target_"]).rpartition(".")[2], optimizer.get("lr")
    trained = [f"targets.{part}_lr" for part in ("unet", "text_encoder") if targets.get(part) is not False]
    rates = {key: given.get(key, lr) for key in trained if given.get(key, lr) != 0}
    one = next(iter(rates.values())) if len(set(rates.values())) == 1 else lr
    for key, value in given.items():
        multiplies = key.endswith(("lr_factor", "loraplus_ratio"))
        if value not in (0, 1 if multiplies else one):
            found = f"{value:g} makes another rate than the rest has, and {name} finds one for everything"
            yield Problem(key, found, f"{key}=null; optimizer.lr multiplies what it finds")
