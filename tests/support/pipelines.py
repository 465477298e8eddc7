"""The diffusers pipeline of a loaded family, which shares its modules."""

from __future__ import annotations

from typing import Any

from loralab.models.family import Family


def pipeline_of(family: Family) -> Any:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    tokenizers = {part.replace("text_encoder", "tokenizer"): known.tokenizer for part, known in family.encoders.items()}
    parts = {"unet": family.denoiser, "vae": family.vae, **family.text_encoders, **tokenizers}
    if family.name == "sdxl":
        return StableDiffusionXLPipeline(**parts, scheduler=family.scheduler(), add_watermarker=False)
    others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, scheduler=family.scheduler(), **others)
