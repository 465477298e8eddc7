"""A run that is stopped and resumed gives the very file of one that never stopped (fp32, on a CPU)."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from loralab.training import marker
from tests import ROOT
from tests.support.processes import forked
from tests.support.runs import adapter, command

STATES = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "callbacks.state.keep_last=null")
RANDOM = (
    "data.captions.shuffle=true",
    "data.captions.dropout_rate=0.2",
    "data.captions.tag_dropout_rate=0.2",
    "data.augment.flip=true",
    "adapter.dropout=0.2",
    "adapter.rank_dropout=0.2",
)
PLATEAU = ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.9", "data.validation.split=0.3")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures with tags: four batches of two in an epoch, the last one of one."""
    folder = tmp_path_factory.mktemp("pictures")
    numbers = random.Random(0)
    for i in range(7):
        Image.frombytes("RGB", (64, 64), numbers.randbytes(64 * 64 * 3)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(", ".join(numbers.sample(["red", "star", "sks", "old", "big", "wet"], 3)))
    return folder


def words_with(pictures: Path, *overrides: str) -> list[str]:
    """Two epochs, eight steps, of the pictures."""
    words = ["data=folder", f"data.folder={pictures}", "data.batch_size=2", "optimizer.lr=1e-2"]
    words += ["trainer.max_epochs=2", "trainer.max_steps=null", "adapter.rank=2", "logger=csv"]
    given = {override.split("=")[0] for override in overrides}
    return [*(word for word in words if word.split("=")[0] not in given), *overrides]


@pytest.fixture
def go(train, pictures: Path):
    """go(*overrides, name=…) trains eight steps of the pictures."""

    def start(*overrides: str, name: str, code: int = 0) -> Path:
        return train(*words_with(pictures, *overrides), name=name, code=code)

    return start


@pytest.fixture(scope="module")
def whole(random_base: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with nothing special, and a state after each of its steps; do not write into it."""
    return command(random_base, tmp_path_factory.mktemp("whole") / "run", *words_with(pictures, *STATES))


def state(folder: Path, step: int) -> Path:
    return folder / "states" / f"step{step:08d}"


def test_it_goes_on_from_anywhere(go) -> None:
    """In the middle of an epoch, at its last batch, in the second; resumed twice; with other workers and loggers."""
    whole = go(*RANDOM, name="whole")
    stopped = go(*RANDOM, *STATES, name="stopped")
    assert adapter(stopped) == adapter(whole), "saving states changes nothing"
    others = ("data.num_workers=2", "trainer.log_every_n_steps=2", "logger=tensorboard")
    again = go(*RANDOM, *STATES, f"resume={state(stopped, 1)}", *others, name="again")
    assert adapter(again) == adapter(whole)
    for step in (3, 4, 7):  # resumed in the epoch of the first state, after its last batch, in the next
        twice = go(*RANDOM, f"resume={state(again, step)}", name=f"twice{step}")
        assert adapter(twice) == adapter(whole), step


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("optimizer=adamw", "scheduler=cosine", "ema.decay=0.9"), id="adamw, cosine, ema"),
        pytest.param(("optimizer=adam8bit", "optimizer.min_8bit_size=16"), id="adam8bit"),
        pytest.param(("optimizer=prodigy", "optimizer.lr=1.0"), id="prodigy"),
        pytest.param(("optimizer=schedulefree",), id="schedulefree"),
        pytest.param(
            (*PLATEAU, "callbacks.validation.every_n_steps=1"),
            id="plateau",
        ),
        pytest.param(("data.cache.latents=disk", *RANDOM, "adapter=lokr", "adapter.module_dropout=0.2"), id="cached"),
        pytest.param(("optimizer=adafactor", "trainer.gradient_clip_val=null"), id="adafactor", marks=pytest.mark.slow),
        pytest.param(("optimizer=lion8bit", "optimizer.min_8bit_size=16"), id="lion8bit", marks=pytest.mark.slow),
        pytest.param(
            ("optimizer=ademamix8bit", "optimizer.min_8bit_size=16"), id="ademamix8bit", marks=pytest.mark.slow
        ),
        pytest.param(("optimizer=dadapt_adam", "optimizer.lr=1.0"), id="dadapt_adam", marks=pytest.mark.slow),
        pytest.param(("optimizer=sgd", "adapter=dora"), id="sgd, dora", marks=pytest.mark.slow),
        pytest.param(("adapter=loha", "targets=unet_only"), id="loha", marks=pytest.mark.slow),
        pytest.param(("adapter=pissa", "adapter.dropout=0.2", "adapter.iterations=2", "ema.decay=0.9"), id="pissa"),
        pytest.param(
            ("adapter=oft", "adapter.rescaled=true", "adapter.constraint=0.01"), id="oft", marks=pytest.mark.slow
        ),
        pytest.param(("adapter=boft", "targets=unet_only"), id="boft", marks=pytest.mark.slow),
        pytest.param(("adapter=t_lora", "adapter.orthogonal=true"), id="t_lora", marks=pytest.mark.slow),
        pytest.param(("adapter=ia3", "adapter.rank=1", "targets=ia3"), id="ia3", marks=pytest.mark.slow),
        pytest.param(("model.max_token_length=150", "data.buckets.enabled=false"), id="long", marks=pytest.mark.slow),
    ],
)
def test_with_every_kind_of_state(go, words: tuple[str, ...]) -> None:
    whole = go(*words, *STATES, name="whole")
    resumed = go(*words, f"resume={state(whole, 3)}", name="resumed")
    assert adapter(resumed) == adapter(whole)


def test_a_plateau_lowers_the_rate_before_the_cut(go) -> None:
    """Else the test above would show nothing."""
    whole = go(*PLATEAU, *STATES, "callbacks.validation.every_n_steps=1", name="whole")
    saved = torch.load(state(whole, 3) / "state.ckpt", weights_only=True)
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-2


def test_an_open_accumulation_window_is_finished(go) -> None:
    """Windows of three in epochs of four batches: one of three, then one of a single batch."""
    words = ("trainer.accumulate_grad_batches=3", "callbacks.state.enabled=true", "allow=[tests.]")
    whole = go(*words, name="whole")
    assert json.loads((state(whole, 4) / "state.json").read_text())["epoch"] == 2
    signal_at = ("+callbacks.stop._target_=tests.support.callbacks.SignalAt", "+callbacks.stop.batch=2")
    stopped = go(*words, *signal_at, name="stopped", code=143)
    assert json.loads((stopped / "run.json").read_text())["status"] == "interrupted"
    marker = json.loads((state(stopped, 1) / "state.json").read_text())
    assert (marker["step"], marker["epoch"], marker["batch"]) == (1, 0, 3)
    assert not (stopped / "adapter.safetensors").exists()
    resumed = go(*words, f"resume={state(stopped, 1)}", name="resumed")
    assert adapter(resumed) == adapter(whole)


def test_a_short_window_is_divided_like_the_others(go, capsys: pytest.CaptureFixture) -> None:
    """An epoch of one batch, in windows of three: the step of a third of the rate."""
    words = ("optimizer=sgd", "optimizer.momentum=0", "trainer.gradient_clip_val=null", "trainer.limit_train_batches=1")
    words += ("trainer.max_epochs=1", "health.stop_if_unchanged=false", "output.metadata=false")
    short = go(*words, "optimizer.lr=3.0", "trainer.accumulate_grad_batches=3", name="short")
    assert "1 optimizer steps of 3 batches" in capsys.readouterr().out
    third = go(*words, "optimizer.lr=1.0", name="third")
    short, third = (load_file(folder / "adapter.safetensors") for folder in (short, third))
    assert any(tensor.any() for name, tensor in third.items() if name.endswith("lora_up.weight"))
    for name, tensor in third.items():
        assert torch.allclose(short[name], tensor, rtol=1e-3, atol=1e-8), name


@pytest.mark.slow
def test_devices_may_change_where_the_batch_of_all_stays(go, pictures: Path, random_base: Path, tmp_path: Path) -> None:
    """From one device to two with half the batch each; on a CPU two processes stand for them."""
    whole = go(*STATES, name="whole")
    two = ("trainer=ddp", "trainer.devices=2", f"resume={state(whole, 5)}")
    go(*two, name="refused", code=1)
    words = json.loads((whole / "run.json").read_text())["overrides"]
    words = [word for word in words if not word.startswith("data.batch_size")]
    words += [*two, "data.batch_size=1", f"hydra.run.dir={tmp_path / 'resumed'}"]
    command = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images ") == 1, "one of the two speaks"
    expected, found = (load_file(folder / "adapter.safetensors") for folder in (whole, tmp_path / "resumed"))
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-3, atol=1e-4), name


def test_a_state_holds_no_frozen_weights(go) -> None:
    folder = go(*STATES, "trainer.max_steps=1", "trainer.max_epochs=null", name="run")
    file = state(folder, 1) / "state.ckpt"
    saved = torch.load(file, weights_only=True)["state_dict"]
    assert all(name.startswith("adapters.") for name in saved)
    adapter_and_adam = 3 * sum(4 * tensor.numel() for tensor in saved.values())
    assert file.stat().st_size < 1.2 * adapter_and_adam + 500 * len(saved) * 3  # and the names and places of tensors


def test_only_the_last_states_are_kept(go) -> None:
    folder = go(*STATES[:2], "callbacks.state.keep_last=2", name="run")
    assert [path.name for path in sorted((folder / "states").iterdir())] == ["step00000007", "step00000008"]


def test_auto_takes_the_newest_that_is_whole(go, whole: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    auto = ("resume=auto", f"resume_root={tmp_path}")
    folder = Path(shutil.copytree(whole, tmp_path / "damaged"))
    for step in (6, 7, 8):
        damage(folder, step)
    resumed = go(*auto, name="resumed")
    said = capsys.readouterr().out
    assert f"resuming from step 5 of {state(folder, 5)}" in said
    assert "is incomplete" in said
    assert "has a damaged state.ckpt" in said
    assert adapter(resumed) == adapter(whole)
    go(*auto, "seed=1", "trainer.max_steps=1", "trainer.max_epochs=null", name="other")
    assert "starting from scratch" in capsys.readouterr().out


def damage(run: Path, step: int) -> None:
    """Of three kinds: no marker yet, a flipped byte, nothing but an unreadable marker."""
    folder = state(run, step)
    if step == 8:
        (folder / "state.json").unlink()
    elif step == 7:
        content = bytearray((folder / "state.ckpt").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "state.ckpt").write_bytes(content)
    else:
        (folder / "state.ckpt").unlink()
        (folder / "state.json").write_text("{")


def test_a_wrong_path_names_the_last_valid_state(
    go, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    damage(folder, 7)
    damage(folder, 8)
    capsys.readouterr()
    for path, words in (
        (state(folder, 7), "has a damaged state.ckpt"),
        (state(folder, 8), "is incomplete"),
        (state(folder, 9), "was not found"),
        (folder, "is not a training state"),
    ):
        go(f"resume={path}", name="resumed", code=1)
        said = capsys.readouterr().err
        assert words in said
        assert str(state(folder, 6)) in said
        assert "Traceback" not in said


def test_other_settings_are_refused_with_their_differences(
    go, whole: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    resume = f"resume={state(whole, 4)}"
    capsys.readouterr()
    go(resume, "optimizer.lr=2e-2", "adapter.rank=4", name="other", code=1)
    said = capsys.readouterr().err
    assert "optimizer.lr: 0.02 here, 0.01 in the state" in said
    assert "adapter.rank: 4 here, 2 in the state" in said
    assert "resume_force=true" in said

    caption = pictures / "0.txt"
    before = caption.read_text()
    caption.write_text("another")
    try:
        go(resume, name="other data", code=1)
    finally:
        caption.write_text(before)
    assert "images and captions: differs" in capsys.readouterr().err


def test_resume_force_lets_the_new_settings_count(go, whole: Path) -> None:
    """From step 4 on with lr 0 in one run and 1e-3 in the other: what was insisted on decides."""
    words = (*STATES, f"resume={state(whole, 4)}", "resume_force=true", "optimizer.weight_decay=0.0")
    slow = go(*words, "optimizer.lr=1e-30", "health.stop_if_unchanged=false", name="slow")
    fast = go(*words, "optimizer.lr=1e-3", name="fast")
    start, end = (torch.load(state(run, step) / "state.ckpt")["state_dict"] for run, step in ((whole, 4), (slow, 8)))
    assert all(torch.equal(start[name], end[name]) for name in start)
    end = torch.load(state(fast, 8) / "state.ckpt")
    assert end["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-3
    assert not all(torch.equal(start[name], end["state_dict"][name]) for name in start)


def test_resume_force_with_epochs_of_another_length(go, capsys: pytest.CaptureFixture) -> None:
    """From states in epochs of seven batches: the steps of a run are never more than asked for, and its epochs are as
    many, and whole."""
    folder = go(*STATES, "data.batch_size=1", name="run")
    steps = "trainer.max_epochs=null", "trainer.max_steps={}"
    for at, words, step, place in (
        (5, ("data.batch_size=2",), 9, (2, 0)),  # an epoch of four batches is over with the fifth
        (5, ("data.batch_size=2", steps[0], steps[1].format(6)), 6, (1, 1)),
        (3, ("data.batch_size=2", "trainer.accumulate_grad_batches=2"), 6, (2, 0)),  # one window of the epoch is left
        (10, ("trainer.limit_train_batches=4",), 11, (2, 0)),  # one batch of the second epoch is left
        (12, ("trainer.limit_train_batches=5",), 12, (2, 0)),  # it is over, and with it the run
    ):
        words = (*STATES, "data.batch_size=1", f"resume={state(folder, at)}", "resume_force=true", *words)
        capsys.readouterr()
        resumed = go(*{word.split("=")[0]: word for word in words}.values(), name=f"from {at} {len(words)}")
        assert ("nothing left to do" in capsys.readouterr().out) == (step == at)
        assert json.loads((resumed / "run.json").read_text())["steps"] == step
        if step > at:
            marker = json.loads((state(resumed, step) / "state.json").read_text())
            assert (marker["epoch"], marker["batch"]) == place
            assert max(path.name for path in resumed.glob("states/*")) == state(resumed, step).name


def test_resume_force_does_not_take_other_adapters(go, whole: Path, capsys: pytest.CaptureFixture) -> None:
    go(f"resume={state(whole, 4)}", "resume_force=true", "adapter.rank=4", name="other", code=1)
    assert "the state's adapters differ from this run's" in capsys.readouterr().err


def test_a_run_can_be_made_longer_where_the_schedule_has_no_end(go, whole: Path, capsys: pytest.CaptureFixture) -> None:
    longer = ("trainer.max_epochs=3",)
    assert adapter(go(*longer, f"resume={state(whole, 8)}", name="resumed")) == adapter(go(*longer, name="longer"))
    cosine = go("scheduler=cosine", *STATES, name="cosine")
    capsys.readouterr()
    go("scheduler=cosine", *longer, f"resume={state(cosine, 8)}", name="longer cosine", code=1)
    assert "was made for 8 optimizer steps, not 12" in capsys.readouterr().err


def test_a_finished_run_is_finished_again(go, whole: Path, capsys: pytest.CaptureFixture) -> None:
    again = go(f"resume={state(whole, 8)}", name="again")
    assert "nothing left to do" in capsys.readouterr().out
    assert adapter(again) == adapter(whole)


@pytest.mark.slow
@pytest.mark.ci
def test_killed_at_any_moment_it_ends_the_same(random_base: Path, pictures: Path, tmp_path: Path) -> None:
    """The command, killed with SIGKILL at random moments and resumed until it is done."""
    words = ["data=folder", f"data.folder={pictures}", "data.batch_size=2", "trainer.max_epochs=20", "adapter.rank=2"]
    words += ["trainer.max_steps=null", "output.precision=fp32", *STATES[:2], *RANDOM, "resume=auto"]
    words += ["trainer.accumulate_grad_batches=3", "ema.decay=0.9", "data.cache.latents=disk", "scheduler=cosine"]
    words += ["optimizer=adam8bit", "optimizer.min_8bit_size=16", "optimizer.lr=1e-3"]
    words += [f"model.base={random_base}", f"data.cache_folder={tmp_path / 'cache'}", "callbacks.samples.enabled=false"]
    words += ["trainer.accelerator=cpu"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(where: Path) -> BaseProcess:
        where.mkdir(exist_ok=True)
        return forked(where, words, where / "log")

    def newest() -> int:
        return max((int(path.name[4:]) for path in killed.glob("outputs/*/*/states/step*")), default=0)

    plain = start(whole)
    plain.join()
    assert plain.exitcode == 0, (whole / "log").read_text()
    numbers, kills, run = random.Random(time.time()), 0, start(killed)
    while run.is_alive():
        until, wait = newest() + numbers.randint(0, 25), numbers.uniform(0, 0.3)
        while run.is_alive() and newest() < until:
            time.sleep(0.01)
        time.sleep(wait)
        if run.is_alive():
            run.kill()
            run.join()
            kills += 1
            run = start(killed)
    assert run.exitcode == 0, (killed / "log").read_text()
    print(f"killed {kills} times")
    assert kills, "of 40 steps the first 25 at most were waited for"
    (expected,) = whole.glob("outputs/*/*/adapter.safetensors")
    final = list(killed.glob("outputs/*/*/adapter.safetensors"))  # two, where one was killed at its end
    assert {file.read_bytes() for file in final} == {expected.read_bytes()}


def test_a_state_and_settings_with_an_old_target(go, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """As if they had been written before loralab.models.sd.load got its present name and timesteps a shift."""
    old, new = "loralab.models.sd.load", "loralab.models.families.sd.load"
    whole = go(*STATES, "trainer.max_steps=4", "trainer.max_epochs=null", name="whole")
    state = next((whole / "states").glob("*2"))
    signature = marker.read(state).signature
    assert signature["model._target_"] == new
    before = {key: value for key, value in signature.items() if not key.startswith("objective.timesteps.shift")}
    marker.write(replace(marker.read(state), signature={**before, "model._target_": old}))
    (tmp_path / "mine" / "model").mkdir(parents=True)
    recipe = f"# @package _global_\ndefaults: [tiny, _self_]\nmodel: {{_target_: {old}}}\n"
    (tmp_path / "mine" / "model" / "mine.yaml").write_text(recipe)
    words = [f"--config-dir={tmp_path / 'mine'}", "model=mine", "trainer.max_steps=4", "trainer.max_epochs=null"]
    resumed = go(*words, f"resume={state}", name="resumed")
    assert f"note: {old} is now called {new}" in capsys.readouterr().err
    first, second = (load_file(run / "adapter.safetensors") for run in (whole, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert new in (resumed / "config" / "config.yaml").read_text()
