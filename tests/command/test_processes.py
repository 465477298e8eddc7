"""Runs on several devices: their processes see what one device would have seen, and only the first one writes."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import ROOT
from tests.support.processes import Processes
from tests.support.runs import adapter, command, record, words

TWO = ("trainer=ddp", "trainer.devices=2")
EPOCHS = ("trainer.max_steps=null", "trainer.max_epochs=2", "logger=csv", "trainer.log_every_n_steps=1")

SHORT = ("trainer.max_steps=3", "trainer.max_epochs=null")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven images in two buckets, twice in an epoch: four batches of four, the last of two; two of four."""
    folder = tmp_path_factory.mktemp("pictures") / "2_thing"
    folder.mkdir()
    numbers = random.Random(0)
    for i in range(11):
        width, height = (64, 64) if i < 7 else (64, 128)
        Image.frombytes("RGB", (width, height), numbers.randbytes(width * height * 3)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(numbers.choice(["red", "star", "old"]))
    return folder.parent


@pytest.fixture
def go(random_base: Path, pictures: Path, tmp_path: Path):
    """go(*overrides, name=…) starts two processes of a run, as torchrun would; with world=1 it runs in this process."""

    def start(*overrides: str, name: str = "run", world: int = 2, **given) -> Processes:
        data = ("data=folder", f"data.folder={pictures}", "data.batch_size=2", "adapter.rank=2", "optimizer.lr=1e-2")
        data += ("data.buckets.min_resolution=32", "data.buckets.step=32")
        if world == 1:
            return command(random_base, tmp_path / name, *data, *EPOCHS, *overrides)
        argv = words(random_base, tmp_path / name, *data, *EPOCHS, *TWO, f"trainer.devices={world}", *overrides)
        return Processes(tmp_path / f"{name}-logs", argv, world, **given)

    return start


def losses(folder: Path) -> list[float]:
    """Of each step, as logged."""
    (file,) = folder.rglob("metrics.csv")
    with file.open() as lines:
        return [float(row["loss_step"]) for row in csv.DictReader(lines) if row.get("loss_step")]


def test_two_devices_train_as_one_with_the_batches_of_both(go, tmp_path: Path) -> None:
    """Rounding alone may differ."""
    two = go(name="two")
    assert two.wait() == [0, 0], two.said()
    one = go("data.batch_size=4", name="one", world=1)
    assert len(losses(one)) == 12
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)
    close(tmp_path / "two", one)


@pytest.mark.slow
def test_devices_may_change_where_the_batch_of_all_stays(go, tmp_path: Path) -> None:
    """From two to one and back to two, in the middle of epochs; another batch of all is refused."""
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "callbacks.state.keep_last=null")
    whole = go(*states, name="whole")
    assert whole.wait() == [0, 0], whole.said()
    one = go(*states, "data.batch_size=4", f"resume={state(tmp_path / 'whole', 4)}", name="one", world=1)
    two = go(f"resume={state(one, 9)}", name="two")
    assert two.wait() == [0, 0], two.said()
    close(tmp_path / "two", tmp_path / "whole")
    same = go(f"resume={state(tmp_path / 'whole', 4)}", name="same")
    assert same.wait() == [0, 0], same.said()
    assert adapter(tmp_path / "same") == adapter(tmp_path / "whole"), "of as many devices, bit for bit"
    refused = go(f"resume={state(one, 9)}", "data.batch_size=4", name="refused")
    refused.processes[0].join(60)
    refused.kill(1)  # as torchrun does
    assert refused.wait() == [1, -9], refused.said()
    assert "data.batch_size × devices: 8 here, 4 in the state" in refused.said(0)


def test_one_bucket_of_the_adapters_gradients_is_exchanged_in_each_step(go, tmp_path: Path) -> None:
    """Also where some adapters have no gradient: those behind the layer that clip skip reads, and dropped ones."""
    words = ("model.clip_skip=2", "adapter.module_dropout=0.5", "trainer.accumulate_grad_batches=2", "allow=[tests.]")
    run = go(*words, "+callbacks.exchanged._target_=tests.support.callbacks.Exchanged", *SHORT)
    assert run.wait() == [0, 0], run.said()
    for rank in (0, 1):
        found = json.loads((tmp_path / "run" / f"exchanged-{rank}.json").read_text())
        assert found["buckets"] == [[step, found["trained"]] for step in range(3)]


@pytest.mark.slow
@pytest.mark.ci
def test_all_devices_have_the_same_weights_and_only_the_first_writes(go, tmp_path: Path) -> None:
    """The trained ones, an average of them, and those of a schedule-free optimizer, also where they are looked at
    before the losses were."""
    words = ("optimizer=schedulefree", "ema.decay=0.5", "allow=[tests.]", "callbacks.export.every_n_steps=1")
    words += ("+callbacks.late._target_=tests.support.callbacks.LookLate", "trainer.log_every_n_steps=10")
    words += ("+callbacks.weights._target_=tests.support.callbacks.Weights", "callbacks.samples.enabled=true")
    words += ("callbacks.samples.steps=1", "callbacks.samples.every_n_steps=2", "data.cache.latents=memory")
    run = go(*words, *SHORT, "data.validation.split=0.3", "callbacks.validation.every_n_steps=1")
    assert run.wait() == [0, 0], run.said()
    first, second = ((tmp_path / "run" / f"weights-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert len({word for line in first.splitlines() for word in line.split()}) == 5, (
        "an average begins with the weights"
    )
    assert run.said(0).count("latents ") == 1, "one of the two speaks"
    assert re.search(r"latents   0 of (\d+) were cached, \1 encoded", run.said(0)), "each by one of the two"
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".safetensors") == [
        *(f"adapter-step{step:08d}.safetensors" for step in (1, 2, 3)),
        "adapter.safetensors",
    ]
    assert not [*tmp_path.rglob("lightning_logs"), *tmp_path.glob("outputs")]


