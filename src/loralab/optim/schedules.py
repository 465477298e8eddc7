"""Learning-rate schedules, counted in optimizer steps.

Each function takes (optimizer, total_steps) and settings and gives a scheduler to be stepped after every optimizer step
(`plateau`: after every validation). Every group's own rate is multiplied by a factor: a pure function of the step.
Warm-up rises from 0 over `warmup_ratio` of the run, rounded down, or over `warmup_steps`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, floor, pi, sqrt
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from loralab.errors import user_error
from loralab.schema.ranges import AtLeastOne, Chance, Count, NonNegative, Rate, Share

Curve = Callable[[float], float]
"""The factor at a share of the way from the end of the warm-up to the end of the run."""


class Schedule(LambdaLR):
    """Learning rates by a factor of the optimizer step."""

    horizon: int | None
    """The total steps that the curve was made for; None where it is the same whatever the total."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float], horizon: int | None) -> None:
        self.horizon = horizon
        super().__init__(optimizer, factor)

    def rebase(self, horizon: int | None) -> None:
        """Goes on at its step from the rates that the optimizer's groups have now, after another's state was loaded."""
        self.horizon = horizon
        self.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate * self.lr_lambdas[0](self.last_epoch)


def constant(
    optimizer: Optimizer, total_steps: int, warmup_ratio: Share = 0.0, warmup_steps: Count | None = None
) -> Schedule:
    """The same rate throughout, after a warm-up where one is asked for."""
    warmup = _warmup(total_steps, warmup_ratio, warmup_steps)
    return Schedule(optimizer, lambda step: _rise(step, warmup), total_steps if warmup_ratio else None)


def linear(
    optimizer: Optimizer,
    total_steps: int,
    warmup_ratio: Share = 0.0,
    warmup_steps: Count | None = None,
    end_ratio: Share = 0.0,
) -> Schedule:
    """Down in a straight line, to end_ratio of the rate."""
    return _curve(optimizer, total_steps, warmup_ratio, warmup_steps, end_ratio, lambda way: 1 - way)


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    warmup_ratio: Share = 0.0,
    warmup_steps: Count | None = None,
    end_ratio: Share = 0.0,
) -> Schedule:
    """Down along half a cosine, to end_ratio of the rate: (1 + cos πx)/2 (Loshchilov & Hutter, arXiv 1608.03983)."""
    return _curve(optimizer, total_steps, warmup_ratio, warmup_steps, end_ratio, lambda way: (1 + cos(pi * way)) / 2)


def cosine_with_restarts(
    optimizer: Optimizer,
    total_steps: int,
    warmup_ratio: Share = 0.0,
    warmup_steps: Count | None = None,
    end_ratio: Share = 0.0,
    num_cycles: AtLeastOne = 1,
) -> Schedule:
    """num_cycles half cosines one after another, each starting at the full rate."""

    def curve(way: float) -> float:
        return (1 + cos(pi * (num_cycles * way % 1))) / 2 if way < 1 else 0.0

    return _curve(optimizer, total_steps, warmup_ratio, warmup_steps, end_ratio, curve)


def polynomial(
    optimizer: Optimizer,
    total_steps: int,
    warmup_ratio: Share = 0.0,
    warmup_steps: Count | None = None,
    end_ratio: Share = 0.0,
    power: NonNegative = 1.0,
) -> Schedule:
    """Down along (1 − x)**power, to end_ratio of the rate (sd-scripts ends at 1e-7, whatever the rate)."""
    return _curve(optimizer, total_steps, warmup_ratio, warmup_steps, end_ratio, lambda way: (1 - way) ** power)


def inverse_sqrt(
    optimizer: Optimizer,
    total_steps: int,
    warmup_ratio: Share = 0.0,
    warmup_steps: Count | None = None,
    timescale: AtLeastOne | None = None,
) -> Schedule:
    """Down with the root of the steps: 1/√(1 + steps since the warm-up/timescale).

    timescale: null = as long as the warm-up, 10000 without one.
    """
    warmup = _warmup(total_steps, warmup_ratio, warmup_steps)
    scale = timescale or warmup or 10_000

    def factor(step: int) -> float:
        return _rise(step, warmup) if step < warmup else 1 / sqrt(1 + (step - warmup) / scale)

    return Schedule(optimizer, factor, total_steps if warmup_ratio else None)


def step(
    optimizer: Optimizer,
    total_steps: int,
    warmup_ratio: Share = 0.0,
    warmup_steps: Count | None = None,
    step_size: AtLeastOne | None = None,
    gamma: Share = 0.1,
) -> Schedule:
    """Times gamma after every step_size optimizer steps; null = a third of the run, so twice."""
    warmup = _warmup(total_steps, warmup_ratio, warmup_steps)
    size = step_size or max(1, -(-total_steps // 3))
    has_horizon = warmup_ratio or step_size is None
    return Schedule(
        optimizer,
        lambda step: _rise(step, warmup) * gamma ** (step // size),
        total_steps if has_horizon else None,
    )


def plateau(
    optimizer: Optimizer,
    total_steps: int,
    factor: Chance = 0.1,
    patience: Count = 3,
    threshold: NonNegative = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: Count = 0,
    min_lr: Rate = 0.0,
) -> ReduceLROnPlateau:
    """Times factor when the validation loss was no better for more than `patience` validations."""
    return ReduceLROnPlateau(
        optimizer,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        min_lr=min_lr,
    )


def _curve(
    optimizer: Optimizer,
    total_steps: int,
    warmup_ratio: float,
    warmup_steps: int | None,
    end_ratio: float,
    curve: Curve,
) -> Schedule:
    """Warm-up, then the curve from 1 to 0 squeezed to end at end_ratio, where it stays."""
    warmup = _warmup(total_steps, warmup_ratio, warmup_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return _rise(step, warmup)
        way = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return end_ratio + (1 - end_ratio) * curve(way)

    return Schedule(optimizer, factor, total_steps)


def _rise(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


def _warmup(total_steps: int, ratio: float, steps: int | None) -> int:
    """Optimizer steps of warm-up."""
    if steps is None:
        return floor(ratio * total_steps + 1e-9)  # 0.29 · 100 is a little less than 29 in binary
    if ratio:
        raise user_error(
            "scheduler.warmup_steps",
            f"given twice, as {steps} steps and as warmup_ratio={ratio:g} of the run",
            "set only one of them: warmup_steps=null or warmup_ratio=0",
        )
    return steps
