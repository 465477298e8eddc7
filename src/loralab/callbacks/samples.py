"""Pictures from prompts: before, while and after training."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from PIL.Image import Image

from loralab.callbacks.contact_sheet import grid, save, thumbnail
from loralab.callbacks.due import due, epochs_done, steps_done
from loralab.callbacks.logged_pictures import log, titles
from loralab.callbacks.prompts import SETTING, Prompt, notes, read
from loralab.callbacks.sampling import sampled
from loralab.schema.ranges import AtLeastOne, Guidance, PictureSide, SamplingSteps
from loralab.training.module import LoraModule
from loralab.training.run_state import RunState

if TYPE_CHECKING:
    from loralab.data.module import DataModule


OF_CAPTIONS = 4
"""So many captions of the images are drawn where no prompts are given."""


class Samples(Callback):
    """Writes `samples/step00000500-00.png` …, and a sheet of thumbnails of all times, `grid.png`. Loggers that take
    pictures are given those thumbnails, by prompt.

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
        seeds: AtLeastOne = 1,
        width: PictureSide | None = None,
        height: PictureSide | None = None,
        steps: SamplingSteps = 20,
        guidance: Guidance = 7.0,
        run: RunState,
    ) -> None:
        self.given, self.ignored = (None, {}) if prompts is None else read(prompts)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.before, self.after, self.seeds = before, after, seeds
        self.common = {"negative": negative, "seed": seed, "width": width, "height": height}
        self.common |= {"steps": steps, "guidance": guidance}
        self.folder = run.folder / "samples"
        self.times: dict[str, list[Image]] = {}
        """Thumbnails of what was drawn, by the name of its row on the sheet."""
        self.drawn_at: int | None = None

    def opening(self, module: LoraModule, data: DataModule) -> list[str]:
        """What will be drawn and when, and which parts of the prompts are ignored."""
        prompts = self._prompts(module, data)
        sizes = sorted({f"{prompt.width}×{prompt.height}" for prompt in prompts})
        steps = sorted({prompt.steps for prompt in prompts})
        source = "captions of the images" if self.given is None else "prompts"
        count = f"{len(prompts) // self.seeds} {source}" + (f" × {self.seeds} seeds" if self.seeds > 1 else "")
        words = f"{count} at {', '.join(sizes)}, {' or '.join(map(str, steps))} sampling steps"
        lines = [f"pictures  {words} · {self._when()} · callbacks.samples.enabled=false to skip them"]
        return [*lines, *(f"note      {SETTING}: {note}" for note in notes(self.ignored))]

    def _when(self) -> str:
        times: dict[str, object] = {"before": self.before, f"every {self.every_n_steps} steps": self.every_n_steps}
        times |= {f"every {self.every_n_epochs} epochs": self.every_n_epochs, "after training": self.after}
        return ", ".join(words for words, wanted in times.items() if wanted) or "never: no sampling times are set"

    def on_fit_start(self, trainer: Trainer, module: LoraModule) -> None:
        self.prompts = self._prompts(module, trainer.datamodule)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        if self.before and trainer.global_step == 0:
            self._draw(trainer, module, "before")

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        step, epoch = steps_done(trainer), epochs_done(trainer)
        with module.run.pace.pause():
            if due(step, self.every_n_steps):
                self._draw(trainer, module, f"step {step}")
            elif due(epoch, self.every_n_epochs):
                self._draw(trainer, module, f"epoch {epoch}")

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        if self.after and not module.run.interrupted and self.drawn_at != trainer.global_step:
            self._draw(trainer, module, "after")

    def _draw(self, trainer: Trainer, module: LoraModule, time: str) -> None:
        """Draws every prompt once; `time` is the name of the sheet's row."""
        module.run.assure()
        images = self._sampled(module)
        if module.family.is_shared_out:  # every process draws them all, before anything else can fail in the first
            images = (image for image in [*images])
        try:
            if trainer.is_global_zero:
                self._write_all(images, trainer, time)
        finally:
            # the others wait as long as it takes; in an exchange of gradients they would not
            self.drawn_at = module.run.ranks.of_first(self.drawn_at)

    def _write_all(self, images: Generator[Image], trainer: Trainer, time: str) -> None:
        row: list[Image] = []
        with closing(images):  # training's weights are restored whatever is raised here
            for i, (image, prompt) in enumerate(zip(images, self.prompts, strict=True)):
                save(image, self.folder / f"step{trainer.global_step:08d}-{i:02d}.png", prompt.described())
                row.append(thumbnail(image))
        self.times[time] = row
        words = [prompt.prompt for prompt in self.prompts]
        settings = "\n".join(prompt.described() for prompt in self.prompts)
        save(grid(self.times, words), self.folder / "grid.png", settings)
        self.drawn_at = trainer.global_step
        log(trainer, dict(zip(titles(self.prompts), row, strict=True)))

    def _sampled(self, module: LoraModule) -> Generator[Image]:
        with module.looking():
            yield from sampled(module.family, self.prompts)

    def _prompts(self, module: LoraModule, data: DataModule) -> list[Prompt]:
        given = self.given
        if given is None:  # images without any caption are trained on the empty one
            given = [{"prompt": caption} for caption in data.example_captions(OF_CAPTIONS) or [""]]
        own = {name: self.common[name] or module.family.resolution for name in ("width", "height")}
        first = [Prompt(**{**self.common, **own, **entry}) for entry in given]
        return [replace(prompt, seed=prompt.seed + more) for prompt in first for more in range(self.seeds)]
