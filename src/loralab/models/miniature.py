"""A miniature SDXL of random weights: runs every step of SDXL training offline, in seconds; it draws only noise."""

from __future__ import annotations

from typing import Any, Literal

import torch

from loralab.diffusion.process import PROCESSES
from loralab.models.architecture import MINIATURE_SDXL
from loralab.models.family import Base
from loralab.models.load import DTYPES, SCHEDULER, build, encoders, load_tokenizers, prepare, text_class
from loralab.models.sdxl import StableDiffusionXL
from loralab.schema.ranges import Count, Pixels


def sdxl(
    tokenizer: str,
    *,
    seed: Count = 0,
    max_token_length: Literal[75, 150, 225] = 75,
    emphasis: bool = False,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    zero_terminal_snr: bool = False,
    resolution: Pixels = 64,
    gradient_checkpointing: bool = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> StableDiffusionXL:
    """The miniature with weights drawn from `seed`, for any CLIP tokenizer; see `loralab.models.sdxl.load`."""
    tokenizers = load_tokenizers(tokenizer, MINIATURE_SDXL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = Base(
            path=f"miniature-sdxl-{seed}",
            tokenizers=tokenizers,
            scheduler=SCHEDULER,
            process=PROCESSES[prediction_type](zero_terminal_snr),
            **_random_parts(tokenizers, DTYPES[dtype]),
        )
    prepare(base, attention, gradient_checkpointing, None, dtype)
    texts = encoders(base, max_token_length, emphasis, clip_skip=2, final_norm=False)
    return StableDiffusionXL(base, encoders=texts, resolution=resolution)


def _random_parts(tokenizers: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    texts = {}
    for part, config in MINIATURE_SDXL.text_encoders.items():
        known, cls = tokenizers[part], text_class(part)
        ids = {"vocab_size": len(known), "bos_token_id": known.bos_token_id, "eos_token_id": known.eos_token_id}
        settings = {**config, **ids, "pad_token_id": known.pad_token_id}
        texts[part] = build(cls, settings, cls(cls.config_class(**settings)).state_dict(), dtype, "model")
    unet, vae = UNet2DConditionModel(**MINIATURE_SDXL.unet), AutoencoderKL(**MINIATURE_SDXL.vae)
    return {
        "denoiser": build(UNet2DConditionModel, MINIATURE_SDXL.unet, unet.state_dict(), dtype, "model"),
        "vae": vae.eval(),
        "text_encoders": texts,
    }
