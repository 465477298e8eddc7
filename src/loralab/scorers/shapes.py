"""The tiny model's own scorer: a classifier of its pictures, which share nothing with that model but the drawings.

`python -m scripts.tiny_model.classifier` trains it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).parents[1] / "assets" / "classifier.safetensors"
SIDE = 64
SHAPE, COLOUR, BACKGROUND = "shape", "colour", "background"

Labels = Mapping[str, Sequence[str]]
"""Question → the possible answers."""


class Classifier(nn.Module):
    """Four convolutions, and one linear head for each question."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        widths = (3, 24, 48, 64, 96)
        self.body = nn.Sequential(*[self._block(a, b) for a, b in pairwise(widths)], nn.Flatten())
        features = widths[-1] * (SIDE // 2 ** (len(widths) - 1)) ** 2
        self.heads = nn.ModuleDict({question: nn.Linear(features, len(names)) for question, names in labels.items()})

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
    def look(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of images (B, 3, H, W), uint8 or float in [0, 1]; the middle square is looked at."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        *_, height, width = pixels.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = pixels[..., top : top + side, left : left + side]
        if side != SIDE:
            square = F.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True)
        return self(square * 2 - 1)

    def classify(self, images: Tensor) -> dict[str, list[str]]:
        """Names per question of images as `look` takes them."""
        logits = self.look(images)
        return {
            question: [names[int(i)] for i in logits[question].argmax(1)] for question, names in self.labels.items()
        }


def load() -> Classifier:
    """The trained classifier, ready to use."""
    with safe_open(WEIGHTS, "pt") as file:
        labels = {question: names.split() for question, names in sorted(file.metadata().items())}  # it has no order
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    model = Classifier(labels)
    model.load_state_dict(state, strict=False)
    return model.eval()


class Shapes:
    """Embeds a picture as the square roots of the classifier's probabilities p, a text as a 1 at each name in it.

    The cosine of two pictures is then the Bhattacharyya coefficient Σ √(p q) (1943), the mean over the questions; that
    of a picture and a text with a shape, a colour and a background is the mean of √p of those three.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.model = load().to(device)

    def images(self, images: Sequence[np.ndarray]) -> Tensor:
        """(N, D) of unit length, of images (H, W, 3) uint8."""
        return torch.cat([self._image(torch.tensor(image).movedim(-1, 0)[None]) for image in images])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) of unit length; 0 for a text that names nothing that the classifier knows."""
        return F.normalize(torch.stack([torch.tensor(self._marks(text)) for text in texts]), dim=1)

    def _image(self, image: Tensor) -> Tensor:
        logits = self.model.look(image.to(self.device))
        roots = [logits[question].softmax(1).sqrt() for question in self.model.labels]
        return F.normalize(torch.cat(roots, 1), dim=1).cpu()

    def _marks(self, text: str) -> list[float]:
        told = answers(text, self.model.labels)
        return [float(told.get(question) == name) for question, names in self.model.labels.items() for name in names]


def answers(text: str, labels: Labels) -> dict[str, str]:
    """What a prompt such as "red circle on a blue background" asks for, by question."""
    words = re.findall(r"[a-z]+", text.lower())
    found = {SHAPE: next((word for word in words if word in labels[SHAPE]), None)}
    colours = [i for i, word in enumerate(words) if word in labels[COLOUR]]
    behind = next((i for i in colours if words[i + 1 : i + 2] == [BACKGROUND]), None)
    found[BACKGROUND] = None if behind is None else words[behind]
    found[COLOUR] = next((words[i] for i in colours if i != behind), None)
    return {question: name for question, name in found.items() if name}
