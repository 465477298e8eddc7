"""The modules of a UNet and of CLIP text encoders that adapters may sit on, and what saved files call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from loralab.models.row import Config
from loralab.models.target import LayerKind, Target, plain_target

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TRANSFORMER_BLOCK: dict[str, LayerKind] = {
    **{f"attn1.{name}": "attention" for name in _ATTENTION},
    **{f"attn2.{name}": "attention" for name in _ATTENTION},
    "ff.net.0.proj": "feed_forward",
    "ff.net.2": "feed_forward",
}
"""The adapted modules of one of a UNet's transformer blocks."""

ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
"""The modules of a UNet outside its blocks → the original code's names for them. The add_embedding is of
sizes, in models that are told them."""

RESIDUAL_BLOCK = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
"""The adapted modules of a residual block → the original code's names for them."""

TEXT_LAYER: dict[str, LayerKind] = {
    "self_attn.q_proj": "attention",
    "self_attn.k_proj": "attention",
    "self_attn.v_proj": "attention",
    "self_attn.out_proj": "attention",
    "mlp.fc1": "feed_forward",
    "mlp.fc2": "feed_forward",
}
"""The adapted modules of one layer of a CLIP text encoder."""


class Slot(NamedTuple):
    """One residual block, transformer, or resampler of a UNet."""

    path: str
    original: str
    """Its path in the original code, by which some families' files name modules."""
    role: Literal["resnet", "transformer", "resampler"]
    block: int
    """Index in the list that counts the middle as one block (SD 1.x and 2.x)."""
    original_block: int
    """Index in the list that counts the original code's blocks."""
    depth: int = 0
    """Transformer blocks in a transformer."""
    shortcut: bool = False
    """A residual block between different widths has a 1×1 convolution around it."""


