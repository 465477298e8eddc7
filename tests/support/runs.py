"""The command on a small model, and what a run leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MADE = {"model=tiny_sdxl", "model=tiny_sdxl_flow", "model=own_flow", "model=tiny_anima", "model=tiny_zimage"}
"""Models that are made, not loaded."""


def command(base: Path, folder: Path, *overrides: str, code: int = 0) -> Path:
    """Runs the command in this process, on a base and the embedded images; the exit code must be `code`.

    Returns the run's folder; the cache is beside it. Files are fp32.
    """
    train_py(*words(base, folder, *overrides), code=code)
    return folder


def train_py(*argv: str, code: int = 0) -> None:
    """`python train.py …` in this process and in its working folder; the exit code must be `code`."""
    from loralab import launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        with pytest.raises(SystemExit) as stop:
            launch.main([*argv])
    assert (stop.value.code or 0) == code


def words(base: Path, folder: Path, *overrides: str) -> list[str]:
    """The overrides, the last of each setting, and the usual ones of a run in a folder."""
    usual = {
        "model.base": str(base),
        "trainer.accelerator": "cpu",
        "trainer.max_steps": "3",
        "adapter.rank": "4",
        "output.precision": "fp32",
        "callbacks.samples.enabled": "false",
        "callbacks.progress.enabled": "false",
        "data.cache_folder": str(folder.parent / "cache"),
        "data.cache.latents": "none",
        "ema.decay": "0.0",
        "objective/weighting": "none",
        "suggested.batch_size": "4",
        "hydra.run.dir": str(folder),
    }
    if not MADE.isdisjoint(overrides):
        del usual["model.base"]
    given = {o.lstrip("+").split("=")[0]: o for o in overrides}  # the last one counts
    return [*given.values(), *(f"{key}={value}" for key, value in usual.items() if key not in given)]


def adapter(folder: Path) -> bytes:
    return (folder / "adapter.safetensors").read_bytes()


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())
