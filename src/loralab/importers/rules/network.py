"""The adapter: its kind, rank and alpha, and the layers that get one."""

from __future__ import annotations

from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.models import registry

MODULES = {"lora": "lora", "loha": "loha", "lokr": "lokr", "locon": "locon", "locon_kohya": "locon"}
"""Last part of a module name networks.… → option."""

ALGORITHMS = {
    "lora": "locon", "locon": "locon", "loha": "loha", "lokr": "lokr", "diag-oft": "oft", "boft": "boft", "ia3": "ia3",
    "": "locon",
}  # fmt: skip
"""LyCORIS' algorithms. Its lora adapts convolutions, too, which others call LoCon."""

PRESETS: dict[str, dict[str, Any]] = {
    "full": {"targets.in_out": True},
    "attn-mlp": {"targets.conv": False},
    "attn-only": {"targets.conv": False, "targets.feed_forward": False, "targets.projection": False},
    "unet-transformer-only": {"targets": "unet_only", "targets.conv": False},
    "unet-only": {"targets": "unet_only", "targets.in_out": True},
    "ia3": {
        "targets.attention": False,
        "targets.feed_forward": False,
        "targets.projection": False,
        "targets.conv": False,
        "targets.patterns": [{"match": r"(to_k|to_v|k_proj|v_proj|ff\.net\.2|fc2)$"}],
    },
    "unet-convblock-only": {
        "targets": "unet_only",
        "targets.conv": True,
        "targets.attention": False,
        "targets.feed_forward": False,
        "targets.projection": False,
    },
}
"""LyCORIS' presets: the layers to adapt."""

UNSCALED = frozenset(("oft", "boft", "oft_v2", "ia3"))
"""Options of adapter that have no alpha."""

LARGEST_RANK = 4096
"""LyCORIS' LoKr accepts a larger one, which means full matrices."""


def arguments(foreign: Foreign, ours: Ours) -> None:
    """Makes each of `network_args` an option of its own."""
    for name, value in (foreign.take("network_args") or {}).items():
        if value is not None:
            foreign.add(f"{foreign.keys['network_args']}.{name}", f"network_args.{name}", value)
    foreign.drop("network_args")


def network(foreign: Foreign, ours: Ours) -> None:
    module = str(foreign.take("network_module") or "")
    lycoris = "lycoris" in module
    if module:
        _kind(foreign, ours, module, lycoris)
    rank, alpha = foreign.take("network_dim"), foreign.take("network_alpha")
    if ours.chosen("adapter") == "lokr" and (rank or 0) > LARGEST_RANK:
        rank = LARGEST_RANK
        ours.set("adapter.full_matrix", True, "network_dim")
        why = "has a rank above the size of any layer: LoKr with full matrices is used (adapter.full_matrix)"
        foreign.warnings.append(why)
    if ours.chosen("adapter") == "ia3":
        foreign.leave("network_dim", "has no effect: factors have no rank", neutral=True)
    elif rank is not None:
        ours.set("adapter.rank", rank, "network_dim")
    if alpha is not None or rank is not None:
        set_alpha(foreign, ours, "adapter.alpha", alpha or None, "network_alpha")  # 0 means the rank, like null
    if (dropout := foreign.take("network_dropout")) is not None:
        ours.set("adapter.dropout", dropout, "network_dropout")
    if (factor := foreign.take("network_args.factor")) is not None:
        ours.set("adapter.factor", factor if factor > 0 else None, "network_args.factor")
    if ours.chosen("adapter") is not None:
        _convolutions(foreign, ours, rank, alpha, everywhere=lycoris or module.startswith("locon."))
    if lycoris:
        _preset(foreign, ours)
    else:
        foreign.leave("network_args.preset", "has no effect: only lycoris.kohya has presets")


