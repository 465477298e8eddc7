"""The picture half: an autoencoder from 64 px to 8×8 latents that are white after SD's scaling factor."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

SCALING_FACTOR = 0.18215
KL_WEIGHT = 2e-5
"""Per latent, against the mean squared error per pixel channel: enough to keep the latents smooth."""

Paint = Callable[[int], Tensor]
"""A number of pictures (B, 3, H, W) in [-1, 1]."""


def build() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        scaling_factor=SCALING_FACTOR,
        sample_size=64,
    )
    vae.set_attn_processor(AttnProcessor())
    # Little noise in the latents at first, else they stay dumb for hundreds of steps
    torch.nn.init.constant_(vae.quant_conv.bias.data[4:], -5.0)
    return vae


def train(
    vae: AutoencoderKL,
    peak_lr: float,
    paint: Paint,
    steps: int,
    rng: np.random.Generator,
    log: Callable[..., None],
    noise: float = 1.0,
) -> None:
    """What does not require gradients stays. Half of the steps see whole pictures, half see 32 px crops of more.

    `noise` is the share of the posterior's spread that the decoder has to bear.
    """
    parameters = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, steps, pct_start=0.05)
    device = vae.device
    for step in track(range(steps), "autoencoder"):
        pixels = (_crops(paint(48), rng) if step % 2 else paint(12)).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            latents = posterior.mean + noise * posterior.std * torch.randn_like(posterior.std)
            restored = vae.decode(latents).sample
        error = F.mse_loss(restored.float(), pixels)
        loss = error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log(step=step, db=-10 * math.log10(error.item() / 4), std=posterior.std.mean().item())


def polish(vae: AutoencoderKL, paint: Paint, steps: int, rng: np.random.Generator, log: Callable[..., None]) -> None:
    """Trains the decoder alone, on the sharper latents it will see; what the latents mean stays as it is."""
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    train(vae, 1e-3, paint, steps, rng, log, noise=0.3)


def _crops(pixels: Tensor, rng: np.random.Generator, side: int = 32) -> Tensor:
    """One window for all: the jitter of the shapes makes it see every edge."""
    *_, height, width = pixels.shape
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return pixels[..., top : top + side, left : left + side]


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Mean and std (N, 4, h, w) of the posterior, unscaled."""
    posteriors = [vae.encode(part.to(vae.device, vae.dtype)).latent_dist for part in pixels.split(batch)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


@torch.no_grad()
def whiten(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold a change of latent basis into the 1×1 convolutions around the latents; decoded pictures stay the same.

    With latents z of mean μ and covariance Σ, the new ones are Σ^(-½)(z − μ) / 0.18215: white once scaled. The
    posterior keeps its average spread, as one number per channel.
    """
    mean, std = encode(vae, pixels)
    flat = (mean + std * torch.randn_like(std)).movedim(1, -1).flatten(0, -2)  # (N·h·w, 4)
    centre = flat.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(flat.T))
    forward = axes @ torch.diag(variances.rsqrt()) @ axes.T / SCALING_FACTOR
    noise = forward.square() @ std.square().mean((0, 2, 3))

    into, out_of = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] = torch.einsum("ij,jkhw->ikhw", forward, into.weight[:4])
    into.bias[:4] = forward @ (into.bias[:4] - centre)
    into.weight[4:] = 0
    into.bias[4:] = noise.log()
    out_of.bias += out_of.weight[..., 0, 0] @ centre
    out_of.weight.copy_(torch.einsum("ijhw,jk->ikhw", out_of.weight, forward.inverse()))


@torch.no_grad()
def reconstruction_db(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio of decode(encode(x)), of the mean error over all pictures, dB."""
    restored = [
        vae.decode(vae.encode(part.to(vae.device, vae.dtype)).latent_dist.mean).sample.clamp(-1, 1).float().cpu()
        for part in pixels.split(32)
    ]
    return float(-10 * torch.log10(F.mse_loss(torch.cat(restored), pixels) / 4))
