"""Builds the optimizer and reports unsupported combinations before training."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from torch.optim import Optimizer

from loralab.errors import user_error

Group = dict[str, Any]
"""{"params": [...], "lr": float | None, "name": str}."""


def build_optimizer(make: Callable[[list[Group]], Optimizer], groups: list[Group]) -> Optimizer:
    """The optimizer of parameter groups, which are on the device they will be trained on.

    Raises UserError where nothing would be trained, or where the optimizer cannot work on what it is given.
    """
    _check_something_to_train(groups)
    relative = [group for group in groups if group["lr"] is None]
    try:
        with redirect_stdout(io.StringIO()):  # some print their settings
            optimizer = make([{k: v for k, v in group.items() if not (k == "lr" and v is None)} for group in groups])
    except (TypeError, ValueError) as error:
        raise user_error("optimizer", str(error), "see the comments in its file in conf/optimizer") from error
    if hasattr(optimizer, "train"):  # schedule-free: it will not step in the mode that it starts in
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
    if hasattr(optimizer, "_step_supports_amp_scaling"):  # a fused one may not unscale: gradients are clipped before
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
    if relative:
        _hand_over_rates(optimizer)
    if is_adaptive(optimizer):
        _check_one_rate(optimizer)
    if getattr(optimizer, "is_paged", False) and groups[0]["params"][0].device.type == "cpu":
        raise user_error(
            "optimizer", "paged optimizers need a GPU", "on a CPU use the non-paged one: optimizer=adamw8bit"
        )
    return optimizer


def is_adaptive(optimizer: Optimizer) -> bool:
    """Whether it finds its step size by itself: the group's "d", by which lr is multiplied (Prodigy, D-Adaptation)."""
    return "d" in optimizer.param_groups[0]


def eight_bit(optimizer: Optimizer) -> tuple[int, int]:
    """(tensors whose state is kept in 8 bits, tensors): bitsandbytes keeps small ones in 32 bits."""
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    settings: Any = getattr(optimizer, "args", None)
    if getattr(settings, "optim_bits", 32) != 8:
        return 0, len(tensors)
    return sum(tensor.numel() >= settings.min_8bit_size for tensor in tensors), len(tensors)


def _check_something_to_train(groups: list[Group]) -> None:
    if not any(group["params"] for group in groups):
        raise user_error(
            "targets", "nothing would be trained: no module is selected", "set targets=both, or check the patterns"
        )
    if all(group["lr"] == 0 for group in groups):
        raise user_error("optimizer.lr", "every learning rate is 0: nothing would be trained", "set one above 0")


def _check_one_rate(optimizer: Optimizer) -> None:
    """An adaptive optimizer estimates one step size for all groups; a group can only be frozen."""
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups if group["lr"] != 0}
    if len(set(rates.values())) > 1:
        found = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        raise user_error(
            "optimizer",
            f"{type(optimizer).__name__} estimates one step size and cannot use different learning rates ({found})",
            "set targets.unet_lr, targets.text_encoder_lr and other rates of parts to null, or to 0 to freeze a part",
        )


def _hand_over_rates(optimizer: Optimizer) -> None:
    """lr=null: the optimizer has rates of its own (Adafactor's relative step) and a schedule has nothing to change."""
    for group in optimizer.param_groups:
        group["lr"] = 1.0
