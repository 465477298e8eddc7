"""The adapter in the metadata of its file: `ss_network_*`, in the terms of sd-scripts and LyCORIS."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loralab.adapters.base import Method

from loralab.models.registry import BLOCKS
from loralab.schema.tree import get

PLAIN = {
    "adapter.conv_rank": "conv_dim",
    "adapter.rs_lora": "rs_lora",
    "adapter.rank_dropout": "rank_dropout",
    "adapter.module_dropout": "module_dropout",
    "adapter.constraint": "constraint",
    "adapter.rescaled": "rescaled",
    "adapter.factor": "factor",
    "adapter.decompose_both": "decompose_both",
    "adapter.full_matrix": "full_matrix",
    "targets.loraplus_ratio": "loraplus_lr_ratio",
    "targets.blocks.rank": "block_dims",
    "targets.blocks.alpha": "block_alphas",
    "targets.blocks.conv_rank": "conv_block_dims",
    "targets.blocks.conv_alpha": "conv_block_alphas",
}
"""Setting → argument of the network that means the same; omitted where the setting is off."""


def network(settings: Mapping[str, Any], rank: int, alpha: float) -> dict[str, Any]:
    """`ss_network_module`, `_dim`, `_alpha` and `_args`; rank and alpha are those of the linear layers, as set."""
    from loralab.adapters.base import LYCORIS

    method: type[Method] = resolve_name(get(settings, "adapter._target_"))
    args: dict[str, Any] = {name: value for key, name in PLAIN.items() if (value := get(settings, key))}
    args |= _rate_weights(get(settings, "targets.blocks.lr_factor") or [])
    convolutions = _adapts_convolutions(settings)
    if convolutions:  # both have other defaults where they are not written
        args["conv_dim"] = conv_rank = get(settings, "adapter.conv_rank") or rank
        args["conv_alpha"] = get(settings, "adapter.conv_alpha") or alpha * conv_rank / rank
    args |= method.network_args
    if method.network_module == LYCORIS and not convolutions:
        rest = (get(settings, f"targets.{kind}") for kind in ("feed_forward", "projection"))
        args["preset"] = "attn-mlp" if any(included is not False for included in rest) else "attn-only"
        if args["algo"] == "ia3" and get(settings, "targets.attention") is False:
            args["preset"] = "ia3"  # as targets=ia3 has it
    if magnitude := get(settings, "adapter.magnitude"):
        args["wd_on_output"] = magnitude != "input"
    told: dict[str, Any] = {"ss_network_module": method.network_module}
    if args:
        told["ss_network_args"] = json.dumps({name: _text(value) for name, value in args.items()}, sort_keys=True)
    return told | {"ss_network_alpha": alpha, "ss_network_dim": rank}


def _adapts_convolutions(settings: Mapping[str, Any]) -> bool:
    """As adapters.targets decides it."""
    asked = get(settings, "targets.conv")
    return bool(get(settings, "adapter.conv_rank")) if asked is None else asked


def _rate_weights(factors: list[float]) -> dict[str, list[float]]:
    """One list of factors as sd-scripts' three; the ends have none there, in families that count them as blocks."""
    blocks = next((blocks for blocks in BLOCKS if sum(blocks) == len(factors)), BLOCKS[-1])
    middle, up = blocks.first + blocks.down, blocks.first + blocks.down + blocks.middle
    inner = factors[: len(factors) - blocks.last]
    parts = {"down": inner[blocks.first : middle], "mid": inner[middle:up], "up": inner[up:]}
    return {f"{name}_lr_weight": part for name, part in parts.items() if part}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
