"""A run whose folder is uploaded: what is there in the end, what a bad network costs, and resuming from it."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import fsspec
import pytest

from tests.support.object_store import BUCKET, SECRETS, Network
from tests.support.runs import adapter, record

STATES = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "callbacks.state.keep_last=2")


def uploaded(name: str) -> dict[str, bytes]:
    store, root = fsspec.filesystem("s3"), f"{BUCKET}/{name}"
    return {path[len(root) + 1 :]: store.cat_file(path) for path in store.find(root)}


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_folder_is_there_in_the_end_and_a_run_resumes_from_it(
    train, network: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*STATES, f"output.folder=s3://{BUCKET}/out")
    puts = itertools.count()
    network.fault = lambda path: "refuse" if path.endswith("safetensors") and next(puts) % 2 == 0 else ""
    network.methods = ("PUT",)
    run = train(*words, name="first")
    there, here = uploaded("out/first"), contents(run)
    assert network.faults["refuse"] > 0
    assert f"uploaded  s3://{BUCKET}/out/first" in capsys.readouterr().out
    del there["train.log"], here["train.log"]  # it goes on after the upload
    assert there == {name: content for name, content in here.items() if not Path(name).name.startswith(".")}
    assert not any(secret.encode() in content for content in there.values() for secret in SECRETS.values())

    longer = "trainer.max_steps=5"
    whole = train(longer, name="whole")
    shutil.rmtree(run)
    again = train(*words, longer, f"resume=s3://{BUCKET}/out/first", name="second")
    assert adapter(again) == adapter(whole)
    assert record(again)["resumed"].endswith("3")
    train(*words, f"resume=s3://{BUCKET}/out/none", name="none", code=1)
    assert "contains no training state" in capsys.readouterr().err


def test_a_server_that_goes_away_costs_no_run(
    train, network: Network, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loralab.training.uploads.EVERY", 0.2)
    network.methods = ("PUT", "POST")
    network.fault = lambda path: "refuse"
    run = train(f"output.folder=s3://{BUCKET}/away", name="run")
    assert record(run)["status"] == "finished"
    assert (run / "adapter.safetensors").exists()
    said = capsys.readouterr().err
    assert said.count("could not be reached") == 1
    assert "files could not be uploaded" in said
    assert f"all are in {run}" in said
    assert not any(secret in said for secret in SECRETS.values())


def test_a_bucket_that_is_not_there_ends_it_before_training(train, network: Network) -> None:
    network.fault, network.methods = (lambda path: "refuse"), ("GET",)
    run = train(f"output.folder=s3://{BUCKET}/never", name="run", code=1)
    assert not (run / "adapter.safetensors").exists()
