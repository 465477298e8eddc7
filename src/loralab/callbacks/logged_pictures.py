"""Pictures in the loggers that take some, by prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from PIL.Image import Image

from loralab.callbacks.prompts import Prompt

LONGEST = 80
"""Letters of a prompt in a title."""


def titles(prompts: Sequence[Prompt]) -> list[str]:
    """A title of its own for each: its words, and where several have the same, what differs between these."""
    short = [_shortened(prompt.prompt) for prompt in prompts]
    named = [_with_differences(title, n, short, prompts) for n, title in enumerate(short)]
    return [name if named.count(name) == 1 else f"{name} · {n + 1}" for n, name in enumerate(named)]


def _shortened(words: str) -> str:
    line = " ".join(words.split()) or "(no words)"
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _with_differences(title: str, number: int, short: Sequence[str], prompts: Sequence[Prompt]) -> str:
    alike = [asdict(prompt) for prompt, other in zip(prompts, short, strict=True) if other == title]
    own = asdict(prompts[number])
    differing = [key for key in own if key != "prompt" and any(other[key] != own[key] for other in alike)]
    return " · ".join([title, *(f"{key} {own[key]}" for key in differing)])


def log(trainer: Trainer, pictures: Mapping[str, Image]) -> None:
    """Pictures by title, of the current step."""
    step = trainer.global_step
    for logger in trainer.loggers:
        for title, image in pictures.items():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"samples/{title}", np.asarray(image), step, dataformats="HWC")
            elif isinstance(logger, MLFlowLogger):  # which refuses other characters
                key = re.sub(r"[^\w.-]+", " ", f"samples {title}").strip()
                logger.experiment.log_image(str(logger.run_id), image, key=key, step=step)
            elif log_image := getattr(logger, "log_image", None):
                log_image(f"samples/{title}", [image], step=step)
