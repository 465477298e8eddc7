"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import Any, Literal

from loralab.models.family import Base, joined
from loralab.models.unet import UNetFamily
from loralab.schema.ranges import AtLeastOne, Pixels
from loralab.types import Batch, Conditioning


class StableDiffusion(UNetFamily):
    """One text encoder. 2.x differs from 1.x by values only."""

    def __init__(self, base: Base, name: str, **settings: Any) -> None:
        self.name = name
        super().__init__(base, **settings)

    def encode_text(
        self, captions: list[str], batch: Batch | None = None, size: tuple[int, int] | None = None
    ) -> Conditioning:
        cached = batch.text if batch is not None else None
        text = joined(cached) if cached is not None else self.encoders["text_encoder"](captions)
        return Conditioning(text.hidden.to(self.device))


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
    gradient_checkpointing: bool = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    quantize: Literal["nf4", "int8"] | None = None,
) -> StableDiffusion:
    """A Stable Diffusion 1.x (`sd1`) or 2.x (`sd2`) model from a diffusers folder, a Hub id, or a single file.

    `prediction_type` and `zero_terminal_snr`: None takes what the base declares. `clip_skip` counts layers from
    the end, 1 being the last. `dtype` is of the UNet and the text encoder; the VAE stays in fp32.
    Raises UserError where the base is missing, damaged, or of another family.
    """
    from loralab.models.load import encoders, load_base, prepare

    loaded = load_base(base, family, vae, tokenizer, prediction_type, zero_terminal_snr, dtype)
    prepare(loaded, attention, gradient_checkpointing, quantize, dtype)
    texts = encoders(loaded, max_token_length, emphasis, clip_skip=clip_skip)
    return StableDiffusion(loaded, family, encoders=texts, resolution=resolution)