@pytest.mark.slow
def test_a_signal_to_one_device_ends_all_with_one_state(go, tmp_path: Path) -> None:
    """Which is the same as of a run that nothing has happened to."""
    stop = {"_target_": "tests.support.callbacks.SignalAt", "batch": 3, "name": "SIGTERM", "rank": 1}
    words = [f"+callbacks.stop.{key}={value}" for key, value in stop.items()]
    run = go(*words, "allow=[tests.]")
    assert run.wait() == [143, 143], run.said()
    assert [path.name for path in (tmp_path / "run" / "states").iterdir()] == ["step00000003"]
    assert record(tmp_path / "run")["status"] == "interrupted"
    resumed = go(f"resume={state(tmp_path / 'run', 3)}", name="resumed")
    whole = go(name="whole")
    assert resumed.wait() == whole.wait() == [0, 0], resumed.said()
    assert adapter(tmp_path / "resumed") == adapter(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(go, tmp_path: Path, rank: int) -> None:
    """Within seconds, and with a message; started again it gives the file of a run that nothing has happened to."""
    kill = {"_target_": "tests.support.callbacks.KillAt", "rank": rank, "step": 4, "file": tmp_path / "killed"}
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "resume=auto")
    words = (*(f"+callbacks.kill.{key}={value}" for key, value in kill.items()), "allow=[tests.]", *states)
    run = go(*words, f"resume_root={tmp_path / 'run'}")
    codes = run.wait()
    assert sorted(codes) == [-9, 1], run.said()
    assert "the connection to another process of this run has ended" in run.said(1 - rank)
    again = go(*words, f"resume_root={tmp_path / 'run'}")
    whole = go(*words[:-1], name="whole")
    assert again.wait() == whole.wait() == [0, 0], again.said()
    assert "resuming from step 3" in again.said(0)
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")


def test_processes_that_are_to_do_different_things_say_so(go) -> None:
    run = go(own={1: ["optimizer.lr=0.5", "trainer.max_epochs=7"]})
    assert run.wait() == [1, 1]
    for rank in (0, 1):
        said = run.said(rank)
        assert "optimizer.lr: the processes of this run differ: 0.01 in rank 0; 0.5 in rank 1" in said
        assert "trainer.max_epochs: the processes of this run differ: 2 in rank 0; 7 in rank 1" in said


@pytest.mark.slow
@pytest.mark.ci
def test_machines_need_no_common_disk(go, pictures: Path, tmp_path: Path) -> None:
    """Each has its own images, caches and outputs; one of them is killed, and both start again."""
    kill = {"_target_": "tests.support.callbacks.KillAt", "rank": 1, "step": 4, "file": tmp_path / "killed"}
    there = tmp_path / "there"
    shutil.copytree(pictures, there / "pictures")
    own = [
        f"data.folder={there / 'pictures'}",
        f"data.cache_folder={there / 'cache'}",
        f"hydra.run.dir={there / 'run'}",
    ]
    plain = "output.metadata=false"  # which has the number of machines
    words = ("trainer.num_nodes=2", "trainer.devices=1", "allow=[tests.]", "data.cache.latents=disk", "resume=auto")
    words += ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "resume_root=outputs", plain)
    words += tuple(f"+callbacks.kill.{key}={value}" for key, value in kill.items())
    machines = {"nodes": 2, "cwds": [tmp_path / "here", there / "work"], "own": {1: own}}
    assert go(*words, **machines).wait() == [1, -9]
    again = go(*words, **machines)
    assert again.wait() == [0, 0], again.said()
    assert "resuming from step 3" in again.said(0)
    assert re.search(r"latents   (\d+) of \1 were cached, 0 encoded", again.said(0))
    whole = go("data.cache.latents=disk", plain, name="whole")
    assert whole.wait() == [0, 0], whole.said()
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")
    assert not [*there.rglob("*.safetensors"), *there.rglob("run.json"), *there.rglob("states")]


@pytest.mark.slow
def test_a_sweep_on_two_devices_has_a_folder_for_each_point(random_base: Path, tmp_path: Path) -> None:
    """By the command itself, which starts the second process of each point."""
    points = tmp_path / "points"
    argv = words(random_base, tmp_path / "none", *TWO, "optimizer.lr=1e-3,2e-3", f"hydra.sweep.dir={points}")
    command = [sys.executable, str(ROOT / "train.py"), "-m", *(word for word in argv if "hydra.run.dir" not in word)]
    ended = run_alone(command, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "points"]
    assert sorted(path.name for path in points.iterdir()) == [".lock", "0", "1", "multirun.yaml", "report"]
    one, two = (record(points / number) for number in "01")
    assert one["status"] == two["status"] == "finished"
    assert one["device"] == two["device"] == "cpu × 2"
    assert one["loss"] != two["loss"]


def run_alone(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a process group of its own, which is killed where it takes too long."""
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def state(run: Path, step: int) -> Path:
    return run / "states" / f"step{step:08d}"


def close(first: Path, second: Path) -> None:
    """Two runs' adapters, of which rounding may have made a difference."""
    one, other = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(other[name], tensor, rtol=1e-3, atol=1e-4), name
