"""How often each tag occurs in the training data, as a text file beside the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from loralab.training.file_names import TAGS
from loralab.training.output import Output
from loralab.writing import atomic_path


class TagOccurrence(Callback):
    """Writes `NAME-tags.txt`, a line for each tag: `count<tab>tag`, repeats counted."""

    def __init__(self, *, sort: Literal["count", "alphabetical"] = "count", output: Output) -> None:
        self.sort, self.output = sort, output

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        counts = trainer.datamodule.tag_counts()  # type: ignore[attr-defined]
        alphabetical = self.sort == "alphabetical"
        ordered = sorted(counts.items(), key=lambda tag: tag[0] if alphabetical else (-tag[1], tag[0]))
        text = "".join(f"{count}\t{tag}\n" for tag, count in ordered)

        def write(path: Path) -> None:
            with atomic_path(path, "output.folder") as beside:
                beside.write_text(text, encoding="utf8")

        self.output.write(self.output.folder / f"{self.output.name}{TAGS}", write)
