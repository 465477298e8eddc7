"""The JSON files of the kohya_ss GUI.

Absent keys have the GUI's defaults. Values that are empty, 0 or off are not passed on to sd-scripts, whose defaults
then apply. max_train_epochs takes precedence over max_train_steps, and that over epoch. Warm-up is in percent.
"""

from __future__ import annotations

from typing import Any

from loralab.importers.content import Content
from loralab.importers.dialects import command_line, dataset_toml
from loralab.importers.dialects.defaults import KOHYA_GUI, SD_SCRIPTS
from loralab.importers.foreign import Foreign, Left, is_zero
from loralab.schema.catalogue import NETWORK_ARGS, OPTIONS, OTHER_FAMILIES

TYPES = {
    "Standard": ("networks.lora", ""),
    "Kohya LoCon": ("networks.lora", ""),
    "Kohya DyLoRA": ("networks.dylora", ""),
    "LoRA-FA": ("networks.lora_fa", ""),
    "LoCon": ("lycoris.kohya", "locon"),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon"),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha"),
    "LyCORIS/LoKr": ("lycoris.kohya", "lokr"),
    "LyCORIS/DyLoRA": ("lycoris.kohya", "dylora"),
    "LyCORIS/GLoRA": ("lycoris.kohya", "glora"),
    "LyCORIS/iA3": ("lycoris.kohya", "ia3"),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft"),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft"),
    "LyCORIS/Native Fine-Tuning": ("lycoris.kohya", "full"),
    "Flux1": ("networks.lora_flux", ""),
}
"""LoRA_type as sd-scripts' network module and LyCORIS' algorithm."""

_KOHYA_ONLY = """
block_alphas block_dims block_lr_zero_threshold conv_block_alphas conv_block_dims down_lr_weight mid_lr_weight
up_lr_weight
"""
KOHYA_ONLY = frozenset(_KOHYA_ONLY.split())
LYCORIS_ONLY = frozenset(["constraint", "decompose_both", "dora_wd", "factor", "preset", "rescaled", "train_on_input"])
CONVOLUTIONS = frozenset(("conv_dim", "conv_alpha"))
"""Arguments that only one of the two kinds of network has."""

OWN = {
    "LoRA_type": "network_module",
    "LyCORIS_preset": "network_args.preset",
    "constrain": "network_args.constraint",
    "unit": "network_args.block_size",
    "lora_network_weights": "network_weights",
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "sdxl_checkbox": "sdxl",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs",
    "sdxl_no_half_vae": "no_half_vae",
}

NAMES = {
    **{name: name for name in OPTIONS if not name.startswith("network_args.")},
    **{option.name: f"network_args.{option.name}" for option in NETWORK_ARGS},
    **OWN,
}

ZERO_STAYS = frozenset(("max_data_loader_n_workers", "network_args.conv_dim", "lr_warmup"))


def read(content: Content) -> Foreign:
    found = Foreign("kohya-gui", content, NAMES, KOHYA_GUI, {**SD_SCRIPTS, "max_train_steps": None})
    table: dict[str, Any] = content.data
    for key, value in table.items():
        if key.partition("_")[0] in OTHER_FAMILIES and key not in OPTIONS:
            group = "model" if key.endswith("_checkbox") and value else ""
            found.left.append(Left(key, value, "another model family", group))
        else:
            name = NAMES.get(key, key)
            found.add(key, name, value, _is_nothing(name, value))
    _network(found)
    _rates(found)
    _noise(found)
    _attention(found)
    command_line.additional(found)
    dataset_toml.follow(found)
    return found


def _is_nothing(name: str, value: Any) -> bool:
    return value in (None, "", []) or value is False or (name not in ZERO_STAYS and is_zero(value))


def _network(found: Foreign) -> None:
    """LoRA_type as a module and an algorithm, with its arguments."""
    given = found.take("network_module") if found.has("network_module") else "Standard"
    if "LoRA_type" not in found.content.data and found.has("network_module"):
        return  # written by hand, in sd-scripts' terms
    if given not in TYPES:
        raise found.error("LoRA_type", f"invalid value {given!r}", f"valid: {', '.join(TYPES)}")
    module, algorithm = TYPES[given]
    if found.has("network_module"):
        found.imply("network_module", "LoRA_type", module)
    if algorithm:
        found.imply("network_args.algo", "LoRA_type", algorithm)
    unused = KOHYA_ONLY if algorithm else LYCORIS_ONLY
    for name in sorted(unused | (CONVOLUTIONS if given == "Standard" else frozenset())):
        found.leave(f"network_args.{name}", f"has no effect with LoRA_type {given}")
        found.drop(f"network_args.{name}")


def _rates(found: Foreign) -> None:
    """A part whose rate is 0 is not trained; where both are 0, the learning rate applies to both."""
    text, unet = found.take("text_encoder_lr"), found.take("unet_lr")
    if unet and not text:
        found.imply("network_train_unet_only", "text_encoder_lr", True)
    if text and not unet:
        found.imply("network_train_text_encoder_only", "unet_lr", True)


def _noise(found: Foreign) -> None:
    """Noise offset and multires noise exclude each other."""
    kind = found.take("noise_offset_type") or "Original"
    original = ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale")
    multires = ("multires_noise_iterations", "multires_noise_discount")
    for name in multires if kind == "Original" else original:
        found.leave(name, f"has no effect with noise_offset_type {kind}")
        found.drop(name)


def _attention(found: Foreign) -> None:
    """In newer versions `xformers` names one of three kinds."""
    word = str(found.options.get("xformers", "")).lower()
    if word == "sdpa":
        found.imply("sdpa", "xformers", True)
    if word in ("sdpa", "none", "xformers"):
        found.imply("xformers", "xformers", word == "xformers")
