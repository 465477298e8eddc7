"""Names of adapted modules as sd-scripts writes them, and the full-size modules that they stand for."""

from __future__ import annotations

import json

import torch

from loralab.models.families.sd.names import text_targets, unet_targets
from loralab.models.load import empty
from loralab.models.registry import FAMILIES
from loralab.models.target import Target
from tests import GOLDEN

REFERENCE = json.loads((GOLDEN / "lora_keys.json").read_text())
ARCHITECTURES = {name: FAMILIES[name].architecture for name in ("sd1", "sd2", "sdxl")}
CASES = {"sd15": "sd1", "sd15_conv": "sd1", "sd2": "sd2", "sdxl": "sdxl"}
PREFIXES = {"sd1": ["lora_te"], "sd2": ["lora_te"], "sdxl": ["lora_te1", "lora_te2"]}


def golden(case: str) -> dict[str, list]:
    """Module name → [shape of lora_down, shape of lora_up]."""
    grouped = [REFERENCE["sd15"], REFERENCE["sd15_conv_only"]] if case == "sd15_conv" else [REFERENCE[case]]
    return {name: json.loads(shapes) for group in grouped for shapes, names in group.items() for name in names.split()}


def modules(family: str) -> dict[str, torch.nn.Module]:
    """The full-size modules by part, without memory."""
    row = FAMILIES[family]
    with torch.device("meta"):
        return {part: empty(row, part, row.architecture[part]) for part in row.parts}


def targets(family: str, parts: dict[str, torch.nn.Module]) -> dict[str, list[Target]]:
    row = FAMILIES[family]
    table = {"unet": unet_targets(row.architecture["unet"], original=family == "sdxl")}
    for prefix, part in zip(PREFIXES[family], row.text_encoders, strict=True):
        layers = row.architecture[part]["num_hidden_layers"]
        inside = "" if hasattr(parts[part], "text_model") else "text_model."
        named = text_targets(layers, prefix)
        table[part] = [target._replace(path=target.path.removeprefix(inside)) for target in named]
    return table
