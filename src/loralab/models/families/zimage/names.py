"""The modules of a ZImageTransformer2DModel and of Qwen3 that adapters may sit on, and what saved files call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loralab.models.row import Config, Row
from loralab.models.target import LayerKind, Target, plain_target

BLOCK: dict[str, LayerKind] = {
    **{f"attention.{name}": "attention" for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"feed_forward.{name}": "feed_forward" for name in ("w1", "w2", "w3")},
}
"""The adapted modules of a block."""
MODULATION = "adaLN_modulation.0"
"""Of a block, by the timestep; those of the text refiner have none."""
QWEN_LAYER: dict[str, LayerKind] = {
    **{f"self_attn.{name}_proj": "attention" for name in ("q", "k", "v", "o")},
    **{f"mlp.{name}_proj": "feed_forward" for name in ("gate", "up", "down")},
}
"""The adapted modules of one layer of Qwen3."""
ENDS = {
    "all_x_embedder.2-1": "x_embedder",
    "cap_embedder.1": "cap_embedder.1",
    "t_embedder.mlp.0": "t_embedder.mlp.0",
    "t_embedder.mlp.2": "t_embedder.mlp.2",
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
}
"""The modules outside of blocks → the original code's names for them."""
THIRDS = ("to_q", "to_k", "to_v")
"""Which one matrix holds in the original layout, in this order."""


def targets(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Target]]:
    """By part, of a model with these configs. Only `layers` are counted as blocks; all around them is `in_out`."""
    layers = configs["text_encoder"]["num_hidden_layers"] if "text_encoder" in configs else 0
    read = range(layers - 1)
    return {
        "transformer": list(_transformer(configs["transformer"])),
        "text_encoder": [
            plain_target("lora_te", f"layers.{n}.{path}", kind) for n in read for path, kind in QWEN_LAYER.items()
        ],
    }


def _transformer(config: Mapping[str, Any]) -> Iterator[Target]:
    for path in ENDS:
        yield _target(path, "in_out")
    refiners = range(config["n_refiner_layers"])
    for block in [f"{name}.{n}" for name in ("noise_refiner", "context_refiner") for n in refiners]:
        for path in (*BLOCK, *([MODULATION] if block.startswith("noise") else [])):
            yield _target(f"{block}.{path}", "in_out")
    for layer in range(config["n_layers"]):
        for path, kind in BLOCK.items():
            yield _target(f"layers.{layer}.{path}", kind, layer)
        yield _target(f"layers.{layer}.{MODULATION}", "in_out", layer)


def _target(path: str, kind: LayerKind, block: int | None = None) -> Target:
    """ComfyUI reads diffusers' paths, too, and diffusers' loader only these."""
    original, third = _original(path)
    return plain_target("lora_unet", path, kind, block, comfyui=path, original=original, third=third)


def _original(path: str) -> tuple[str, int | None]:
    """The original code's path, and which third of it."""
    last = path.rpartition(".")[2]
    if last in THIRDS:
        return f"{path.removesuffix(last)}qkv", THIRDS.index(last)
    return ENDS.get(path) or path.replace(".to_out.0", ".out"), None


def key_of(row: Row, part: str, path: str, config: Config) -> tuple[str, int | None]:
    """The name of a module's weight in a single file; and which third of it, as queries, keys and values are in one."""
    if part != row.denoiser:
        return f"{row.file_parts[part]}model.{path}.weight", None
    original, third = _original(path)
    return f"{row.file_parts[part]}{original}.weight", third
