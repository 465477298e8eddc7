"""Training by the command from shards and from an object store: the same adapter to the bit, whatever the network."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from tests.support.object_store import SECRETS, Network, put
from tests.support.runs import adapter, command, record
from tests.support.verbs import loralab

_LONG = (pytest.mark.slow, pytest.mark.ci)
SETTINGS = (
    *("data=folder", "data.batch_size=2", "optimizer.lr=1e-2", "trainer.max_epochs=1", "trainer.max_steps=6"),
    *("adapter.rank=2", "data.captions.shuffle=true", "data.augment.flip=true", "data.augment.random_crop=true"),
    "logger=csv",
)


def of(root: str) -> tuple[str, ...]:
    return (*SETTINGS, f"data.folder={root}", f"data.mask_folder={root}/masks")


@pytest.fixture(scope="module")
def plain(random_base: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter from the folder itself."""
    return adapter(command(random_base, tmp_path_factory.mktemp("plain") / "run", *of(str(images))))


@pytest.fixture
def shards(images: Path, tmp_path: Path) -> Path:
    """In a folder of the same name, as that is in the metadata of adapter files."""
    loralab("shards", images, tmp_path / "packed" / "set")
    return tmp_path / "packed" / "set"


def test_from_shards(train, plain: bytes, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(*of(str(shards)), name="shards")
    assert adapter(run) == plain
    said = f"{shards}: 1 tar shards, 42 files"
    assert f"source    {said}" in capsys.readouterr().out
    assert record(run)["data"]["sources"][0].startswith(said)
    assert [path.name for path in shards.iterdir()] == ["000.tar"]
    workers = train(*of(str(shards)), "data.num_workers=2", name="workers")
    assert adapter(workers) == plain


def test_latents_cached_from_shards(train, images: Path, shards: Path) -> None:
    cached = ("data.cache.latents=disk", "data.augment.random_crop=false")
    runs = [
        train(*of(str(root)), *cached, f"data.cache_folder={root.parent}/cache{n}", name=f"run{n}")
        for n, root in enumerate((images, shards))
    ]
    assert adapter(runs[0]) == adapter(runs[1])


def test_resumed_from_shards(train, plain: bytes, images: Path, shards: Path, tmp_path: Path) -> None:
    """Begun with the folder, continued with its shards: the content is the same, so the state fits."""
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1")
    train(*of(str(images)), *states, "trainer.max_steps=3", name="run")
    shutil.move(images, images.with_name("away"))
    try:
        run = train(*of(str(shards)), *states, "resume=auto", f"resume_root={tmp_path}/run", name="resumed")
    finally:
        shutil.move(images.with_name("away"), images)
    assert adapter(run) == plain
    assert record(run)["resumed"].endswith("00000003")


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("folder", "drop"),
        ("shards", "refuse"),
        *(
            pytest.param(*given, marks=_LONG)
            for given in (("folder", "slow"), ("folder", "refuse"), ("shards", "drop"))
        ),
    ],
)
def test_from_an_object_store(
    train, plain: bytes, images: Path, shards: Path, network: Network, kind: str, fault: str, tmp_path: Path
) -> None:
    url = put(images if kind == "folder" else shards, f"{kind}/set")
    contents = itertools.count()
    network.fault = lambda path: fault if path.endswith((".png", ".tar")) and next(contents) % 3 == 0 else ""
    run = train(*of(url), name="remote")
    assert adapter(run) == plain
    assert network.faults[fault] > 0
    assert f"source    {url}" in (run / "train.log").read_text()
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert not any(secret.encode() in file.read_bytes() for secret in SECRETS.values()), file


@pytest.mark.slow
def test_the_server_stays_away(
    train, images: Path, network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of training: an error that says so, not a damaged image that another replaces; then it goes on."""
    url = put(images, "away/set")
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "data.downloads_gb=0")
    network.fault = lambda path: "refuse" if any((tmp_path / "run").glob("states/step*")) else ""
    train(*of(url), *states, name="run", code=1)
    said = "".join(capsys.readouterr())
    assert f"{url}/" in said
    assert "could not be reached after 4 attempts" in said
    assert not any(secret in said for secret in SECRETS.values())
    network.fault = lambda path: ""
    assert record(train(*of(url), *states, "resume=auto", name="run"))["status"] == "finished"
