"""Machines that share a cache by way of a bucket: nothing is encoded twice, and no fault of the network counts."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from loralab import remote
from tests.support.object_store import BUCKET, Network
from tests.support.runs import adapter, record

SETTINGS = (
    *("data=folder", "data.cache.latents=disk", "data.cache.text=true", "targets=unet_only"),
    *("data.augment.flip=true", "trainer.max_steps=4", "optimizer.lr=1e-2", "adapter.rank=2"),
)


@pytest.fixture
def url(network: Network, tmp_path: Path) -> str:
    return f"s3://{BUCKET}/{tmp_path.name}"


@pytest.fixture
def machine(train, images: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """machine(name) trains on a disk of its own; returns the run, and what it printed."""

    runs = itertools.count()

    def start(name: str, folder: Path = images, code: int = 0) -> tuple[Path, str]:
        capsys.readouterr()
        places = (f"data.folder={folder}", f"data.mask_folder={folder}/masks", f"data.cache_folder={tmp_path / name}")
        run = train(*SETTINGS, *places, f"data.cache.share={url}", name=f"run{next(runs)}", code=code)
        return run, "".join(capsys.readouterr())

    return start


def packs(url: str, kind: str = "latents") -> dict[str, int]:
    """Their sizes, by URL."""
    return {entry.url: entry.size for entry in remote.files(f"{url}/{kind}", "data.cache.share")}


def test_what_one_has_encoded_others_download(machine, url: str, images: Path, tmp_path: Path) -> None:
    first, said = machine("first")
    assert "0 of 14 were cached, 14 encoded" in said
    assert (len(packs(url)), len(packs(url, "texts"))) == (1, 1)
    second, said = machine("second")
    assert "14 of 14 were cached, 0 encoded" in said
    assert adapter(first) == adapter(second)
    assert (len(packs(url)), len(packs(url, "texts"))) == (1, 1), "nothing is uploaded twice"

    shutil.copytree(images, tmp_path / "more")
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "more" / "new.png")
    _, said = machine("third", tmp_path / "more")
    assert "14 of 15 were cached, 1 encoded" in said
    new, old = sorted(packs(url).values())
    assert new < old / 5, "a pack of the new one alone"


def test_uploads_that_fail_cost_nothing_and_are_made_up_for(machine, url: str, network: Network) -> None:
    network.methods, network.fault = ("PUT", "POST"), lambda path: "refuse"
    run, said = machine("first")
    assert record(run)["status"] == "finished"
    assert "data.cache.share" in said
    assert "the run continues" in said
    assert not packs(url)
    network.fault = lambda path: ""
    machine("first")
    assert "14 of 14 were cached, 0 encoded" in machine("second")[1]


def test_a_damaged_pack_is_not_used(machine, url: str, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = machine("first")
    (pack,) = packs(url)
    data = bytearray(remote.read(pack, "data.cache.share"))
    data[-100] ^= 1
    fsspec.filesystem("s3").pipe_file(pack, bytes(data))
    second, said = machine("second")
    assert f"{pack} is damaged, and not used" in caplog.text
    assert "0 of 14 were cached, 14 encoded" in said
    assert adapter(first) == adapter(second)


def test_a_bucket_that_cannot_be_read_ends_it_before_training(machine, url: str, network: Network) -> None:
    network.fault = lambda path: "refuse"
    _, said = machine("first", code=1)
    assert f"data.cache.share: {url}/latents could not be reached" in said
