"""The original single-file layout: the names that a model's tensors have in it.

Reading is diffusers' own conversion; the tables are the way back, as other programs expect it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from loralab.models.checkpoint import Contents
from loralab.models.families.sd.names import ENDS, RESIDUAL_BLOCK, slots
from loralab.models.row import VAE_STARTS, Config, Row

if TYPE_CHECKING:
    from torch import Tensor

LATENTS = "model.diffusion_model.input_blocks.0.0.weight"
"""The tensor that reads latents."""

NORMS = {"norm1": "in_layers.0", "norm2": "out_layers.0"}

OPEN_CLIP_PIECES = (
    (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^final_layer_norm", "ln_final"),
    (r"^encoder\.layers", "transformer.resblocks"),
    (r"layer_norm([12])", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"self_attn\.in_proj\.", "attn.in_proj_"),
)


def unet_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Path of each place of a UNet → its original path; what is inside a transformer has the same name in both."""
    names = {**ENDS, "conv_norm_out": "out.0"}
    for slot in slots(config):
        if slot.role == "resnet":
            inside = {**NORMS, **RESIDUAL_BLOCK}
            names |= {f"{slot.path}.{module}": f"{slot.original}.{original}" for module, original in inside.items()}
        else:
            names[slot.path] = slot.original
    return names


def original_module(module: str, names: Mapping[str, str]) -> str:
    """The original path of a UNet's module, by the names of its longest known beginning."""
    start = module
    while start not in names:
        start, dot, _ = start.rpartition(".")
        assert dot, f"{module} is in no place of the UNet"
    return names[start] + module[len(start) :]


def replaced(name: str, pieces: tuple[tuple[str, str], ...]) -> str:
    """A name with each of the pieces, patterns and what stands for them, replaced."""
    for pattern, replacement in pieces:
        name = re.sub(pattern, replacement, name)
    return name


def is_open_clip(row: Row, part: str) -> bool:
    """Whether a text encoder is open_clip's, not CLIP's own; files then have open_clip's names."""
    return not row.file_parts[part].endswith(".text_model.")


def key_of(row: Row, part: str, path: str, config: Config) -> tuple[str, int | None]:
    """The name of a module's weight; and which third of it, as open_clip keeps queries, keys and values in one."""
    prefix = row.file_parts[part]
    if part == row.denoiser:
        return f"{prefix}{original_module(path, unet_names(config))}.weight", None
    name = f"{path.removeprefix('text_model.')}.weight"
    if not is_open_clip(row, part):
        return prefix + name, None
    third = next((i for i, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
    fused = name if third is None else name.replace(f".{'qkv'[third]}_proj.", ".in_proj.")
    return prefix + replaced(fused, OPEN_CLIP_PIECES), third


def tensors_of(row: Row, part: str, state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """A part's tensors under the names of its class in diffusers or transformers."""
    from diffusers.loaders import single_file_utils

    if part == row.denoiser:
        return single_file_utils.convert_ldm_unet_checkpoint(state, config)
    prefix = row.file_parts[part]
    if part != "vae" and is_open_clip(row, part):
        model: Any = SimpleNamespace(config=SimpleNamespace(**config))
        return single_file_utils.convert_open_clip_checkpoint(model, state, prefix)
    if part == "vae":
        return {name: tensor for name, tensor in state.items() if name.startswith((prefix, *VAE_STARTS))}
    prefix = prefix.removesuffix("text_model.")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def foreign(inside: Contents, channels: tuple[int, ...] = (4,)) -> tuple[str, str] | None:
    """What a file is that looks like a model and is none, and what to do. channels: how many its latents may have."""
    reads = _size(inside, LATENTS, 1, channels[0])
    return _foreign(reads, _size(inside, "model.diffusion_model.out.2.weight", 0, channels[0]), channels)


def _size(inside: Contents, name: str, axis: int, usual: int) -> int:
    """That of a convolution along an axis; the usual one where the index of the file does not show it."""
    shape = inside.shapes.get(name, ())
    return shape[axis] if len(shape) == 4 else usual


def foreign_folder(config: Config, channels: tuple[int, ...] = (4,)) -> tuple[str, str] | None:
    """The same of a UNet's config."""
    return _foreign(config.get("in_channels", channels[0]), config.get("out_channels", channels[0]), channels)


def _foreign(reads: int, predicts: int, channels: tuple[int, ...]) -> tuple[str, str] | None:
    if reads != predicts:
        return "an inpainting or editing model, which has other inputs", "use the plain text-to-image model"
    if reads not in channels:
        valid = " or ".join(map(str, channels))
        return f"a model of {reads} latent channels, which is not supported", f"use one of {valid} channels"
    return None
