"""The other half of the tiny Stable Diffusion: a CLIP text encoder and a UNet that predicts noise."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from scripts.tiny_model.denoiser import BATCH, Denoiser

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
WIDTH = 128
"""Features of a text token."""
SHORT, LONG = 16, 77
"""Tokens of a caption: few while most is learned, CLIP's number at the end."""
SHORT_SHARE = 0.88
SNR_CAP = 5.0


class Diffusion(Denoiser):
    """Fresh networks. Eager attention: on a CPU, scaled_dot_product_attention's backward is slow in bf16."""

    peak_lr = 1.2e-3

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LONG,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
        self.tokenizer = tokenizer
        self.text_encoder = CLIPTextModel(config)
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(64, 128),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,  # diffusers' name for the number of heads
        )
        self.unet.set_attn_processor(AttnProcessor())
        self.noising = DDPMScheduler(**SCHEDULE)
        self._start_well()

    def _start_well(self) -> None:
        """Words far apart from the first step on, and residual blocks that begin as the identity."""
        nn.init.normal_(self.text_encoder.get_input_embeddings().weight, std=0.5)
        for name, module in self.unet.named_modules():
            if name.endswith("conv2") or name == "conv_out":
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def timesteps(self, rng: np.random.Generator) -> Tensor:
        """(B,): 60 % of them where the shape is decided."""
        everywhere, middle = rng.integers(0, 1000, BATCH), rng.integers(300, 950, BATCH)
        return torch.from_numpy(np.where(rng.random(BATCH) < 0.6, middle, everywhere))

    def loss(self, latents: Tensor, captions: list[str], timesteps: Tensor, done: float = 0.0) -> Tensor:
        """Error of the predicted noise, weighted by min(SNR, 5) / SNR (Hang et al. 2023, arXiv:2303.09556)."""
        length = SHORT if done < SHORT_SHARE else LONG
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        noise = torch.randn_like(latents)
        noisy = self.noising.add_noise(latents, noise, timesteps)
        with torch.autocast(latents.device.type, torch.bfloat16):
            hidden = self.text_encoder(tokens.to(latents.device)).last_hidden_state
            predicted = self.unet(noisy, timesteps, hidden).sample
        kept = self.noising.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = kept / (1 - kept)
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        return (error * snr.clamp(max=SNR_CAP) / snr).mean()
