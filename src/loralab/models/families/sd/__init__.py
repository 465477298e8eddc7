"""Stable Diffusion 1.x and 2.x (arXiv 2112.10752): a UNet that reads the states of a CLIP text encoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from loralab.models.families.sd import original
from loralab.models.families.sd.architecture import SCHEDULER, SD1, SD2, TINY
from loralab.models.families.sd.names import every_level, unet_and_clip_targets
from loralab.models.frozen import DType, Offload, Quantize
from loralab.models.row import Blocks, Part, Row, register
from loralab.models.text.tokens import clip
from loralab.schema.ranges import AtLeastOne, Pixels

if TYPE_CHECKING:
    from loralab.models.families.sd.model import StableDiffusion

SD1 = Row(
    name="sd1",
    title="Stable Diffusion 1.x",
    short="SD 1.x",
    options=("sd15",),
    loader="loralab.models.families.sd.load",
    parts={
        "unet": Part("lora_unet", "UNet", "diffusers.UNet2DConditionModel"),
        "text_encoder": Part("lora_te", "text encoder", "transformers.CLIPTextModel"),
    },
    targets=partial(unet_and_clip_targets, original=False, prefixes={"text_encoder": "lora_te"}),
    architecture=SD1,
    measure=clip,
    # the names say nothing about widths: SD 1.x and 2.x in one, and smaller ones
    public={"unet": every_level(SD1["unet"]), "text_encoder": {"num_hidden_layers": 24}},
    scheduler=SCHEDULER,
    blocks=Blocks(0, 12, 1, 12, 0),
    file_parts={
        "unet": "model.diffusion_model.",
        "text_encoder": "cond_stage_model.transformer.text_model.",
        "vae": "first_stage_model.",
    },
    file_has=("cond_stage_model.transformer.",),
    file_context="model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    file_foreign=original.foreign,
    folder_foreign=original.foreign_folder,
    file_latents=original.LATENTS,
    file_tensors=original.tensors_of,
    file_key=original.key_of,
    context=768,
    versions={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
    version_starts="sd_v1",
    architectures={"epsilon": "stable-diffusion-v1", "v_prediction": "stable-diffusion-v1"},
)
_TINY = replace(SD1, name="tiny", title="the embedded demo model", loader="", context=TINY["cross_attention_dim"])
register(replace(SD1, miniatures=(_TINY,)))
register(
    replace(
        SD1,
        name="sd2",
        title="Stable Diffusion 2.x",
        short="SD 2.x",
        options=("sd2", "sd2_v"),
        architecture=SD2,
        config={"cross_attention_dim": 1024},
        file_parts={**SD1.file_parts, "text_encoder": "cond_stage_model.model."},
        file_has=("cond_stage_model.model.",),
        context=1024,
        versions={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
        version_starts="sd_v2",
        architectures={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
        flag="v2",
    )
)


def load(
    base: str,
    *,
    family: Literal["sd1", "sd2"] = "sd1",
    vae: str | None = None,
    tokenizer: str | None = None,
    clip_skip: AtLeastOne = 1,
    max_token_length: Literal[75, 150, 225] = 75,
    emphasis: bool = False,
    prediction_type: Literal["epsilon", "v_prediction"] | None = None,
    zero_terminal_snr: bool | None = None,
    resolution: Pixels = 512,
    gradient_checkpointing: bool | AtLeastOne = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    kernels: Literal["auto", "torch"] = "auto",
    dtype: DType = "auto",
    offload: Offload = 0,
    quantize: Quantize | None = None,
) -> StableDiffusion:
    """A Stable Diffusion 1.x (`sd1`) or 2.x (`sd2`) model from a diffusers folder, a Hub id, or a single file.

    `prediction_type` and `zero_terminal_snr`: None takes what the base declares. `clip_skip` counts layers from
    the end, 1 being the last. `dtype` is of the UNet and the text encoder; the VAE stays in fp32.
    Raises UserError where the base is missing, damaged, or of another family.
    """
    from loralab.models.families.sd.attention import set_attention
    from loralab.models.families.sd.model import StableDiffusion
    from loralab.models.families.sd.text import encoders
    from loralab.models.load import load_base, prepare

    loaded = load_base(family, base, vae, prediction_type, zero_terminal_snr, dtype)
    texts = encoders(loaded, tokenizer, max_token_length, emphasis, clip_skip)
    prepare(loaded, kernels, gradient_checkpointing, quantize, dtype, offload)
    set_attention(loaded, attention)
    return StableDiffusion(loaded, texts, resolution)
