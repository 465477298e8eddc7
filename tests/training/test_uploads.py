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


@pytest.mark.slow
@pytest.mark.ci
def test_a_fresh_machine_goes_on_from_the_newest_state_in_the_bucket(
    train, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same command, whatever its folder is called; damaged, incomplete and others' states are skipped."""
    places = (f"output.folder=s3://{BUCKET}/jobs", "resume=auto", f"resume_root={tmp_path / 'outputs'}")
    words = (*STATES, *places, "trainer.max_steps=6")
    stop = {"_target_": "tests.support.callbacks.SignalAt", "batch": 4, "name": "SIGTERM"}
    stopped = (*words, "allow=[tests.]", *(f"+callbacks.stop.{key}={value}" for key, value in stop.items()))
    train(*stopped, name="first", code=143)
    train(*words, "seed=1", name="other")
    store, states = fsspec.filesystem("s3"), f"{BUCKET}/jobs/first/states"
    assert {path.rpartition("/")[2] for path in store.ls(states, detail=False)} == {"step00000003", "step00000004"}
    store.copy(f"{states}/step00000004/state.json", f"{states}/step00000005/state.json")  # without its tensors
    store.pipe_file(f"{states}/step00000004/state.ckpt", b"cut short")

    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("LORALAB_CACHE", str(tmp_path / "empty"))
    capsys.readouterr()
    again = train(*words, name="second")
    assert f"s3://{states}/step00000004 has a damaged state.ckpt" in (said := capsys.readouterr().out)
    assert f"resume: found s3://{states}/step00000003" in said
    assert record(again)["resumed"].endswith("step00000003")
    assert adapter(again) == adapter(train("trainer.max_steps=6", name="whole"))

    train(*stopped, "seed=2", name="third", code=143)
    capsys.readouterr()
    train(*words, "seed=2", name="third")
    assert "resume: found" not in (said := capsys.readouterr().out), "it is on this disk"
    assert f"resuming from step 4 of {tmp_path / 'third'}" in said
