"""Learning rates that contradict the optimizer: several where it finds one, or any where it needs none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loralab.errors import Problem

ADAPTIVE = ("prodigyopt.", "dadaptation.")
"""Optimizers that find a single rate for all parameters; lr multiplies it."""

CONSTANT = "loralab.optim.schedules.constant"


def rate_problems(optimizer: dict[str, Any], scheduler: dict[str, Any], targets: dict[str, Any]) -> Iterator[Problem]:
    """Problems of three nodes (plain values). Values of the wrong type are ignored: the type check reports them."""
    given = {key: value for key, value in _given(targets) if isinstance(value, (int, float))}
    yield from _contradictions(optimizer)
    if optimizer.get("lr") is None and "lr" in optimizer:
        yield from _without_a_rate(given, scheduler)
    elif str(optimizer.get("_target_")).startswith(ADAPTIVE):
        yield from _with_one_rate(optimizer, targets, given)


def _contradictions(optimizer: dict[str, Any]) -> Iterator[Problem]:
    """Combinations that the constructors of the optimizers reject."""
    name, relative = str(optimizer.get("_target_")).rpartition(".")[2], optimizer.get("relative_step")
    if "lr" in optimizer and optimizer["lr"] is None and not relative:
        remedy = "set optimizer.lr" + (" or optimizer.relative_step=true" if relative is False else "")
        yield Problem("optimizer.lr", f"is null, but {name} needs a learning rate", remedy)
    if relative and optimizer.get("lr") is not None:
        yield Problem(
            "optimizer.relative_step",
            "cannot be combined with optimizer.lr: it finds its own rate",
            "set optimizer.lr=null",
        )
    if optimizer.get("warmup_init") and not relative:
        yield Problem("optimizer.warmup_init", "needs optimizer.relative_step", "set optimizer.relative_step=true")
    if optimizer.get("nesterov") and (optimizer.get("momentum") == 0 or optimizer.get("dampening") != 0):
        remedy = "set optimizer.momentum=0.9 optimizer.dampening=0"
        yield Problem("optimizer.nesterov", "needs a momentum above 0 and a dampening of 0", remedy)


def _given(targets: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything that gives a rate or multiplies one."""
    for part in ("unet", "text_encoder", "text_encoder_2", "text_conditioner"):
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
    """With optimizer.lr=null the optimizer finds the rate (Adafactor's relative step); 0 still freezes a part."""
    why = "has no effect with optimizer.lr=null: the optimizer finds its own rate"
    for key, value in given.items():
        if value != 0:
            yield Problem(key, why, f"set optimizer.lr, or {key}=null")
    warms_up = scheduler.get("warmup_ratio") or scheduler.get("warmup_steps")
    if scheduler.get("_target_") != CONSTANT or warms_up:
        yield Problem("scheduler", why, "set optimizer.lr, or scheduler=constant")


def _with_one_rate(optimizer: dict[str, Any], targets: dict[str, Any], given: Mapping[str, float]) -> Iterator[Problem]:
    """Parts may have another rate than optimizer.lr, as long as it is the same for all of them."""
    name, lr = str(optimizer["_target_"]).rpartition(".")[2], optimizer.get("lr")
    trained = [f"targets.{part}_lr" for part in ("unet", "text_encoder") if targets.get(part) is not False]
    rates = {key: given.get(key, lr) for key in trained if given.get(key, lr) != 0}
    one = next(iter(rates.values())) if len(set(rates.values())) == 1 else lr
    for key, value in given.items():
        multiplies = key.endswith(("lr_factor", "loraplus_ratio"))
        if value not in (0, 1 if multiplies else one):
            found = f"{value:g} cannot be combined with {name}, which finds a single rate for all parameters"
            yield Problem(key, found, f"set {key}=null; optimizer.lr multiplies the rate that is found")
