"""The modules of Anima that adapters may sit on, and what single files and adapter files call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from loralab.models.row import Config, Row
from loralab.models.target import LayerKind, Target, plain_target

if TYPE_CHECKING:
    from torch import Tensor

ATTENTIONS = {"attn1": "self_attn", "attn2": "cross_attn"}
PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "output_proj"}
NORMS = {"norm_q": "q_norm", "norm_k": "k_norm"}
FEED_FORWARD = {"ff.net.0.proj": "mlp.layer1", "ff.net.2": "mlp.layer2"}
MODULATIONS = {
    f"norm{number}.linear_{layer}": f"adaln_modulation_{of}.{layer}"
    for number, of in enumerate(("self_attn", "cross_attn", "mlp"), start=1)
    for layer in (1, 2)
}
"""By the timestep: shift, scale and gate."""
BLOCK: dict[str, tuple[str, LayerKind]] = {
    **{f"{a}.{p}": (f"{of}.{q}", "attention") for a, of in ATTENTIONS.items() for p, q in PROJECTIONS.items()},
    **{path: (original, "feed_forward") for path, original in FEED_FORWARD.items()},
    **{path: (original, "in_out") for path, original in MODULATIONS.items()},
}
"""The modules of a block of the transformer that can be adapted: path → that of the original code, kind."""
ENDS = {
    "patch_embed.proj": "x_embedder.proj.1",
    "time_embed.t_embedder.linear_1": "t_embedder.1.linear_1",
    "time_embed.t_embedder.linear_2": "t_embedder.1.linear_2",
    "norm_out.linear_1": "final_layer.adaln_modulation.1",
    "norm_out.linear_2": "final_layer.adaln_modulation.2",
    "proj_out": "final_layer.linear",
}
"""Those around the blocks."""
CONDITIONER_BLOCK: dict[str, LayerKind] = {
    **{f"{a}.{p}_proj": "attention" for a in ATTENTIONS.values() for p in "qkvo"},
    "mlp.0": "feed_forward",
    "mlp.2": "feed_forward",
}
"""The adapted modules of a block of the text conditioner, which the original code calls llm_adapter."""
QWEN_LAYER: dict[str, LayerKind] = {
    **{f"self_attn.{name}_proj": "attention" for name in ("q", "k", "v", "o")},
    **{f"mlp.{name}_proj": "feed_forward" for name in ("gate", "up", "down")},
}
"""The adapted modules of one layer of Qwen3."""


def targets(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Target]]:
    """By part, of a model with these configs."""
    layers = range(configs["text_encoder"]["num_hidden_layers"])
    texts: dict[str, LayerKind] = {f"layers.{n}.{path}": kind for n in layers for path, kind in QWEN_LAYER.items()}
    return {
        "transformer": list(_transformer(configs["transformer"])),
        "text_encoder": [plain_target("lora_te", path, kind) for path, kind in texts.items()],
        "text_conditioner": list(_conditioner(configs["text_conditioner"])),
    }


def _transformer(config: Mapping[str, Any]) -> Iterator[Target]:
    for path, original in ENDS.items():
        yield _target(path, original, "in_out")
    for layer in range(config["num_layers"]):
        for path, (original, kind) in BLOCK.items():
            yield _target(f"transformer_blocks.{layer}.{path}", f"blocks.{layer}.{original}", kind, layer)


def _target(path: str, original: str, kind: LayerKind, block: int | None = None) -> Target:
    """A module that files of kohya's and ComfyUI's layouts call by its original path."""
    return plain_target("lora_unet", original, kind, block, comfyui=original)._replace(path=path, diffusers=path)


def _conditioner(config: Mapping[str, Any]) -> Iterator[Target]:
    blocks = range(config["num_layers"])
    inside: dict[str, LayerKind] = {
        f"blocks.{n}.{path}": kind for n in blocks for path, kind in CONDITIONER_BLOCK.items()
    }
    inside["out_proj"] = "in_out"
    for path, kind in inside.items():
        yield plain_target("lora_unet_llm_adapter", path, kind, comfyui=f"llm_adapter.{path}")


def originals(config: Mapping[str, Any]) -> dict[str, str]:
    """Path of each module of a transformer that has weights → its path in the original code."""
    inside = {path: original for path, (original, _) in BLOCK.items()}
    inside |= {f"{a}.{norm}": f"{of}.{name}" for a, of in ATTENTIONS.items() for norm, name in NORMS.items()}
    blocks = {
        f"transformer_blocks.{layer}.{path}": f"blocks.{layer}.{original}"
        for layer in range(config["num_layers"])
        for path, original in inside.items()
    }
    return {**ENDS, "time_embed.norm": "t_embedding_norm", **blocks}


def tensors_of(row: Row, part: str, state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """A part's tensors of a single file under the names of its class."""
    prefix = row.file_parts[part]
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if part != row.denoiser:
        return own
    paths = {f"{original}.weight": f"{path}.weight" for path, original in originals(config).items()}
    return {paths[name]: tensor for name, tensor in own.items() if name in paths}


def key_of(row: Row, part: str, path: str, config: Config) -> tuple[str, int | None]:
    """The name of a module's weight in a single file."""
    return f"{row.file_parts[part]}{originals(config)[path] if part == row.denoiser else path}.weight", None
