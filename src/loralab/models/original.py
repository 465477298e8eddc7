"""The original single-file layout: the names that a model's tensors have in it, and writing one.

Reading is diffusers' own conversion (see load); this is the way back, as other programs expect it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loralab.diffusion.process import Velocity
from loralab.models.family import Family
from loralab.models.names import ENDS, RESIDUAL_BLOCK, slots
from loralab.models.registry import FAMILIES
from loralab.writing import atomic_path

NORMS = {"norm1": "in_layers.0", "norm2": "out_layers.0"}

VAE_PIECES = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"group_norm", "norm"),
    (r"to_(q|k|v)\.", r"\1."),
    (r"to_out\.0", "proj_out"),
)

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


def save_single_file(family: Family, path: Path, dtype: torch.dtype) -> None:
    """Writes the whole model as one .safetensors file in the original layout, marks of v-prediction included."""
    from safetensors.torch import save_file

    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in original_state(family)}
    marks = {"v_pred": isinstance(family.process, Velocity), "ztsnr": family.process.zero_terminal_snr}
    state |= {name: torch.tensor([]) for name, marked in marks.items() if marked}
    with atomic_path(path, "path") as beside:
        save_file(state, beside, metadata={"format": "pt"})


def original_state(family: Family) -> Iterator[tuple[str, Tensor]]:
    """The model's tensors under their original names."""
    names = unet_names(family.denoiser.config)
    for name, tensor in family.denoiser.state_dict().items():
        module, _, kind = name.rpartition(".")
        yield f"model.diffusion_model.{original_module(module, names)}.{kind}", tensor
    levels = len(family.vae.config.block_out_channels)
    for name, tensor in family.vae.state_dict().items():
        attention = ".attentions." in name and tensor.dim() == 2  # the original has 1×1 convolutions there
        yield f"first_stage_model.{vae_name(name, levels)}", tensor[:, :, None, None] if attention else tensor
    for part, prefix in FAMILIES[family.name].file_text.items():
        state = {name.removeprefix("text_model."): t for name, t in family.text_encoders[part].state_dict().items()}
        renamed = state if "transformer" in prefix else dict(open_clip_state(state))
        yield from ((prefix + name, tensor) for name, tensor in renamed.items())


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


def vae_name(name: str, levels: int) -> str:
    """The original name of a VAE's tensor. Its decoder counts levels from the picture's side."""
    name = re.sub(r"up_blocks\.(\d+)", lambda level: f"up_blocks.{levels - 1 - int(level[1])}", name)
    return _replaced(name, VAE_PIECES)


def open_clip_state(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A CLIP text model's tensors as open_clip has them: queries, keys and values in one matrix."""
    for name, tensor in state.items():
        if name == "text_projection.weight":
            yield "text_projection", tensor.T
        elif ".q_proj." in name:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            yield _replaced(name.replace(".q_proj.", ".in_proj."), OPEN_CLIP_PIECES), torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield _replaced(name, OPEN_CLIP_PIECES), tensor


def _replaced(name: str, pieces: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in pieces:
        name = re.sub(pattern, replacement, name)
    return name


def text_name(family: str, part: str, name: str) -> tuple[str, int | None]:
    """The original name of a text encoder's tensor, given without `text_model.`.

    open_clip (without `transformer` in front) keeps queries, keys and values in one matrix: also which third of it.
    """
    prefix = FAMILIES[family].file_text[part]
    if "transformer" in prefix:
        return prefix + name, None
    third = next((i for i, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
    fused = name if third is None else name.replace(f".{'qkv'[third]}_proj.", ".in_proj.")
    return prefix + _replaced(fused, OPEN_CLIP_PIECES), third
