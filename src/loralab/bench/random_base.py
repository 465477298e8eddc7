"""A base model of a public architecture at full size, its weights random: speed and memory do not depend on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from loralab.writing import atomic_folder


def random_base(folder: Path, family: str, tokenizer: Path) -> Path:
    """Writes a diffusers folder in half precision; family: by its name; tokenizer: a folder to copy."""
    with atomic_folder(folder, "--folder") as beside:
        _write(beside, family, tokenizer)
    return folder


def _write(folder: Path, family: str, tokenizer: Path) -> None:
    from safetensors.torch import save_file

    from loralab.models.load import empty
    from loralab.models.registry import FAMILIES

    row = FAMILIES[family]
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    for part, config in row.architecture.items():
        with torch.device("meta"):
            module = empty(row, part, config)
        state = {name: _random(name, tensor, noise) for name, tensor in module.state_dict().items()}
        (folder / part).mkdir(parents=True)
        file = "model.safetensors" if part.startswith("text") else "diffusion_pytorch_model.safetensors"
        save_file(state, folder / part / file, metadata={"format": "pt"})
        (folder / part / "config.json").write_text(json.dumps(config))
        if part.startswith("text"):
            shutil.copytree(tokenizer, folder / part.replace("text_encoder", "tokenizer"))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(row.scheduler))


def _random(name: str, like: Tensor, noise: Tensor) -> Tensor:
    """The same noise repeated: drawing a billion numbers would take longer than the measurement."""
    repeats = -(-like.numel() // noise.numel())
    values = noise.repeat(repeats)[: like.numel()].reshape(like.shape)
    return values + 1 if "norm" in name and name.endswith("weight") else values
