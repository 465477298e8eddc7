"""Models of the public architectures at full size, and what a training does with them."""

from __future__ import annotations

import torch
from torch import nn

from loralab.bench.ways import TINY
from loralab.diffusion.process import Epsilon
from loralab.memory.storages import norms_in_fp32
from loralab.models.families.sd.attention import Attention, set_attention
from loralab.models.families.sd.model import StableDiffusion
from loralab.models.families.sd.text import encoders
from loralab.models.families.sdxl.model import StableDiffusionXL
from loralab.models.family import Family
from loralab.models.load import DTYPES, Base, empty, prepare
from loralab.models.onednn import Kernels
from loralab.models.registry import FAMILIES

CAPTION = "a red star on a blue ground"


def full_size(shape: str, dtype: str, kernels: Kernels = "torch", attention: Attention = "sdpa") -> Family:
    """A family (sd1, sd2, sdxl) with its VAE in fp32 and weights as they are initialised, on torch's default device;
    within FakeTensorMode it takes no memory."""
    row, modules = FAMILIES[shape], {}
    torch.set_default_dtype(DTYPES[dtype])  # converted later, tensors would be counted twice
    try:
        for part in row.parts:
            modules[part] = empty(row, part, row.architecture[part]).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    modules["vae"] = empty(row, "vae", row.architecture["vae"]).eval()
    base = Base(row, "", modules, row.scheduler, Epsilon())
    prepare(base, kernels, False, None, dtype)
    set_attention(base, attention)
    tokenizer = str(TINY)  # affects no shape
    if row.encoder_layer:
        texts = encoders(base, tokenizer, 75, False, clip_skip=row.encoder_layer, final_norm=False)
        return StableDiffusionXL(base, texts, resolution=1024)
    return StableDiffusion(base, encoders(base, tokenizer, 75, False, clip_skip=1), resolution=512)


def train_step(family: Family, resolution: int, batch_size: int, precision: str) -> None:
    """Forward and backward from latents, as the training does them on a GPU."""
    noisy = torch.randn(batch_size, *family.latent_shape(resolution, resolution))
    timesteps = torch.full((batch_size,), 500)
    with norms_in_fp32():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            conditioning = family.encode_text([CAPTION] * batch_size)
            prediction = family.predict(noisy, timesteps, conditioning)
            loss = nn.functional.mse_loss(prediction, torch.randn_like(noisy))
        loss.backward()


def optimizer_bytes(elements: int, optimizer: str) -> int:
    """Bytes of the two moments that AdamW keeps of a tensor: floats, or bytes with a float per block of 256."""
    if optimizer == "adamw" or elements < 4096:
        return 8 * elements
    return 2 * (elements + 4 * -(-elements // 256))


def encode(family: Family, resolution: int) -> None:
    """One image into latents."""
    family.encode_image(torch.zeros(1, 3, resolution, resolution))


def decode(family: Family, resolution: int) -> None:
    """Latents into one image."""
    family.decode(torch.zeros(1, *family.latent_shape(resolution, resolution)))
