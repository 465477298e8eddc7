"""Files of tensors, read without running what is in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from loralab.errors import user_error
from loralab.files import printable
from loralab.models.checkpoint import LEFTOVERS, examine, holds_code
from loralab.models.probe import weight_files


def read(path: Path, setting: str) -> dict[str, Tensor]:
    """A file's tensors by name. They stay in the file (memory-mapped) until they are used.

    Pickles are read as data only; one that contains code, or a damaged file, is a UserError naming `setting`.
    """
    index = examine(path, setting)
    try:
        if index.format == "safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return _tensors(_unpickle(path))
    except UnpicklingError as error:
        raise holds_code(path, setting, str(error).partition(".")[0]) from error
    except Exception as error:  # each library has its own class for a damaged file
        raise user_error(
            setting, f"{path} cannot be read: {error}", "if it is truncated, download or copy it again"
        ) from error


class Leftover:
    """Stands in for what is in a pickle beside tensors and is not looked at; its own code is not even imported."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _unpickle(path: Path) -> Any:
    with torch.serialization.safe_globals([(Leftover, name) for name in LEFTOVERS]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old forms, which its writer alone could change
        return _load(path)


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":  # torch chooses the format by the name, which is wrong here
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # the format from before torch 1.6


def _tensors(content: Any) -> dict[str, Tensor]:
    inside = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(inside, dict):
        raise ValueError(f"it is a {type(inside).__name__}, not tensors by name")
    found = {name: value for name, value in inside.items() if isinstance(name, str) and isinstance(value, Tensor)}
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = "quantized" if tensor.is_quantized else "without values" if tensor.is_meta else "sparse"
            raise ValueError(f"its tensor {printable(name)} is {kind}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():  # a few numbers can stand for terabytes
            raise ValueError(f"its tensor {printable(name)} claims to be larger than what is stored of it")
    return {name: tensor.detach() for name, tensor in found.items()}


def read_component(folder: Path, setting: str) -> dict[str, Tensor]:
    """The weights of one component of a diffusers folder."""
    names = weight_files(folder, setting)
    return {key: value for name in names for key, value in read(folder / name, setting).items()}
