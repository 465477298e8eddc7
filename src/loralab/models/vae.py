"""The classes of VAEs, and what differs between them beside the scale of their latents (see scaling).

Those of videos have an axis of frames between channels and rows; an image is one frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loralab.models.row import VAE_STARTS

CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderKLQwenImage")
"""Of diffusers, the usual first."""
TILE = 512
"""Pixels along the side of a tile, where an image is decoded in several."""


def vae_class(config: Mapping[str, Any]) -> str:
    """The dotted name of the class of a VAE with this config."""
    name = config.get("_class_name")
    return f"diffusers.{name if name in CLASSES else CLASSES[0]}"


def encode(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, C, h, w) of the posterior of images (B, 3, H, W)."""
    posterior = vae.encode(images.unsqueeze(2) if _has_frames(vae) else images).latent_dist
    mean, std = posterior.mean, posterior.std
    return (mean.squeeze(2), std.squeeze(2)) if _has_frames(vae) else (mean, std)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images (B, 3, H, W) of unscaled latents (B, C, h, w)."""
    return _decoded(vae, vae.decode, latents)


def decode_in_tiles(vae: Any, latents: Tensor) -> Tensor:
    """The same in little memory: in overlapping tiles of 512 pixels."""
    if _has_frames(vae):
        vae.tile_sample_min_height = vae.tile_sample_min_width = TILE
        vae.tile_sample_stride_height = vae.tile_sample_stride_width = TILE * 3 // 4
    else:
        vae.tile_latent_min_size, vae.tile_sample_min_size = TILE // 8, TILE
    return _decoded(vae, vae.tiled_decode, latents)


def _decoded(vae: Any, way: Any, latents: Tensor) -> Tensor:
    if _has_frames(vae):
        return way(latents.unsqueeze(2), return_dict=False)[0].squeeze(2)
    return way(latents, return_dict=False)[0]


def _has_frames(vae: Any) -> bool:
    return "temperal_downsample" in vae.config


_OLD_VAE_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_INNER_CONVS = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
"""Of AutoencoderKLFlux2 in the original layout."""


def diffusers_vae(state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A VAE's weights under diffusers' present names, from its earlier ones or the original layout."""
    start = next((start for start in VAE_STARTS if any(name.startswith(start) for name in state)), "")
    state = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
    statistics = {name: tensor for name, tensor in state.items() if name.startswith("bn.")}
    if statistics:
        statistics.setdefault("bn.num_batches_tracked", torch.tensor(0))
    if "decoder.conv1.weight" in state:  # that of Wan and Qwen-Image
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

        return convert_wan_vae_to_diffusers(state)
    if any(".down_blocks." in name for name in state):
        return {_replaced(name, _OLD_VAE_NAMES): tensor for name, tensor in state.items()} | statistics
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    state = {_replaced(name, _INNER_CONVS): tensor for name, tensor in state.items()}
    return convert_ldm_vae_checkpoint(state, config) | statistics


def _replaced(name: str, pieces: Mapping[str, str]) -> str:
    for old, new in pieces.items():
        name = name.replace(old, new)
    return name
