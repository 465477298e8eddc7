"""Names of adapted modules as sd-scripts writes them, and the full-size modules that they stand for."""

from __future__ import annotations

import json

import torch

from loralab.models.architecture import SD1, SD2, SDXL, Architecture
from loralab.models.names import Target, text_targets, unet_targets
from tests import GOLDEN

REFERENCE = json.loads((GOLDEN / "lora_keys.json").read_text())
ARCHITECTURES = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}
CASES = {"sd15": "sd1", "sd15_conv": "sd1", "sd2": "sd2", "sdxl": "sdxl"}
PREFIXES = {"sd1": ["lora_te"], "sd2": ["lora_te"], "sdxl": ["lora_te1", "lora_te2"]}


def golden(case: str) -> dict[str, list]:
    """Module name → [shape of lora_down, shape of lora_up]."""
    grouped = [REFERENCE["sd15"], REFERENCE["sd15_conv_only"]] if case == "sd15_conv" else [REFERENCE[case]]
    return {name: json.loads(shapes) for group in grouped for shapes, names in group.items() for name in names.split()}


def modules(architecture: Architecture) -> dict[str, torch.nn.Module]:
    """The full-size modules by part, without memory."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from loralab.models.load import text_class

    with torch.device("meta"):
        parts = {"unet": UNet2DConditionModel(**architecture.unet)}
        for part, config in architecture.text_encoders.items():
            parts[part] = text_class(part)(text_class(part).config_class(**config))
    return parts


def targets(family: str, parts: dict[str, torch.nn.Module]) -> dict[str, list[Target]]:
    architecture = ARCHITECTURES[family]
    table = {"unet": unet_targets(architecture.unet, original=family == "sdxl")}
    for prefix, (part, config) in zip(PREFIXES[family], architecture.text_encoders.items(), strict=True):
        table[part] = text_targets(config["num_hidden_layers"], prefix, hasattr(parts[part], "text_model"))
    return table