def _kind(foreign: Foreign, ours: Ours, module: str, lycoris: bool) -> None:
    """Chooses the option of adapter; none where it is not supported."""
    algorithm = str(foreign.take("network_args.algo") or "").lower()
    if not lycoris:
        foreign.leave("network_args.algo", "has no effect: only lycoris.kohya has algorithms")
    last = module.rpartition(".")[2]
    start, _, family = last.rpartition("_")
    kind = ALGORITHMS.get(algorithm) if lycoris else MODULES.get(start if family in registry.FAMILIES else last)
    if kind == "lora" and (foreign.has("network_args.conv_dim") or foreign.has("network_args.conv_block_dims")):
        kind = "locon"
    names = ("network_args.algo",) if lycoris and algorithm else ("network_module",)
    if kind is None:
        foreign.leave(names[0], "not supported; valid: lora, locon, loha, lokr, dora, diag-oft, boft, ia3", "adapter")
        return
    if foreign.take("network_args.dora_wd"):
        if kind in ("lora", "locon"):
            kind, names = "dora", ("network_args.dora_wd", *names)
        else:
            foreign.leave("network_args.dora_wd", f"not supported: DoRA magnitudes with {kind}", "adapter")
    ours.choose("adapter", kind, *dict.fromkeys((*names, "network_module", "network_args.algo", "lyco", "locon")))


def _convolutions(foreign: Foreign, ours: Ours, rank: int | None, alpha: float | None, everywhere: bool) -> None:
    """LyCORIS adapts k×k convolutions by default; sd-scripts only where `conv_dim` is given."""
    conv_rank, conv_alpha = foreign.take("network_args.conv_dim"), foreign.take("network_args.conv_alpha")
    if conv_rank is None and everywhere:
        conv_rank = rank
    if conv_rank:
        if ours.value("adapter.full_matrix"):
            conv_rank = min(conv_rank, LARGEST_RANK)
        ours.set("adapter.conv_rank", 1 if ours.chosen("adapter") == "ia3" else conv_rank, "network_args.conv_dim")
    elif not ours.value("adapter.conv_rank"):
        for name in ("conv_dim", "conv_alpha"):
            foreign.leave(f"network_args.{name}", "has no effect: convolutions get no adapter")
        return
    conv_alpha = (alpha if everywhere else 1.0) if conv_alpha is None else conv_alpha
    set_alpha(foreign, ours, "adapter.conv_alpha", conv_alpha or None, "network_args.conv_alpha")


def set_alpha(foreign: Foreign, ours: Ours, key: str, alpha: float | None, name: str) -> None:
    """An alpha, where the adapter has one."""
    if ours.chosen("adapter") in UNSCALED:
        foreign.leave(name, f"has no effect: adapter={ours.chosen('adapter')} has no alpha", neutral=True)
    else:
        ours.set(key, alpha, name)


def _preset(foreign: Foreign, ours: Ours) -> None:
    """The layers that LyCORIS adapts."""
    preset = str(foreign.take("network_args.preset") or "full")
    if preset not in PRESETS:
        why = "custom presets are not supported: select layers with targets.patterns"
        foreign.leave("network_args.preset", why, "targets")
        return
    family = registry.of_option(ours.chosen("model"))
    for key, value in PRESETS[preset].items():
        if key == "targets.in_out" and family and family.blocks and family.blocks.first:
            continue  # LyCORIS does not find ends that sd-scripts names by the original code
        (ours.choose if key == "targets" else ours.set)(key, value, "network_args.preset")
    if PRESETS[preset].get("targets.conv") is False:
        for key, name in (("conv_rank", "conv_dim"), ("conv_alpha", "conv_alpha")):
            ours.drop(f"adapter.{key}")
            foreign.leave(f"network_args.{name}", f"has no effect: preset {preset} excludes convolutions")


def loraplus(foreign: Foreign, ours: Ours) -> None:
    """LoRA+: one ratio for all parts that are trained."""
    names = [f"network_args.loraplus_{part}lr_ratio" for part in ("", "unet_", "text_encoder_")]
    ratio, unet, text = (foreign.take(name) or None for name in names)
    only = ours.chosen("targets")
    trained = {part or ratio for part, other in ((unet, "text_encoder_only"), (text, "unet_only")) if only != other}
    if len(trained) == 1 and None not in trained:
        ours.set("targets.loraplus_ratio", trained.pop(), *names)
        return
    for name in names:
        why = "is off" if trained == {None} else "only one ratio is supported: set targets.loraplus_ratio"
        foreign.leave(name, why)
