"""Files of tensors, read without running what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from loralab.errors import user_error

CONVERT = "convert it to .safetensors with a tool you trust, or take the .safetensors version of the model"


def read(path: Path, setting: str) -> dict[str, Tensor]:
    """A file's tensors by name. They stay in the file (memory-mapped) until they are used.

    Pickles are read as data only; one that holds code, or a damaged file, is a UserError naming `setting`.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return _tensors(_unpickle(path))
    except UnpicklingError as error:
        raise user_error(
            setting, f"{path} holds code that would run when it is loaded; it was not run", CONVERT
        ) from error
    except Exception as error:  # each library has its own class for a damaged file
        raise user_error(
            setting, f"{path} cannot be read: {error}", "get the file again; it may be cut short"
        ) from error


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the format from before torch 1.6


def _tensors(content: Any) -> dict[str, Tensor]:
    content = content.get("state_dict", content)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def files(names: Iterable[str], stem: str) -> list[str]:
    """Which of a component's file names hold its weights: full precision and safetensors first.

    An index of shards stands for its shards.
    """
    names = set(names)
    for suffix in ("safetensors", "bin"):
        for variant in ("", ".fp16"):
            for candidate in (f"{stem}{variant}.{suffix}", f"{stem}.{suffix}.index{variant}.json"):
                if candidate in names:
                    return [candidate]
    return []


def read_component(folder: Path, setting: str) -> dict[str, Tensor]:
    """The weights of one component of a diffusers folder."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
        for name in files(names, stem):
            path = folder / name
            parts = (
                sorted(set(json.loads(path.read_text())["weight_map"].values())) if path.suffix == ".json" else [name]
            )
            return {key: value for part in parts for key, value in read(folder / part, setting).items()}
    raise user_error(
        setting, f"{folder} has no weights", "a diffusers folder holds model.safetensors or the like there"
    )
