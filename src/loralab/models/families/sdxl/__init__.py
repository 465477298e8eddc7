"""Stable Diffusion XL (arXiv 2307.01952): a UNet that reads two text encoders, the image's size and its crop."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from loralab.models.checkpoint import Contents
from loralab.models.families.sd import SD1, original
from loralab.models.families.sd.names import unet_and_clip_targets
from loralab.models.families.sdxl.architecture import MINIATURE, SDXL, VAES, of_file, with_channels
from loralab.models.frozen import DType, Offload, Quantize
from loralab.models.row import Blocks, Part, register
from loralab.schema.ranges import AtLeastOne, Count, Pixels, Positive, Real

if TYPE_CHECKING:
    from loralab.models.families.sdxl.model import StableDiffusionXL

CHANNELS = tuple(VAES)
REFINER = "conditioner.embedders.0.model."
"""How names begin that only a single file of the refiner has."""


def _foreign(inside: Contents) -> tuple[str, str] | None:
    refiner = any(name.startswith(REFINER) for name in inside.names)
    return ("an SDXL refiner", "use the SDXL base model") if refiner else original.foreign(inside, CHANNELS)


_SDXL = replace(
    SD1,
    name="sdxl",
    title="SDXL",
    short="SDXL",
    options=("sdxl", "sdxl_flow"),
    loader="loralab.models.families.sdxl.load",
    parts={
        "unet": SD1.parts["unet"],
        "text_encoder": Part("lora_te1", "text encoder", "transformers.CLIPTextModel"),
        "text_encoder_2": Part("lora_te2", "second text encoder", "transformers.CLIPTextModelWithProjection"),
    },
    targets=partial(
        unet_and_clip_targets, original=True, prefixes={"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    ),
    architecture=SDXL,
    public=None,
    predictions=(*SD1.predictions, "flow"),
    bucket_step=32,  # its UNet halves latents twice
    encoder_layer=2,
    blocks=Blocks(1, 9, 3, 9, 1),
    miniatures=(),
    config={"addition_embed_type": "text_time"},
    file_parts={
        "unet": "model.diffusion_model.",
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
        "vae": "first_stage_model.",
    },
    file_has=("conditioner.embedders.1.", "model.diffusion_model.label_emb."),
    file_foreign=_foreign,
    folder_foreign=partial(original.foreign_folder, channels=CHANNELS),
    flow_channels=CHANNELS[1:],  # as all public ones do
    file_config=of_file,
    # more than one block in a transformer, too
    adapter_has=r"^lora_te[12]_|^text_encoder_2\.|^lora_unet_(input|output|middle)_"
    r"|(attentions|blocks[._]\d+)[._]\d+[._]transformer_blocks[._][1-9]",
    context=2048,
    versions=dict.fromkeys(("epsilon", "v_prediction", "flow"), "sdxl_base_v1-0"),
    version_starts="sdxl",
    architectures=dict.fromkeys(("epsilon", "v_prediction", "flow"), "stable-diffusion-xl-v1-base"),
    flag="sdxl",
)
_MINIATURE = replace(
    _SDXL,
    name="tiny_sdxl",
    title="the miniature of SDXL",
    options=("tiny_sdxl", "tiny_sdxl_flow"),
    loader="loralab.models.families.sdxl.miniature",
    architecture=MINIATURE,
    bucket_step=8,
    context=MINIATURE["unet"]["cross_attention_dim"],
)
register(replace(_SDXL, miniatures=(_MINIATURE,)))


def load(
    base: str,
    *,
    vae: str | None = None,
    tokenizer: str | None = None,
    max_token_length: Literal[75, 150, 225] = 75,
    emphasis: bool = False,
    prediction_type: Literal["epsilon", "v_prediction", "flow"] | None = None,
    zero_terminal_snr: bool | None = None,
    flow_shift: Positive | None = None,
    latent_scale: Positive | None = None,
    latent_shift: Real | None = None,
    resolution: Pixels = 1024,
    gradient_checkpointing: bool | AtLeastOne = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    kernels: Literal["auto", "torch"] = "auto",
    dtype: DType = "auto",
    offload: Offload = 0,
    quantize: Quantize | None = None,
) -> StableDiffusionXL:
    """An SDXL model from a diffusers folder, a Hub id, or a single file; see `loralab.models.families.sd.load`.

    Both text encoders give the states of their last layer but one, without the final norm. In a single file the empty
    keys `v_pred` and `ztsnr` decide where `prediction_type` and `zero_terminal_snr` are None; one of 16 or 32 latent
    channels predicts a flow. `flow_shift` is of the sigmas that a flow's pictures are sampled at; `latent_scale` and
    `latent_shift` take the place of the VAE's own: (latents − shift)·scale.
    """
    from loralab.models.families.sd.attention import set_attention
    from loralab.models.families.sd.model import follow_flow
    from loralab.models.families.sd.text import encoders
    from loralab.models.families.sdxl.model import StableDiffusionXL
    from loralab.models.load import load_base, prepare
    from loralab.models.scaling import rescale

    loaded = load_base("sdxl", base, vae, prediction_type, zero_terminal_snr, dtype)
    follow_flow(loaded, flow_shift)
    rescale(loaded.vae, latent_scale, latent_shift)
    texts = encoders(loaded, tokenizer, max_token_length, emphasis, clip_skip=2, final_norm=False)
    prepare(loaded, kernels, gradient_checkpointing, quantize, dtype, offload)
    set_attention(loaded, attention)
    return StableDiffusionXL(loaded, texts, resolution)


def miniature(
    tokenizer: str,
    *,
    seed: Count = 0,
    max_token_length: Literal[75, 150, 225] = 75,
    emphasis: bool = False,
    prediction_type: Literal["epsilon", "v_prediction", "flow"] = "epsilon",
    zero_terminal_snr: bool = False,
    flow_shift: Positive | None = None,
    latent_channels: Literal[4, 16, 32] = 4,
    resolution: Pixels = 64,
    gradient_checkpointing: bool | AtLeastOne = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    kernels: Literal["auto", "torch"] = "auto",
    dtype: DType = "auto",
    offload: Offload = 0,
) -> StableDiffusionXL:
    """A miniature with weights drawn from `seed`, for any CLIP tokenizer: runs every step of SDXL training offline, in
    seconds; it draws only noise. See `load`."""
    from loralab.diffusion.process import process
    from loralab.models.families.sd.attention import set_attention
    from loralab.models.families.sd.model import follow_flow
    from loralab.models.families.sd.text import encoders, load_tokenizers
    from loralab.models.families.sdxl.model import StableDiffusionXL
    from loralab.models.load import prepare, random_base
    from loralab.models.scaling import draw_statistics

    configs = with_channels(latent_channels, MINIATURE)
    for part, known in load_tokenizers(_SDXL, tokenizer).items():
        ids = {f"{name}_token_id": getattr(known, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        configs[part] = {**configs[part], "vocab_size": len(known), **ids}
    goes = process(prediction_type, zero_terminal_snr)
    loaded = random_base(_SDXL, f"miniature-sdxl-{seed}", seed, configs, goes, dtype)
    follow_flow(loaded, flow_shift)
    draw_statistics(loaded.vae, seed)
    texts = encoders(loaded, tokenizer, max_token_length, emphasis, clip_skip=2, final_norm=False)
    prepare(loaded, kernels, gradient_checkpointing, None, dtype, offload)
    set_attention(loaded, attention)
    return StableDiffusionXL(loaded, texts, resolution)
