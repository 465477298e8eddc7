"""What the training of a UNet and of a transformer share: pictures' latents, the loop, and the figure to watch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from scripts.tiny_model import pictures

BATCH = 64


@dataclass
class Pictures:
    """Encoded pictures of one size."""

    mean: Tensor
    """(N, 4, h, w), scaled."""
    std: Tensor
    combinations: list[pictures.Combination]


class Denoiser(nn.Module, ABC):
    """A text encoder and what removes noise from latents, trained together."""

    peak_lr: float

    @abstractmethod
    def timesteps(self, rng: np.random.Generator) -> Tensor:
        """(B,) from 0 to 1000, on the CPU: those to train."""

    @abstractmethod
    def loss(self, latents: Tensor, captions: list[str], timesteps: Tensor, done: float = 0.0) -> Tensor:
        """Of latents (B, 4, h, w) with fresh noise; done: the share of the training that is over."""


def train(
    model: Denoiser, stock: list[Pictures], steps: int, rng: np.random.Generator, log: Callable, kept: Path
) -> None:
    """Leaves the running average of the weights in the model; now and then it is kept in a file, to be looked at."""
    average = deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, model.peak_lr, steps, pct_start=0.04)
    sizes = np.array([len(part.combinations) for part in stock]) / sum(len(part.combinations) for part in stock)

    model.train()
    for step in track(range(steps), "text encoder and denoiser"):
        part = stock[rng.choice(len(stock), p=sizes)]
        chosen = rng.integers(len(part.combinations), size=BATCH)
        captions = [pictures.varied_caption(*part.combinations[index], rng) for index in chosen]
        mean, std = part.mean[chosen], part.std[chosen]
        latents = mean + std * torch.randn_like(std)
        loss = model.loss(latents, captions, model.timesteps(rng).to(latents.device), step / steps)

        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _follow(average, model, decay=min(0.998, (step + 1) / (step + 10)))
        if step % 200 == 0:
            log(step=step, loss=loss.item(), wrong_word=conditioning(average, stock[0]))
            torch.save(average.state_dict(), kept)
    model.load_state_dict(average.state_dict())
    model.eval()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


@torch.no_grad()
def conditioning(model: Denoiser, stock: Pictures) -> float:
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
            losses.append(model.loss(latents, captions, timesteps))
    return (losses[0] / losses[1]).item()
