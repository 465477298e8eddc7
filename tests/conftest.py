"""Fixtures of all tests: base models of random weights, and the command on one of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests import GOLDEN
from tests.support.base_models import VAE, write_base

MADE = {"model=tiny_sdxl", "model=tiny_flow"}
"""Models that are made, not loaded."""

torch.set_num_threads(1)  # the tests run in several processes
os.environ["OMP_NUM_THREADS"] = "1"  # and start others


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD 1.x-like diffusers folder of random weights; do not write into it."""
    return write_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="session")
def random_family(random_base: Path):
    """That base, loaded; put back whatever you change in it."""
    from loralab.models.sd import load

    return load(str(random_base), resolution=64)


@pytest.fixture(scope="session")
def reference_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base that the golden adapter and its outputs were made with; do not write into it."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    golden = GOLDEN / "reference_sd"
    folder = write_base(tmp_path_factory.mktemp("reference") / "sd")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # its UNet is what this seed gives
        UNet2DConditionModel.from_config(json.loads((golden / "unet.json").read_text())).save_pretrained(
            folder / "unet"
        )
        AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    text = load_file(golden / "text_encoder.safetensors")
    words = torch.randn(49408, 32, generator=torch.Generator().manual_seed(1))
    text["text_model.embeddings.token_embedding.weight"] = 0.3 * words
    save_file(text, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    (folder / "text_encoder" / "config.json").write_text((golden / "text_encoder.json").read_text())
    return folder


@pytest.fixture
def train(random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """train(*overrides) runs the command in this process on the small random model and the embedded images.

    Returns the run's folder. The command's exit code must be `code`. Files are fp32.
    """
    from loralab import launch

    def start(*overrides: str, name: str = "run", code: int = 0) -> Path:
        folder = tmp_path / name
        usual = {
            "model.base": str(random_base),
            "trainer.max_steps": "3",
            "adapter.rank": "4",
            "output.precision": "fp32",
            "callbacks.samples.enabled": "false",
            "callbacks.progress.enabled": "false",
            "data.cache_folder": str(tmp_path / "cache"),
            "data.cache.latents": "none",
            "ema.decay": "0.0",
            "objective/weighting": "none",
            "suggested.batch_size": "4",
            "hydra.run.dir": str(folder),
        }
        if not MADE.isdisjoint(overrides):
            del usual["model.base"]
        given = {o.lstrip("+").split("=")[0]: o for o in overrides}  # the last one counts
        argv = [*given.values(), *(f"{key}={value}" for key, value in usual.items() if key not in given)]
        monkeypatch.setattr("sys.argv", ["train.py"])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            launch.main(argv)
        assert (stop.value.code or 0) == code
        return folder

    return start
