"""The other half: a CLIP text encoder and a UNet that removes noise from latents, trained together."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from scripts.tiny_model import pictures

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
WIDTH = 128
"""Features of a text token."""
SHORT, LONG = 16, 77
"""Tokens of a caption: few while most is learned, CLIP's number at the end."""
SHORT_SHARE = 0.88
BATCH = 64
SNR_CAP = 5.0


@dataclass
class Pictures:
    """Encoded pictures of one size."""

    mean: Tensor
    """(N, 4, h, w), scaled."""
    std: Tensor
    combinations: list[pictures.Combination]


def build(tokenizer: CLIPTokenizer, device: str) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Fresh networks. Eager attention: on a CPU, scaled_dot_product_attention's backward is slow in bf16."""
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
    text_encoder = CLIPTextModel(config)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
    )
    unet.set_attn_processor(AttnProcessor())
    _start_well(text_encoder, unet)
    return text_encoder.to(device), unet.to(device)


def _start_well(text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """Words far apart from the first step on, and residual blocks that begin as the identity."""
    nn.init.normal_(text_encoder.get_input_embeddings().weight, std=0.5)
    for name, module in unet.named_modules():
        if name.endswith("conv2") or name == "conv_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def train(
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    stock: list[Pictures],
    steps: int,
    rng: np.random.Generator,
    log: Callable,
    kept: Path,
) -> None:
    """Leaves the running average of the weights in the networks; now and then it is kept in a file, to be looked at."""
    noising = DDPMScheduler(**SCHEDULE)
    networks = nn.ModuleList([text_encoder, unet])
    average = deepcopy(networks).eval()
    optimizer = torch.optim.AdamW(networks.parameters(), betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.2e-3, steps, pct_start=0.04)
    sizes = np.array([len(part.combinations) for part in stock]) / sum(len(part.combinations) for part in stock)

    networks.train()
    for step in track(range(steps), "text encoder and UNet"):
        part = stock[rng.choice(len(stock), p=sizes)]
        chosen = rng.integers(len(part.combinations), size=BATCH)
        captions = [pictures.varied_caption(*part.combinations[index], rng) for index in chosen]
        mean, std = part.mean[chosen], part.std[chosen]
        latents = mean + std * torch.randn_like(std)
        timesteps = _timesteps(rng).to(unet.device)
        length = SHORT if step < SHORT_SHARE * steps else LONG
        loss = _loss(networks, tokenizer, noising, latents, captions, timesteps, length)

        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _follow(average, networks, decay=min(0.998, (step + 1) / (step + 10)))
        if step % 200 == 0:
            log(step=step, loss=loss.item(), wrong_word=conditioning(average, tokenizer, noising, stock[0]))
            torch.save(average.state_dict(), kept)
    networks.load_state_dict(average.state_dict())
    networks.eval()


def _timesteps(rng: np.random.Generator) -> Tensor:
    """(B,): 60 % of them where the shape is decided."""
    everywhere, middle = rng.integers(0, 1000, BATCH), rng.integers(300, 950, BATCH)
    return torch.from_numpy(np.where(rng.random(BATCH) < 0.6, middle, everywhere))


def _loss(
    networks: nn.ModuleList,
    tokenizer: CLIPTokenizer,
    noising: DDPMScheduler,
    latents: Tensor,
    captions: list[str],
    timesteps: Tensor,
    length: int = SHORT,
) -> Tensor:
    """Error of the predicted noise, weighted by min(SNR, 5) / SNR (Hang et al. 2023, arXiv:2303.09556)."""
    text_encoder, unet = networks
    tokens = tokenizer(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
    noise = torch.randn_like(latents)
    noisy = noising.add_noise(latents, noise, timesteps)
    with torch.autocast(latents.device.type, torch.bfloat16):
        hidden = text_encoder(tokens.to(latents.device)).last_hidden_state
        predicted = unet(noisy, timesteps, hidden).sample
    kept = noising.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = kept / (1 - kept)
    error = (predicted.float() - noise).square().mean((1, 2, 3))
    return (error * snr.clamp(max=SNR_CAP) / snr).mean()


@torch.no_grad()
def _follow(average: nn.Module, networks: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(networks.parameters()), 1 - decay)


@torch.no_grad()
def conditioning(networks: nn.ModuleList, tokenizer: CLIPTokenizer, noising: DDPMScheduler, stock: Pictures) -> float:
    """Loss with another shape's word over loss with the right one, same noise: above 1 once words are heeded."""
    shapes = pictures.MAIN_SHAPES
    known = [i for i, (shape, _, _) in enumerate(stock.combinations[:600]) if shape in shapes][:256]
    latents = stock.mean[known]
    timesteps = torch.linspace(400, 900, len(known)).long().to(latents.device)
    right = [stock.combinations[i] for i in known]
    wrong = [(shapes[(shapes.index(shape) + 3) % len(shapes)], *colours) for shape, *colours in right]
    losses = []
    for combinations in (wrong, right):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            captions = [pictures.caption(*combination) for combination in combinations]
            losses.append(_loss(networks, tokenizer, noising, latents, captions, timesteps))
    return (losses[0] / losses[1]).item()