def slots(config: Mapping[str, Any]) -> Iterator[Slot]:
    """The places of a UNet2DConditionModel with this config, from input to output."""
    widths = config["block_out_channels"]
    levels = len(widths)
    layers = config["layers_per_block"]
    stride = layers + 1  # blocks a level has in the original count
    middle = levels * stride
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * levels if isinstance(depths, int) else list(depths)

    for level, kind in enumerate(config["down_block_types"]):
        for layer in range(layers):
            at = 1 + level * stride + layer
            path, original = f"down_blocks.{level}", f"input_blocks.{at}"
            shortcut = layer == 0 and widths[level] != widths[max(level - 1, 0)]
            yield Slot(f"{path}.resnets.{layer}", f"{original}.0", "resnet", at, at + 1, shortcut=shortcut)
            if "CrossAttn" in kind:
                yield Slot(f"{path}.attentions.{layer}", f"{original}.1", "transformer", at, at + 1, depths[level])
        if level < levels - 1:
            at = (level + 1) * stride
            yield Slot(f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{at}.0.op", "resampler", at, at + 1)

    yield Slot("mid_block.resnets.0", "middle_block.0", "resnet", middle, middle + 1)
    yield Slot("mid_block.attentions.0", "middle_block.1", "transformer", middle, middle + 2, depths[-1])
    yield Slot("mid_block.resnets.1", "middle_block.2", "resnet", middle, middle + 3)

    for level, kind in enumerate(config["up_block_types"]):
        for layer in range(stride):
            at = level * stride + layer
            path, original = f"up_blocks.{level}", f"output_blocks.{at}"
            block, original_block = middle + 1 + at, middle + 4 + at
            yield Slot(f"{path}.resnets.{layer}", f"{original}.0", "resnet", block, original_block, shortcut=True)
            if "CrossAttn" in kind:
                depth = depths[levels - 1 - level]
                yield Slot(f"{path}.attentions.{layer}", f"{original}.1", "transformer", block, original_block, depth)
            if layer == layers and level < levels - 1:
                after = 2 if "CrossAttn" in kind else 1
                path = f"up_blocks.{level}.upsamplers.0.conv"
                yield Slot(path, f"{original}.{after}.conv", "resampler", block, original_block)


def _modules(slot: Slot) -> Iterator[tuple[str, str, LayerKind]]:
    """(path in the slot, the same in the original code, kind) of its adapted modules; "" is the slot itself."""
    if slot.role == "resampler":
        yield "", "", "conv"
    elif slot.role == "resnet":
        for module, original in RESIDUAL_BLOCK.items():
            if module != "conv_shortcut" or slot.shortcut:
                yield module, original, "conv"
    else:
        yield "proj_in", "proj_in", "projection"
        for depth in range(slot.depth):
            for module, kind in TRANSFORMER_BLOCK.items():
                path = f"transformer_blocks.{depth}.{module}"
                yield path, path, kind
        yield "proj_out", "proj_out", "projection"


def _join(*path: str) -> str:
    return ".".join(filter(None, path))


def unet_targets(config: Mapping[str, Any], original: bool) -> list[Target]:
    """The adapted modules of a UNet2DConditionModel with this config.

    `original`: files name its modules and count its blocks by the original code instead of by diffusers.
    """

    def target(path: str, original_path: str, kind: LayerKind, block: int | None) -> Target:
        spelled = original_path if original else path
        return Target(path, "lora_unet_" + spelled.replace(".", "_"), path, kind, block)

    targets = []
    for path, original_path in ENDS.items():
        if not path.startswith("add_embedding") or config.get("addition_embed_type") == "text_time":
            targets.append(target(path, original_path, "in_out", _block_of_end(path, config, original)))
    for slot in slots(config):
        block = slot.original_block if original else slot.block
        for module, original_module, kind in _modules(slot):
            targets.append(target(_join(slot.path, module), _join(slot.original, original_module), kind, block))
    return targets


def _block_of_end(path: str, config: Mapping[str, Any], original: bool) -> int | None:
    """The block that an end counts to; in SD 1.x and 2.x, only the first convolution is in one."""
    if not original:
        return 0 if path == "conv_in" else None
    return {"conv_in": 1, "conv_out": block_count(config, original) - 1}.get(path, 0)


def block_count(config: Mapping[str, Any], original: bool) -> int:
    """Length of the UNet's list of blocks, by which ranks and rates are given per block.

    25: 12 before the middle (0 is the first convolution), the middle, 12 after it. 23, by the original code: the
    embeddings (0), 9 input blocks, 3 of the middle, 9 output blocks, the last convolution (22).
    """
    side = len(config["block_out_channels"]) * (config["layers_per_block"] + 1)
    return 2 * side + (5 if original else 1)


def text_targets(layers: int, prefix: str) -> list[Target]:
    """The adapted modules of a CLIP text encoder; `prefix` is `lora_te`, or `lora_te1` and `lora_te2` where there are
    two."""
    paths: dict[str, LayerKind] = {f"{n}.{module}": kind for n in range(layers) for module, kind in TEXT_LAYER.items()}
    return [plain_target(prefix, f"text_model.encoder.layers.{path}", kind) for path, kind in paths.items()]


def unet_and_clip_targets(
    configs: Mapping[str, Mapping[str, Any]], original: bool, prefixes: Mapping[str, str]
) -> dict[str, list[Target]]:
    """Those of a model with these configs by part; `prefixes`: of its text encoders. The text encoders come first."""
    texts = {
        part: text_targets(configs[part]["num_hidden_layers"], prefix)
        for part, prefix in prefixes.items()
        if part in configs
    }
    return texts | {"unet": unet_targets(configs["unet"], original)}


def every_level(unet: Config) -> Config:
    """The same UNet with transformers on every level, which smaller ones may have."""
    levels = len(unet["block_out_channels"])
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * levels, "up_block_types": ("CrossAttnUpBlock2D",) * levels}
    return {**unet, **kinds}
