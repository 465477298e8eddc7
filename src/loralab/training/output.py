"""Where adapter files go and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from loralab import signals
from loralab.adapters import file
from loralab.adapters.inject import AdapterSet
from loralab.adapters.layouts import Layout, folded_alphas
from loralab.errors import user_error


class Output:
    """Writes the adapter: `name-000005` after epoch 5, `name-step00000500` after step 500, `name` at the end."""

    def __init__(
        self,
        *,
        folder: str | None = None,
        name: str = "adapter",
        format: Literal["safetensors", "ckpt", "pt", "bin"] = "safetensors",
        layout: Literal["kohya", "diffusers"] = "kohya",
        precision: Literal["fp16", "bf16", "fp32"] = "fp16",
        metadata: bool = True,
        comment: str | None = None,
        dates: bool = False,
        run_folder: Path,
        describe: Callable[[int, int], dict[str, str]],
    ) -> None:
        """`describe(epoch, step)` gives the metadata of a file saved after that many epochs and optimizer steps."""
        self.folder = Path(folder).expanduser() if folder else run_folder
        self.name, self.format = name, format
        self.layout: Layout = layout
        self.precision: file.Precision = precision
        self.metadata, self.comment, self.dates, self.describe = metadata, comment, dates, describe
        self.written: list[Path] = []
        self.last_saved = 0
        """The optimizer step of the last file."""

    def path(self, suffix: str = "") -> Path:
        return self.folder / f"{self.name}{suffix}.{self.format}"

    def refuse_to_overwrite(self) -> None:
        """Raises a UserError where the last file is there already: another run's work."""
        if self.path().exists():
            remedy = "choose another output.name or output.folder, or move the file away"
            raise user_error("output.name", f"{self.path()} exists already", remedy)

    @signals.held()
    def save(self, adapters: AdapterSet, epoch: int, step: int, suffix: str = "") -> Path:
        """Writes the adapter as it is after `epoch` epochs and `step` optimizer steps."""
        described = self.describe(epoch, step) if self.metadata else None
        if described is not None and self.layout == "diffusers":
            described |= folded_alphas(adapters.state())
        path = self.path(suffix)
        file.save(path, adapters.state(self.layout), described, self.precision)
        self.last_saved = step
        if path not in self.written:
            self.written.append(path)
        return path

    def forget(self, path: Path) -> None:
        """Removes a file that this run wrote."""
        assert path in self.written, "only a file of this run may be removed"
        path.unlink(missing_ok=True)
        self.written.remove(path)
