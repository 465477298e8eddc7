"""Pictures from prompts: before, while and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
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
from loralab.errors import user_error
from loralab.models.preview import sample
from loralab.training.module import LoraModule
from loralab.values import AtLeastOne, NonNegative


@dataclass(frozen=True, slots=True)
class Prompt:
    """One picture that is asked for."""

    prompt: str
    negative: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float

    def described(self) -> str:
        """The settings in the form that web UIs write into their pictures and read back."""
        return (
            f"{self.prompt}\nNegative prompt: {self.negative}\nSteps: {self.steps}, CFG scale: {self.guidance:g}, "
            f"Seed: {self.seed}, Size: {self.width}x{self.height}"
        )


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
        self.given, self.every_n_epochs, self.every_n_steps = prompts, every_n_epochs, every_n_steps
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
        if isinstance(given, str):
            given = _from_file(Path(given).expanduser())
        if given is None:
            given = trainer.datamodule.example_captions(4)  # type: ignore[attr-defined]
        for entry in given:
            settings = self.common | ({"prompt": entry} if isinstance(entry, str) else dict(entry))
            settings |= {key: settings[key] or side for key in ("width", "height")}
            unknown = set(settings) - {f.name for f in fields(Prompt)}
            if unknown or "prompt" not in settings:
                valid = ", ".join(f.name for f in fields(Prompt))
                raise user_error("callbacks.samples.prompts", f"{entry!r} is not a prompt", f"it may have: {valid}")
            yield Prompt(**settings)


def _from_file(path: Path) -> list[str]:
    """A prompt a line; empty lines and those that begin with # are none."""
    if not path.is_file():
        raise user_error("callbacks.samples.prompts", f"'{path}' is not there", "a text file, or a list of prompts")
    lines = [line.strip() for line in path.read_text(encoding="utf8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
