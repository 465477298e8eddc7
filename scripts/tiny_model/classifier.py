"""Tells what a picture of the little world shows. It shares nothing with the tiny model but the drawings.

    from scripts.tiny_model import classifier
    seen = classifier.load().classify(images)
    seen["shape"], seen["colour"], seen["background"]  # lists of B names; the star is among the shapes

Its weights, beside this file, are made by python -m scripts.tiny_model.classifier (about two minutes).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.tiny_model import pictures
from scripts.tiny_model.bank import MaskBank, known_counts

WEIGHTS = Path(__file__).with_name("classifier.safetensors")
SIDE = 64
LABELS = {
    "shape": (*pictures.KNOWN_SHAPES, pictures.STAR),
    "colour": tuple(pictures.COLOURS),
    "background": tuple(pictures.COLOURS),
}


class Classifier(nn.Module):
    """Four convolutions, and one linear head for each question."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        self.body = nn.Sequential(*[self._block(a, b) for a, b in pairwise(widths)], nn.Flatten())
        features = widths[-1] * (SIDE // 2 ** (len(widths) - 1)) ** 2
        self.heads = nn.ModuleDict({question: nn.Linear(features, len(names)) for question, names in LABELS.items()})

    @staticmethod
    def _block(into: int, out_of: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(into, out_of, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out_of), nn.ReLU()
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits (B, names) per question of pixels (B, 3, 64, 64) in [-1, 1]."""
        features = self.body(pixels)
        return {question: head(features) for question, head in self.heads.items()}

    @torch.no_grad()
    def classify(self, images: Tensor) -> dict[str, list[str]]:
        """Names per question of images (B, 3, H, W), uint8 or float in [0, 1]; the middle square is looked at."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        *_, height, width = pixels.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = pixels[..., top : top + side, left : left + side]
        if side != SIDE:
            square = F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True)
        logits = self(square * 2 - 1)
        return {question: [LABELS[question][i] for i in logits[question].argmax(1)] for question in LABELS}


def load() -> Classifier:
    """The trained classifier, ready to use."""
    model = Classifier()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}, strict=False)
    return model.eval()


def train(steps: int = 2000, batch: int = 64, seed: int = 0) -> Classifier:
    """On all shapes, the star too, in all colours, and as worn as a tiny model would leave them."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    bank = MaskBank(SIDE, SIDE, {**known_counts(400), pictures.STAR: 800}, rng)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in track(range(steps), "classifier"):
        drawn = _combinations(batch, rng)
        logits = model(_wear(bank.paint(drawn, rng), rng))
        loss = torch.zeros(())
        for (question, names), answers in zip(LABELS.items(), zip(*drawn, strict=True), strict=True):
            loss = loss + F.cross_entropy(logits[question], torch.tensor([names.index(name) for name in answers]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _combinations(count: int, rng: np.random.Generator) -> list[pictures.Combination]:
    return [
        (str(rng.choice(LABELS["shape"])), *map(str, rng.choice(LABELS["colour"], 2, replace=False)))
        for _ in range(count)
    ]


def _wear(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, wrong contrast and brightness, shifts, noise."""
    blurred = F.interpolate(pixels, scale_factor=rng.uniform(0.3, 1), mode="bilinear", antialias=True)
    pixels = F.interpolate(blurred, (SIDE, SIDE), mode="bilinear")
    pixels = pixels.roll(tuple(rng.integers(-3, 4, 2)), (2, 3))
    gain, offset = 1 + 0.1 * torch.randn(len(pixels), 1, 1, 1), 0.06 * torch.randn(len(pixels), 3, 1, 1)
    return pixels * gain + offset + rng.uniform(0, 0.15) * torch.randn_like(pixels)


def main() -> None:
    model = train()
    # Counters of seen batches are integers of no use
    state = {name: tensor.half() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    save_file(state, WEIGHTS)
    rng = np.random.default_rng(1)
    bank = MaskBank(SIDE, SIDE, {**known_counts(40), pictures.STAR: 80}, rng)
    drawn = _combinations(2000, rng)
    seen = load().classify((bank.paint(drawn, rng) + 1) / 2)
    for question, answers in zip(LABELS, zip(*drawn, strict=True), strict=True):
        right = sum(said == answer for said, answer in zip(seen[question], answers, strict=True))
        print(f"{question}: {right / len(drawn):.1%} right on fresh pictures")


if __name__ == "__main__":
    main()
