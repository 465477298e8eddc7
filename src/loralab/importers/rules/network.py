"""The adapter: its kind, ranks, alphas and dropouts, and the layers of the UNet that get one."""

from __future__ import annotations

from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.models import registry
from loralab.schema import coerce

MODULES = {
    "lora": "lora",
    "loha": "loha",
    "lokr": "lokr",
    "locon": "locon",
    "locon_kohya": "locon",
}
"""Last part of a module name networks.… → option."""

ALGORITHMS = {"lora": "locon", "locon": "locon", "loha": "loha", "lokr": "lokr", "": "locon"}
"""LyCORIS' algorithms. Its lora adapts convolutions, too, which others call LoCon."""

PLAIN = {
    "decompose_both": ("adapter.decompose_both", coerce.flag),
    "full_matrix": ("adapter.full_matrix", coerce.flag),
    "rs_lora": ("adapter.rs_lora", coerce.flag),
    "rank_dropout": ("adapter.rank_dropout", coerce.number),
    "module_dropout": ("adapter.module_dropout", coerce.number),
    "dropout": ("adapter.dropout", coerce.number),
}

PRESETS: dict[str, dict[str, Any]] = {
    "full": {"targets.in_out": True},
    "attn-mlp": {"targets.conv": False},
    "attn-only": {"targets.conv": False, "targets.feed_forward": False, "targets.projection": False},
    "unet-transformer-only": {"targets": "unet_only", "targets.conv": False},
    "unet-only": {"targets": "unet_only", "targets.in_out": True},
    "unet-convblock-only": {
        "targets": "unet_only",
        "targets.conv": True,
        "targets.attention": False,
        "targets.feed_forward": False,
        "targets.projection": False,
    },
}
"""LyCORIS' presets: the layers to adapt."""


LARGEST_RANK = 4096
"""LyCORIS' LoKr accepts a larger one, which means full matrices."""


def network(foreign: Foreign, ours: Ours) -> None:
    _split_arguments(foreign)
    module = str(foreign.take("network_module", coerce.name) or "")
    lycoris = "lycoris" in module
    everywhere = lycoris or module.startswith("locon.")
    _kind(foreign, ours, module, lycoris)
    rank, alpha = foreign.take("network_dim", coerce.whole), foreign.take("network_alpha", coerce.number)
    if ours.chosen("adapter") == "lokr" and (rank or 0) > LARGEST_RANK:
        rank = LARGEST_RANK
        ours.set("adapter.full_matrix", True, "network_dim")
        foreign.warnings.append(
            "has a rank above the size of any layer: LoKr with full matrices is used (adapter.full_matrix)"
        )
    if rank is not None:
        ours.set("adapter.rank", rank, "network_dim")
    if alpha is not None or rank is not None:
        ours.set("adapter.alpha", alpha or None, "network_alpha")  # 0 means the rank, like null
    if ours.chosen("adapter") is not None:
        _convolutions(foreign, ours, everywhere, rank, alpha)
    _arguments(foreign, ours)
    if lycoris:
        _preset(foreign, ours)
    else:
        foreign.leave("network_args.preset", "has no effect: only lycoris.kohya has presets")
    _blocks(foreign, ours)
    _loraplus(foreign, ours)


def _split_arguments(foreign: Foreign) -> None:
    """Makes each of `network_args` an option of its own."""
    from loralab.importers.kwargs import kwargs

    for name, value in (foreign.take("network_args", kwargs) or {}).items():
        option = f"network_args.{name}"
        key = f"{foreign.keys['network_args']}.{name}"
        if value is not None:
            foreign.add(key, option, value)
    foreign.drop("network_args")


def _argument(foreign: Foreign, name: str, kind: coerce.Coercion) -> Any:
    return foreign.take(f"network_args.{name}", kind)


def _kind(foreign: Foreign, ours: Ours, module: str, lycoris: bool) -> None:
    """Chooses the option of adapter; none where the file names none, or one that is not supported."""
    if not module:
        return
    algorithm = str(_argument(foreign, "algo", coerce.name) or "").lower()
    if not lycoris:
        foreign.leave("network_args.algo", "has no effect: only lycoris.kohya has algorithms")
    kind = ALGORITHMS.get(algorithm) if lycoris else MODULES.get(module.rpartition(".")[2])
    if kind == "lora" and (foreign.has("network_args.conv_dim") or foreign.has("network_args.conv_block_dims")):
        kind = "locon"
    names = ("network_args.algo",) if lycoris and algorithm else ("network_module",)
    if kind is None:
        foreign.leave(names[0], "not supported; valid: lora, locon, loha, lokr, dora", "adapter")
        return
    if _argument(foreign, "dora_wd", coerce.flag):
        if kind in ("lora", "locon"):
            kind, names = "dora", ("network_args.dora_wd", *names)
            if (of_outputs := _argument(foreign, "wd_on_output", coerce.flag)) is not None:
                ours.set("adapter.magnitude", "output" if of_outputs else "input", "network_args.wd_on_output")
        else:
            foreign.leave("network_args.dora_wd", f"not supported: DoRA magnitudes with {kind}", "adapter")
    if kind != "dora":
        foreign.leave("network_args.wd_on_output", "has no effect without DoRA")
    ours.choose("adapter", kind, *dict.fromkeys((*names, "network_module", "network_args.algo", "lyco", "locon")))


