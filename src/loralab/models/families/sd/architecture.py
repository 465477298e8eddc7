"""The public architectures of 1.x and 2.x, as the configs that diffusers and transformers build them from."""

from __future__ import annotations

import json
from typing import Any

from loralab.models.row import Config
from loralab.models.text.tokens import VOCABULARY

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Of models that come without one, as single files do."""


def unet(**changes: Any) -> Config:
    return {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "layers_per_block": 2,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        **changes,
    }


def vae(**changes: Any) -> Config:
    return {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        **changes,
    }


def text(**changes: Any) -> Config:
    return {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": 768,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
        **changes,
    }


SD1 = {"unet": unet(), "text_encoder": text(), "vae": vae()}
SD2 = {
    "unet": unet(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True),
    # open_clip's 24 layers without the last, which these models never used
    "text_encoder": text(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        projection_dim=512,
    ),
    "vae": vae(),
}
TINY: Config = json.loads((VOCABULARY.parent / "tiny" / "unet" / "config.json").read_text(encoding="utf8"))
"""The UNet of the embedded miniature."""
