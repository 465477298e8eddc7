"""Whole models in the original single-file layout, as other programs write them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from loralab.diffusion.process import Velocity
from loralab.models.families.sd.original import (
    OPEN_CLIP_PIECES,
    is_open_clip,
    original_module,
    replaced,
    unet_names,
)
from loralab.models.family import Family
from loralab.models.registry import FAMILIES

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


def save_single_file(family: Family, path: Path, dtype: torch.dtype) -> None:
    """Writes the whole model as one .safetensors file in the original layout, marks of v-prediction included."""
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in original_state(family)}
    marks = {"v_pred": isinstance(family.process, Velocity), "ztsnr": family.process.zero_terminal_snr}
    state |= {name: torch.tensor([]) for name, marked in marks.items() if marked}
    save_file(state, path, metadata={"format": "pt"})


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
    row = FAMILIES[family.name]
    for part in row.text_encoders:
        prefix = row.file_parts[part]
        state = {name.removeprefix("text_model."): t for name, t in family.text_encoders[part].state_dict().items()}
        renamed = dict(open_clip_state(state)) if is_open_clip(row, part) else state
        yield from ((prefix + name, tensor) for name, tensor in renamed.items())


def open_clip_state(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A CLIP text model's tensors as open_clip has them: queries, keys and values in one matrix."""
    for name, tensor in state.items():
        if name == "text_projection.weight":
            yield "text_projection", tensor.T
        elif ".q_proj." in name:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            yield replaced(name.replace(".q_proj.", ".in_proj."), OPEN_CLIP_PIECES), torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield replaced(name, OPEN_CLIP_PIECES), tensor


def vae_name(name: str, levels: int) -> str:
    """The original name of a VAE's tensor. Its decoder counts levels from the picture's side."""
    name = re.sub(r"up_blocks\.(\d+)", lambda level: f"up_blocks.{levels - 1 - int(level[1])}", name)
    return replaced(name, VAE_PIECES)
