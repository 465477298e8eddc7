"""The weights of a base model as stored in its files, looked up by the name of their module.

Everything else is kept unchanged: VAE, EMA weights, tokenizers, unknown tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loralab.adapters import file
from loralab.adapters.keys import Table
from loralab.errors import UserError, user_error
from loralab.models import weights
from loralab.models.probe import look_at_base
from loralab.models.registry import FAMILIES, Row
from loralab.models.target import Target
from loralab.writing import atomic_folder

WEIGHTS = ("*.safetensors", "*.bin", "*.index*.json", "*.ckpt", "*.msgpack", "*.onnx", "*.h5")


@dataclass
class BaseModel:
    """A base model on disk."""

    path: Path
    row: Row
    """Its family."""
    table: Table
    """The modules that adapters can be applied to, by part."""
    tensors: dict[str, dict[str, Tensor]]
    """By part; those of a single file are all under ''. They are read from the file when they are used."""
    configs: Mapping[str, dict[str, Any]]
    """By part."""
    changed: set[str] = field(default_factory=set)
    """Parts of a folder that differ from those on disk."""

    def weight(self, part: str, target: Target) -> Tensor:
        """The weight of a module, in the precision of the file."""
        where, key, rows = self._find(part, target)
        return self.tensors[where][key][rows]

    def add(self, part: str, target: Target, change: Tensor, precision: file.Precision | None = None) -> None:
        """Adds a change to a weight: computed in fp32, stored in `precision` or that of the file.

        Raises a UserError where the sum overflows that precision.
        """
        where, key, rows = self._find(part, target)
        before = self.tensors[where][key]
        sums = before[rows].float() + change.reshape(before[rows].shape).to("cpu")
        whole = before.to(file.DTYPES[precision] if precision else before.dtype, copy=True)
        whole[rows] = sums
        if not whole[rows].isfinite().all():
            raise _too_large(target.kohya, whole.dtype)
        self.tensors[where][key] = whole
        self.changed.add(where)

    def save(self, path: Path, precision: file.Precision | None) -> None:
        """Writes the whole model in the form it was read from: a folder, or one .safetensors file.

        Raises a UserError where a weight overflows the precision.
        """
        for where in self.tensors:
            if precision:
                self.changed.add(where)
                self.tensors[where] = {k: _cast(k, t, file.DTYPES[precision]) for k, t in self.tensors[where].items()}
        if "" in self.tensors:
            file.write(path, self.tensors[""], file.read_metadata(self.path) or None, "--output")
        else:
            self._save_folder(path)

    def _save_folder(self, path: Path) -> None:
        with atomic_folder(path, "--output") as beside:
            shutil.copytree(self.path, beside, ignore=self._outdated)
            for part in self.changed:
                is_diffusers = self.row.parts[part].module.startswith("diffusers.")
                stem = "diffusion_pytorch_model" if is_diffusers else "model"
                file.write(beside / part / f"{stem}.safetensors", self.tensors[part], {"format": "pt"}, "--output")

    def _outdated(self, folder: str, names: list[str]) -> set[str]:
        """Weight files of the parts that are written anew, which are not copied."""
        if Path(folder).name not in self.changed:
            return set()
        return shutil.ignore_patterns(*WEIGHTS)(folder, names)

    def _find(self, part: str, target: Target) -> tuple[str, str, slice]:
        """The location of a module's weight: part, key, and rows of the tensor."""
        if "" in self.tensors:
            return "", *self._find_in_single_file(part, target)
        for path in (target.diffusers, target.diffusers.removeprefix("text_model.")):
            if f"{path}.weight" in self.tensors[part]:
                return part, f"{path}.weight", slice(None)
        raise self._lacks(f"{part}.{target.diffusers}")

    def _find_in_single_file(self, part: str, target: Target) -> tuple[str, slice]:
        key, third = self.row.file_key(self.row, part, target.diffusers, self.configs[part])
        usual = self.row.file_parts[self.row.denoiser]
        if key.startswith(usual) and self._start is not None:
            key, plain = self._start + key.removeprefix(usual), f"{self._start}{target.diffusers}.weight"
            if part == self.row.denoiser and plain in self.tensors[""]:
                key, third = plain, None
        if key not in self.tensors[""]:
            raise self._lacks(key)
        if third is None:
            return key, slice(None)
        width = self.tensors[""][key].shape[0] // 3
        return key, slice(third * width, (third + 1) * width)

    @cached_property
    def _start(self) -> str | None:
        """How the names of the denoiser begin in a file of it alone, which may have those of diffusers."""
        return self.row.denoiser_start(self.tensors[""])

    def _lacks(self, name: str):
        return user_error(
            str(self.path), f"has no weight {name}", "check that it is complete and in the original layout"
        )


def open_base(path: Path, setting: str) -> BaseModel:
    """A base model: a diffusers folder, or one file in the original layout.

    Raises a UserError naming `setting` for anything else.
    """
    path = path.expanduser()
    if not path.exists():
        raise user_error(setting, f"'{path}' not found", "give a diffusers folder or a single file")
    row = FAMILIES[look_at_base(path, needs=(), setting=setting).family]
    if path.is_dir():
        configs = {part: _config(path / part) for part in row.parts}
        tensors = {part: weights.read_component(path / part, setting) for part in configs}
    else:
        configs, tensors = dict(row.architecture), {"": weights.read(path, setting)}
    return BaseModel(path, row, row.targets(configs), tensors, configs)


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf8"))


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if not (cast.isfinite() | ~tensor.isfinite()).all():
        raise _too_large(name, dtype)
    return cast


def _too_large(name: str, dtype: torch.dtype) -> UserError:
    found = f"{name} has values too large for {str(dtype).removeprefix('torch.')}"
    return user_error(
        "--precision", found, "use --precision bf16 or fp32, lower --weights, or check the adapter's alpha"
    )
