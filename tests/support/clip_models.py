"""Scorers of random weights: CLIP and SigLIP folders as transformers writes them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.support.base_models import write_tokenizer

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP folder."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    size = write_tokenizer(folder)
    text = CLIPTextConfig(**TOWER, vocab_size=size, bos_token_id=size - 2, eos_token_id=size - 1, projection_dim=16)
    vision = CLIPVisionConfig(**VISION, projection_dim=16)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    return _write(folder, CLIPModel, config, seed)


def write_siglip(folder: Path, seed: int = 0) -> Path:
    """A SigLIP folder; its tokenizer is that of CLIP, to which its model does not object."""
    from transformers import SiglipConfig, SiglipModel

    size = write_tokenizer(folder)
    text = {**TOWER, "vocab_size": size, "max_position_embeddings": 24, "projection_size": 32}
    return _write(folder, SiglipModel, SiglipConfig(text_config=text, vision_config=VISION), seed)


def _write(folder: Path, kind: type, config: object, seed: int) -> Path:
    from transformers import CLIPImageProcessorPil

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**sides).save_pretrained(folder)
    return folder
