"""The public architecture, as the configs that diffusers and transformers build it from, and a miniature of it."""

from __future__ import annotations

from typing import Any

from loralab.models.row import Config

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
"""Of models that come without one, as single files do."""


def transformer(**changes: Any) -> Config:
    """That of Cosmos-Predict2-2B-Text2Image (arXiv 2501.03575)."""
    return {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 16,
        "attention_head_dim": 128,
        "num_layers": 28,
        "mlp_ratio": 4.0,
        "text_embed_dim": 1024,
        "adaln_lora_dim": 256,
        "max_size": (128, 240, 240),
        "patch_size": (1, 2, 2),
        "rope_scale": (1.0, 4.0, 4.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
        **changes,
    }


def conditioner(**changes: Any) -> Config:
    return {
        "source_dim": 1024,
        "target_dim": 1024,
        "model_dim": 1024,
        "num_layers": 6,
        "num_attention_heads": 16,
        "target_vocab_size": 32128,
        **changes,
    }


def text(**changes: Any) -> Config:
    """Qwen3-0.6B."""
    return {
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        **changes,
    }


def vae(**changes: Any) -> Config:
    """That of Qwen-Image."""
    return {"_class_name": "AutoencoderKLQwenImage", "base_dim": 96, "z_dim": 16, **changes}


ANIMA = {"transformer": transformer(), "text_encoder": text(), "text_conditioner": conditioner(), "vae": vae()}

MINIATURE = {
    "transformer": transformer(
        num_attention_heads=2, attention_head_dim=16, num_layers=3, text_embed_dim=32, adaln_lora_dim=8
    ),
    "text_encoder": text(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "text_conditioner": conditioner(
        source_dim=32, target_dim=32, model_dim=32, num_layers=2, num_attention_heads=2, target_vocab_size=259
    ),
    "vae": vae(base_dim=8),
}
"""Its structure at a hundredth of its width; a byte is a token."""
