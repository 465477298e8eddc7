"""What the keys of adapter files name, however they are spelled: a module, and one tensor of its adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from loralab.adapters.peft import PREFIX
from loralab.models.architecture import SD1, SDXL
from loralab.models.names import Target, text_targets, unet_targets

Table = Mapping[str, Sequence[Target]]
"""The modules that can be adapted, by part."""

_ENDINGS = (
    (re.compile(r"\.lora_A(\.[^.]+)?\.weight$"), "lora_down.weight"),
    (re.compile(r"\.lora_B(\.[^.]+)?\.weight$"), "lora_up.weight"),
    (re.compile(r"\.lora_magnitude_vector(\.[^.]+){0,2}$"), "dora_scale"),
    (re.compile(r"\.(lora|lora_linear_layer)\.down\.weight$"), "lora_down.weight"),
    (re.compile(r"\.(lora|lora_linear_layer)\.up\.weight$"), "lora_up.weight"),
    (re.compile(r"_lora\.down\.weight$"), "lora_down.weight"),
    (re.compile(r"_lora\.up\.weight$"), "lora_up.weight"),
    (re.compile(r"\.(alpha|dora_scale)$"), r"\1"),
    (re.compile(r"\.((?:hada|lokr)_\w+?)(\.[^.]+)?$"), r"\1"),
)
"""How keys end that name their module by a path: PEFT (perhaps with the adapter's name in it), diffusers of old, and
diffusers' first attention processors."""

EMBEDDING = re.compile(r"(?:bundle_emb\.(?P<name>[^.]+)\..*|emb_params|clip_[lg]|string_to_param(\..*)?)$")
"""A learned word (textual inversion) that some trainers put into the adapter's file; it changes no module."""

_OF_OTHER_KINDS = (
    (re.compile(r"\.b?oft_"), "of OFT or BOFT adapters"),
    (re.compile(r"\.diff(_b)?$"), "full weight differences (LyCORIS full)"),
    (re.compile(r"\.[wb]_norm$"), "of normalisation layers (LyCORIS norm)"),
    (re.compile(r"\.[ab][12]\.weight$"), "of GLoRA adapters"),
    (re.compile(r"\.on_input$|\.ia3_"), "of IA3 adapters"),
    (re.compile(r"\.lora_E|\.ranknum"), "of AdaLoRA adapters"),
    (re.compile(r"\.vera_"), "of VeRA adapters"),
    (re.compile(r"\.lora_embedding_"), "of the LoRA of an embedding layer"),
    (re.compile(r"bias$"), "biases"),
    (re.compile(rf"^{re.escape(PREFIX)}(?!.*\.lora_).*\.weight$"), "weights of the base model itself"),
)
"""Patterns of keys that are not supported, and what they are."""

NO_MODULE = "match no module of this model"
NOT_SUPPORTED = ", which are not supported"
AMBIGUOUS = "may belong to either text encoder of SDXL"


def strangeness(key: str) -> str:
    """The fault of a key that cannot be read."""
    found = next((what for pattern, what in _OF_OTHER_KINDS if pattern.search(key)), None)
    return f"are {found}{NOT_SUPPORTED}" if found else NO_MODULE


def is_counter(key: str, numbers: int) -> bool:
    """Whether it is one number that belongs to no module, like a step count."""
    return numbers == 1 and "." not in key and not key.startswith("lora_")


def split(key: str) -> tuple[str, str]:
    """A key's module, as it is spelled, and its ending in the kohya layout; '' where it has none that is known."""
    if key.startswith("lora_"):
        name, _, ending = key.partition(".")
        return name, ending
    key = key.removeprefix(PREFIX)
    for pattern, ending in _ENDINGS:
        if match := pattern.search(key):
            path = key[: match.start()].replace(".processor.", ".")
            path = f"{path}.0" if path.endswith("to_out") else path
            return path, match.expand(ending)
    return key, ""


class Names:
    """The modules of a table by all their spellings. `part`: the one that bare paths are of, if it is known."""

    def __init__(self, table: Table, part: str | None) -> None:
        self._names: dict[str, str] = {}
        for of in sorted(table, key=lambda other: other != part):
            for target in table[of]:
                prefix = target.kohya.partition("_text_model_")[0] if of != "unet" else "lora_unet"
                flat = f"{prefix}_{target.diffusers.replace('.', '_')}"
                bare = target.diffusers.removeprefix("text_model.")
                spellings = (target.kohya, flat, f"{of}.{target.diffusers}", f"{of}.{bare}", target.diffusers, bare)
                for spelling in spellings:
                    self._names.setdefault(spelling, target.kohya)
        self._two_encoders = part is None and "text_encoder_2" in table

    def of(self, path: str) -> str | None:
        """The module's name in the kohya layout."""
        return self._names.get(path)

    def ambiguous(self, path: str) -> bool:
        return self._two_encoders and path.startswith(("encoder.layers.", "text_model.encoder.layers."))


def public_table(keys: Iterable[str], part: str | None = None) -> Table:
    """The modules of SDXL or of SD 1.x and 2.x, whichever the keys look like."""
    marks = ("lora_te1_", "lora_te2_", "text_encoder_2.", "lora_unet_input_", "lora_unet_output_", "lora_unet_middle_")
    deep = re.compile(r"transformer_blocks[._][1-9]")  # SD 1.x and 2.x have one block in a transformer
    sdxl = part == "text_encoder_2" or any(key.startswith(marks) or deep.search(key) for key in keys)
    return _sdxl_table() if sdxl else _sd_table()


@cache
def _sd_table() -> Table:
    """Of SD 1.x and 2.x in one, and of smaller ones: the names say nothing about widths."""
    return {"text_encoder": text_targets(24, "lora_te", True), "unet": unet_targets(_every_level(SD1.unet), False)}


@cache
def _sdxl_table() -> Table:
    layers = {part: config["num_hidden_layers"] for part, config in SDXL.text_encoders.items()}
    return {
        "text_encoder": text_targets(layers["text_encoder"], "lora_te1", True),
        "text_encoder_2": text_targets(layers["text_encoder_2"], "lora_te2", True),
        "unet": unet_targets(SDXL.unet, True),
    }


def _every_level(unet: Mapping[str, Any]) -> dict[str, Any]:
    """The same UNet with transformers on every level, which smaller ones may have."""
    levels = len(unet["block_out_channels"])
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * levels, "up_block_types": ("CrossAttnUpBlock2D",) * levels}
    return {**unet, **kinds}
