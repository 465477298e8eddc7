"""Fixtures of all tests: base models of random weights, and the command on one of them."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loralab import remote
from tests import GOLDEN
from tests.support.base_models import VAE, write_base
from tests.support.object_store import Network, object_store
from tests.support.runs import command

torch.set_num_threads(1)  # the tests run in several processes
os.environ["OMP_NUM_THREADS"] = "1"  # and start others


LONGEST = ("test_learning.py", "test_resume.py")
"""Are first: at the end of a run in several processes they would run alone."""


def pytest_collection_finish() -> None:
    """What the imports have made is no garbage: looking through it again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _end_of_pools() -> Iterator[None]:
    """joblib keeps the processes of a sweep for the next one, which would be in the working folder of this one."""
    yield
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    if loky is not None and loky._executor is not None:
        loky._executor.shutdown(wait=True)


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in that of whoever runs the tests, and nothing is taken from it."""
    os.environ["LORALAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD 1.x-like diffusers folder of random weights; do not write into it."""
    return write_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="session")
def random_family(random_base: Path):
    """That base, loaded; put back whatever you change in it."""
    from loralab.models.families.sd import load

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
    """train(*overrides) runs the command in this process and in the test's folder; see `command`."""

    def start(*overrides: str, name: str = "run", code: int = 0) -> Path:
        monkeypatch.chdir(tmp_path)
        return command(random_base, tmp_path / name, *overrides, code=code)

    return start


@pytest.fixture(scope="module")
def server() -> Iterator[Network]:
    """An object store, and the network in front of it."""
    with object_store() as network:
        yield network


@pytest.fixture
def network(server: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Without faults at first; pauses are short."""
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.02, 0.04))
    server.faults.clear()
    yield server
    server.fault, server.methods = (lambda path: ""), ("GET",)