def _convolutions(foreign: Foreign, ours: Ours, everywhere: bool, rank: int | None, alpha: float | None) -> None:
    """LyCORIS adapts k×k convolutions by default; sd-scripts only where `conv_dim` is given."""
    conv_rank = _argument(foreign, "conv_dim", coerce.whole)
    conv_alpha = _argument(foreign, "conv_alpha", coerce.number)
    if conv_rank is None and everywhere:
        conv_rank = rank
    if conv_rank:
        if ours.value("adapter.full_matrix"):
            conv_rank = min(conv_rank, LARGEST_RANK)
        ours.set("adapter.conv_rank", conv_rank, "network_args.conv_dim")
    elif not ours.value("adapter.conv_rank"):
        for name in ("conv_dim", "conv_alpha"):
            foreign.leave(f"network_args.{name}", "has no effect: convolutions get no adapter")
        return
    conv_alpha = (alpha if everywhere else 1.0) if conv_alpha is None else conv_alpha
    ours.set("adapter.conv_alpha", conv_alpha or None, "network_args.conv_alpha")


def _arguments(foreign: Foreign, ours: Ours) -> None:
    for name, (key, kind) in PLAIN.items():
        value = _argument(foreign, name, kind)
        if value is not None:
            ours.set(key, value, f"network_args.{name}")
    if (dropout := foreign.take("network_dropout", coerce.number)) is not None:
        ours.set("adapter.dropout", dropout, "network_dropout")
    factor = _argument(foreign, "factor", coerce.whole)
    if factor is not None:
        ours.set("adapter.factor", factor if factor > 0 else None, "network_args.factor")
    if norm := foreign.take("scale_weight_norms", coerce.number):
        ours.set("adapter.max_norm", norm, "scale_weight_norms")
    else:
        foreign.leave("scale_weight_norms", "is off")


def _preset(foreign: Foreign, ours: Ours) -> None:
    """The layers that LyCORIS adapts."""
    preset = str(_argument(foreign, "preset", coerce.name) or "full")
    if preset not in PRESETS:
        foreign.leave(
            "network_args.preset", "custom presets are not supported: select layers with targets.patterns", "targets"
        )
        return
    for key, value in PRESETS[preset].items():
        family = registry.of_option(ours.chosen("model"))
        if key == "targets.in_out" and family and family.blocks and family.blocks.first:
            continue  # LyCORIS does not find ends that sd-scripts names by the original code
        if key == "targets":
            ours.choose(key, value, "network_args.preset")
        else:
            ours.set(key, value, "network_args.preset")
        if key == "targets.conv" and value is False:
            for name in ("rank", "alpha"):
                ours.drop(f"adapter.conv_{name}")
            for name in ("conv_dim", "conv_alpha"):
                foreign.leave(f"network_args.{name}", f"has no effect: preset {preset} excludes convolutions")


BLOCKS = {
    "rank": ("block_dims", coerce.whole),
    "alpha": ("block_alphas", coerce.number),
    "conv_rank": ("conv_block_dims", coerce.whole),
    "conv_alpha": ("conv_block_alphas", coerce.number),
}


def _blocks(foreign: Foreign, ours: Ours) -> None:
    """Lists with an entry for each block of the UNet."""
    found: dict[str, list[Any]] = {}
    names = []
    for key, (name, kind) in BLOCKS.items():
        values = _argument(foreign, name, lambda value, kind=kind: _numbers(value, kind))
        if values:
            found[key] = values
            names.append(f"network_args.{name}")
    if factors := _rate_factors(foreign):
        found["lr_factor"] = factors
        names += [f"network_args.{direction}_lr_weight" for direction in ("down", "mid", "up")]
    if found:
        ours.set("targets.blocks", found, *names)


def _numbers(value: Any, kind: coerce.Coercion) -> list[Any]:
    parts = value if isinstance(value, list) else str(value).split(",") if str(value).strip() else []
    return [kind(part.strip() if isinstance(part, str) else part) for part in parts]


def _rate_factors(foreign: Foreign) -> list[float] | None:
    """down, mid and up weights as one list, with those of a family's first and last block."""
    weights: dict[str, list[float]] = {}
    for direction in ("down", "mid", "up"):
        name = f"network_args.{direction}_lr_weight"
        if not foreign.has(name):
            continue
        try:
            weights[direction] = _numbers(foreign.options[name], coerce.number)
        except ValueError:
            foreign.leave(name, "named curves are not supported: set the factors as targets.blocks.lr_factor")
    if not any(weights.values()):
        foreign.leave("network_args.block_lr_zero_threshold", "has no effect without learning-rate factors of blocks")
        return None
    given = len(weights.get("mid", [])), len(weights.get("down", weights.get("up", [])))
    *others, usual = registry.BLOCKS
    blocks = next((b for b in others if given[0] == b.middle or given[1] == b.down), usual)
    counts = {"down": blocks.down, "mid": blocks.middle, "up": blocks.up}
    factors = [factor for name, count in counts.items() for factor in _filled(weights.get(name), count)]
    least = _argument(foreign, "block_lr_zero_threshold", coerce.number) or 0.0
    factors = [factor if factor > least else 0.0 for factor in factors]
    return [1.0] * blocks.first + factors + [1.0] * blocks.last


def _filled(weights: list[float] | None, count: int) -> list[float]:
    """`count` factors: one for all, or those given and 1 for the rest."""
    weights = weights or []
    return (weights * count if len(weights) == 1 else [*weights, *[1.0] * count])[:count]


def _loraplus(foreign: Foreign, ours: Ours) -> None:
    names = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
    ratio, unet, text = (_argument(foreign, name, coerce.number) or None for name in names)
    only = ours.chosen("targets")
    trained = {part or ratio for part, other in ((unet, "text_encoder_only"), (text, "unet_only")) if only != other}
    if len(trained) == 1 and None not in trained:
        ours.set("targets.loraplus_ratio", trained.pop(), *(f"network_args.{name}" for name in names))
        return
    for name in names:
        why = "is off" if trained == {None} else "only one ratio is supported: set targets.loraplus_ratio"
        foreign.leave(f"network_args.{name}", why)
