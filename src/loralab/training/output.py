"""Where adapter files go and what they are called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import Tensor

from loralab import signals
from loralab.adapters import file
from loralab.adapters.inject import AdapterSet
from loralab.adapters.layouts import Layout, folded_alphas
from loralab.files import digest_file
from loralab.places import output_folder
from loralab.training.fallback import Fallback
from loralab.writing import unused


class Output:
    """Writes the adapter: `name-000005` after epoch 5, `name-step00000500` after step 500, `name` at the end."""

    def __init__(
        self,
        *,
        folder: str | None = None,
        name: str = "adapter",
        format: Literal["safetensors", "ckpt", "pt", "bin"] = "safetensors",
        layout: Literal["kohya", "diffusers", "comfyui"] = "kohya",
        precision: Literal["fp16", "bf16", "fp32"] = "fp16",
        metadata: bool = True,
        comment: str | None = None,
        dates: bool = False,
        fallback: Fallback,
        describe: Callable[[int, int], dict[str, str]],
    ) -> None:
        """`describe(epoch, step)` gives the metadata of a file saved after that many epochs and optimizer steps."""
        self.folder = output_folder(folder, fallback.run_folder)
        self.fallback = fallback
        self.name, self.format = name, format
        self.layout: Layout = layout
        self.precision: file.Precision = precision
        self.metadata, self.comment, self.dates, self.describe = metadata, comment, dates, describe
        self.written: list[Path] = []
        self.own: dict[Path, Path] = {}
        """Where this run writes each of its files."""
        self.left_out: list[str] = []
        """Metadata entries that exceeded the file format's limit."""
        self.last_saved = 0
        """The optimizer step of the last file."""

    def path(self, suffix: str = "") -> Path:
        return self.folder / f"{self.name}{suffix}.{self.format}"

    @signals.held()
    def save(self, adapters: AdapterSet, epoch: int, step: int, suffix: str = "") -> Path:
        """Writes the adapter as it is after `epoch` epochs and `step` optimizer steps.

        Raises a WriteError where it can be written nowhere.
        """
        described = self._described(epoch, step)
        if described is not None and self.layout == "diffusers":
            described |= folded_alphas(adapters.state())
        state = adapters.state(self.layout)
        path = self.write(self.path(suffix), lambda place: self._write(place, state, described))
        self.last_saved = step
        return path

    def write(self, path: Path, write: Callable[[Path], None]) -> Path:
        """Calls `write` with the path, or with a free one where another run's file is; returns where the file is."""
        own = self.own.setdefault(path, unused(path))
        place = self.fallback.write(own, write)
        if place == own != path and path.is_file():
            if digest_file(place) == digest_file(path):  # this run's, before it was resumed
                place.unlink()
                place = self.own[path] = path
            elif place not in self.written:
                print(f"note: {path} already exists; written to {place} instead", file=sys.stderr, flush=True)
        if place not in self.written:
            self.written.append(place)
        return place

    def _described(self, epoch: int, step: int) -> dict[str, str] | None:
        """The metadata; a file without it is better than no file."""
        try:
            return self.describe(epoch, step) if self.metadata else None
        except Exception as error:
            self.fallback.report(f"output.metadata: could not be generated and is missing from the file: {error!r}")
            return None

    def _write(self, path: Path, state: dict[str, Tensor], described: dict[str, str] | None) -> None:
        try:
            left_out = file.save(path, state, described, self.precision, "output.folder")
        except file.OutOfRange as error:
            self.fallback.report(f"output.precision: {error.problems[0].found}; written in fp32")
            left_out = file.save(path, state, described, "fp32", "output.folder")
        if left_out and not self.left_out:
            words = f"the metadata exceeds the file format's limit; omitted: {', '.join(left_out)}"
            print(f"note: {words}", file=sys.stderr, flush=True)
        self.left_out = left_out

    def forget(self, path: Path) -> None:
        """Removes a file that this run wrote."""
        assert path in self.written, "only a file of this run may be removed"
        path.unlink(missing_ok=True)
        self.written.remove(path)
