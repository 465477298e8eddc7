"""Tells what a picture of the little world shows. It shares nothing with the tiny model but the drawings.

    from scripts.tiny_model import classifier
    seen = classifier.load().classify(images)
    seen["shape"], seen["colour"], seen["background"]  # lists of B names; the star is among the shapes

Its weights, in the package, are made by python -m scripts.tiny_model.classifier (about two minutes).
"""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from loralab.scorers.shapes import BACKGROUND, COLOUR, SHAPE, SIDE, WEIGHTS, Classifier, load
from scripts.tiny_model import pictures
from scripts.tiny_model.bank import MaskBank, known_counts

LABELS = {
    SHAPE: (*pictures.KNOWN_SHAPES, pictures.STAR),
    COLOUR: tuple(pictures.COLOURS),
    BACKGROUND: tuple(pictures.COLOURS),
}


def train(steps: int = 2000, batch: int = 64, seed: int = 0) -> Classifier:
    """On all shapes, the star too, in all colours, and as worn as a tiny model would leave them."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    bank = MaskBank(SIDE, SIDE, {**known_counts(400), pictures.STAR: 800}, rng)
    model = Classifier(LABELS)
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
    save_file(state, WEIGHTS, {question: " ".join(names) for question, names in LABELS.items()})
    rng = np.random.default_rng(1)
    bank = MaskBank(SIDE, SIDE, {**known_counts(40), pictures.STAR: 80}, rng)
    drawn = _combinations(2000, rng)
    seen = load().classify((bank.paint(drawn, rng) + 1) / 2)
    for question, answers in zip(LABELS, zip(*drawn, strict=True), strict=True):
        right = sum(said == answer for said, answer in zip(seen[question], answers, strict=True))
        print(f"{question}: {right / len(drawn):.1%} right on fresh pictures")


if __name__ == "__main__":
    main()
