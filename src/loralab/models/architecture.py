"""The public architectures, as the configs that diffusers and transformers build them from.

For single files, which hold weights and no config; and for random miniatures. SD 1.x: arXiv 2112.10752; SDXL:
arXiv 2307.01952.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]

VOCABULARY = Path(__file__).parents[1] / "assets" / "clip"
"""CLIP's tokenizer, which all these models use; for models that come without one, such as single files."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Configs of a model's parts."""

    unet: Config
    vae: Config
    text_encoders: dict[str, Config]
    """By part."""
    pads: dict[str, str]
    """By part: the token that fills up a prompt."""


def _unet(**changes: Any) -> Config:
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


def _vae(**changes: Any) -> Config:
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


def _text(**changes: Any) -> Config:
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


_END, _ZERO = "<|endoftext|>", "!"

SD1 = Architecture(
    unet=_unet(),
    vae=_vae(),
    text_encoders={"text_encoder": _text()},
    pads={"text_encoder": _END},
)

SD2 = Architecture(
    unet=_unet(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True),
    vae=_vae(),
    text_encoders={
        # open_clip's 24 layers without the last, which these models never used
        "text_encoder": _text(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
            projection_dim=512,
        )
    },
    pads={"text_encoder": _ZERO},
)

SDXL = Architecture(
    unet=_unet(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    vae=_vae(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
    text_encoders={
        "text_encoder": _text(),
        "text_encoder_2": _text(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            hidden_act="gelu",
            projection_dim=1280,
        ),
    },
    pads={"text_encoder": _END, "text_encoder_2": _ZERO},
)

MINIATURE_SDXL = Architecture(
    unet=_unet(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=80,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=96,  # 48 of the pooled text + 6 · 8 of size and crop
    ),
    vae=_vae(block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8, sample_size=64),
    text_encoders={
        "text_encoder": _text(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2),
        "text_encoder_2": _text(
            hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, projection_dim=48
        ),
    },
    pads=SDXL.pads,
)
"""SDXL's structure at a hundredth of its width."""

TINY: Config = json.loads((VOCABULARY.parent / "tiny" / "unet" / "config.json").read_text(encoding="utf8"))
"""The UNet of the embedded miniature."""
