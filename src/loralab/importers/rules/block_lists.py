"""Lists with an entry for each block of the UNet: ranks, alphas, learning-rate factors."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.models import registry
from loralab.schema import coerce

LISTS = {
    "rank": "network_args.block_dims",
    "alpha": "network_args.block_alphas",
    "conv_rank": "network_args.conv_block_dims",
    "conv_alpha": "network_args.conv_block_alphas",
}
WEIGHTS = {part: f"network_args.{part}_lr_weight" for part in ("down", "mid", "up")}


def blocks(foreign: Foreign, ours: Ours) -> None:
    found = {key: values for key, name in LISTS.items() if (values := foreign.take(name))}
    names = [LISTS[key] for key in found]
    if factors := _rate_factors(foreign):
        found["lr_factor"] = factors
        names += WEIGHTS.values()
    if found:
        ours.set("targets.blocks", found, *names)


def _rate_factors(foreign: Foreign) -> list[float] | None:
    """down, mid and up weights as one list, with those of a family's first and last block."""
    weights: dict[str, list[float]] = {}
    for part, name in WEIGHTS.items():
        try:
            weights[part] = coerce.numbers(foreign.options[name]) if foreign.has(name) else []
        except ValueError:
            foreign.leave(name, "named curves are not supported: set the factors as targets.blocks.lr_factor")
    if not any(weights.values()):
        foreign.leave("network_args.block_lr_zero_threshold", "has no effect without learning-rate factors of blocks")
        return None
    middle, down = len(weights.get("mid", ())), len(weights.get("down") or weights.get("up", ()))
    *others, usual = registry.BLOCKS
    form = next((b for b in others if middle == b.middle or down == b.down), usual)
    counts = {"down": form.down, "mid": form.middle, "up": form.up}
    factors = [factor for part, count in counts.items() for factor in _filled(weights.get(part, []), count)]
    least = foreign.take("network_args.block_lr_zero_threshold") or 0.0
    return [1.0] * form.first + [factor if factor > least else 0.0 for factor in factors] + [1.0] * form.last


def _filled(weights: list[float], count: int) -> list[float]:
    """`count` factors: one for all, or those given and 1 for the rest."""
    return (weights * count if len(weights) == 1 else [*weights, *[1.0] * count])[:count]
