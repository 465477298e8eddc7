"""Pictures from prompts: before, while and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL.Image import Image

from loralab.callbacks.due import due, epochs_done, steps_done
from loralab.callbacks.pictures import grid, save, to_image
from loralab.callbacks.prompts import Prompt, check_side, read
from loralab.models.preview import sample
from loralab.training.module import LoraModule
from loralab.values import AtLeastOne, NonNegative


class Samples(Callback):
    """Writes `samples/step00000500-00.png` …, and a grid of all times that grows with training, also to TensorBoard.

    The same seed gives a prompt the same noise each time. Training's randomness is left alone.
    """

    def __init__(
        self,
        *,
        prompts: str | list[str | dict[str, Any]] | None = None,
        every_n_epochs: AtLeastOne | None = None,
        every_n_steps: AtLeastOne | None = None,
        before: bool = True,
        after: bool = True,
        negative: str = "",
        seed: int = 0,
        width: AtLeastOne | None = None,
        height: AtLeastOne | None = None,
        steps: AtLeastOne = 20,
        guidance: NonNegative = 7.0,
        run_folder: Path,
    ) -> None:
        self.given = None if prompts is None else read(prompts)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        for name, side in (("width", width), ("height", height)):
            check_side(f"callbacks.samples.{name}", side)
        self.before, self.after = before, after
        self.common = {"negative": negative, "seed": seed, "width": width, "height": height}
        self.common |= {"steps": steps, "guidance": guidance}
        self.folder = run_folder / "samples"
        self.times: dict[str, list[Image]] = {}
        self.written: list[Path] = []

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        self.prompts = list(self._prompts(trainer, module.family.resolution))
        if self.before and trainer.global_step == 0:
            self._draw(trainer, module, "before")

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        step, epoch = steps_done(trainer), epochs_done(trainer)
        with module.pace.pause():
            if due(step, self.every_n_steps):
                self._draw(trainer, module, f"step {step}")
            elif due(epoch, self.every_n_epochs):
                self._draw(trainer, module, f"epoch {epoch}")

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        if self.after:
            self._draw(trainer, module, "after")

    def _draw(self, trainer: Trainer, module: LoraModule, time: str) -> None:
        """Draws every prompt once; `time` is what the row of the grid is called."""
        if not trainer.is_global_zero:
            return
        images = list(self._sampled(module))
        stem = f"step{trainer.global_step:08d}"
        for i, (image, prompt) in enumerate(zip(images, self.prompts, strict=True)):
            self.written.append(save(image, self.folder / f"{stem}-{i:02d}.png", prompt.described()))
        self.times[time] = images
        sheet = grid(self.times, [prompt.prompt for prompt in self.prompts])
        path = save(sheet, self.folder / "grid.png", "\n".join(prompt.described() for prompt in self.prompts))
        self.written = [*dict.fromkeys([*self.written, path])]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
                pixels = pixels.view(sheet.height, sheet.width, 3)
                logger.experiment.add_image("samples", pixels, trainer.global_step, dataformats="HWC")

    def _sampled(self, module: LoraModule) -> Iterator[Image]:
        """Pictures in the order of the prompts; neighbours of the same size and steps share a batch."""
        with module.looking():
            for kind, group in groupby(self.prompts, lambda p: replace(p, prompt="", seed=0)):
                for prompts in _chunks(list(group), 8):
                    texts, seeds = [p.prompt for p in prompts], [p.seed for p in prompts]
                    pixels = sample(
                        module.family,
                        texts,
                        seeds,
                        negative=kind.negative,
                        width=kind.width,
                        height=kind.height,
                        steps=kind.steps,
                        guidance=kind.guidance,
                    )
                    yield from map(to_image, pixels)

    def _prompts(self, trainer: Trainer, side: int) -> Iterator[Prompt]:
        given = self.given
        if given is None:
            given = read(trainer.datamodule.example_captions(4))  # type: ignore[attr-defined]
        for entry in given:
            settings: dict[str, Any] = self.common | entry
            settings["width"], settings["height"] = settings["width"] or side, settings["height"] or side
            yield Prompt(**settings)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
