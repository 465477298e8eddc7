"""Frozen weights shared out between the processes of a run: each has a part, and the adapter is the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.processes import Processes
from tests.support.runs import command, record, words

STATES = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "callbacks.state.keep_last=null")


@pytest.fixture
def go(random_base: Path, tmp_path: Path):
    """go(*overrides, name=…) trains on two devices, by `trainer=fsdp` unless another is named."""

    def start(*overrides: str, name: str = "run", trainer: str = "fsdp") -> Processes:
        usual = ("adapter.rank=2", "optimizer.lr=1e-3", "data.batch_size=2", "trainer.devices=2", "allow=[tests.]")
        given = (*usual, f"trainer={trainer}", *overrides)
        return Processes(tmp_path / f"{name}-logs", words(random_base, tmp_path / name, *given))

    return start


@pytest.fixture
def both(go, tmp_path: Path):
    """both(*overrides) trains with the base shared out and with all of it on each device; returns the two folders."""

    def start(*overrides: str) -> tuple[Path, Path]:
        for name in ("fsdp", "ddp"):
            run = go(*overrides, name=name, trainer=name)
            assert run.wait() == [0, 0], run.said()
        return tmp_path / "fsdp", tmp_path / "ddp"

    return start


@pytest.mark.slow
@pytest.mark.ci
def test_the_adapter_is_that_of_ddp_and_each_device_keeps_half(both, random_base: Path) -> None:
    """Also what is alive in the memory of each is less by the other's half. All but vectors is shared out."""
    shared, whole = both("+callbacks.alive._target_=tests.support.callbacks.Alive", "model.clip_skip=2")
    close(shared, whole)
    base = [tensor for part in ("unet", "text_encoder") for tensor in weights(random_base / part)]
    vectors = sum(tensor.nbytes for tensor in base if tensor.dim() < 2)
    shares = record(shared)["shares"]
    assert shares["bytes"] == sum(tensor.nbytes for tensor in base)
    for rank, own in enumerate(shares["bytes_of_each"]):
        assert own == pytest.approx(vectors + (shares["bytes"] - vectors) / 2, rel=0.01)
        alive = [json.loads((folder / f"alive-{rank}.json").read_text()) for folder in (whole, shared)]
        for before, after in zip(*alive, strict=True):
            assert before - after > 0.95 * (shares["bytes"] - own)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        ("adapter=dora", "model.gradient_checkpointing=true"),
        pytest.param(("adapter=lokr", "model=tiny_zimage", "model.gradient_checkpointing=2"), marks=pytest.mark.ci),
        ("adapter=oft", "model=tiny_zimage"),
        ("adapter=pissa", "adapter.dropout=0.3", "adapter.rank_dropout=0.3", "trainer.accumulate_grad_batches=2"),
        ("objective.preservation_weight=0.5", "model.gradient_checkpointing=true"),
        ("objective=slider", "objective.positive=red", "objective.negative=blue", "model=tiny_sdxl"),
        ("model=tiny_anima", "adapter.conv_rank=null"),
    ],
    ids=" ".join,
)
def test_adapters_that_read_weights_and_steps_of_several_passes_are_those_of_ddp(both, given: tuple[str, ...]) -> None:
    close(*both(*given))


@pytest.mark.slow
def test_mixed_precision_is_that_of_ddp_up_to_its_rounding(both) -> None:
    """By the factors that start at zero: the sums of their gradients."""
    one, other = (
        load_file(folder / "adapter.safetensors")
        for folder in both("trainer.precision=bf16-mixed", "optimizer=sgd", "optimizer.momentum=0", "optimizer.lr=0.1")
    )
    for name in [name for name in one if "lora_up" in name]:
        assert (one[name] - other[name]).norm() < 0.05 * other[name].norm(), name


@pytest.mark.slow
@pytest.mark.ci
def test_states_go_between_one_device_and_several_whole_or_shared_out(go, random_base: Path, tmp_path: Path) -> None:
    """From fsdp to ddp, to one device, and back to fsdp, as a run that nothing happened to."""
    steps = ("trainer.max_steps=4", *STATES)
    whole = go(*steps, name="whole")
    assert whole.wait() == [0, 0], whole.said()
    second = go(*steps, "trainer.max_steps=2", f"resume={state(tmp_path / 'whole', 1)}", name="ddp", trainer="ddp")
    assert second.wait() == [0, 0], second.said()
    one = ("adapter.rank=2", "optimizer.lr=1e-3", "data.batch_size=4", "trainer=cpu")
    one = (*one, *steps, "trainer.max_steps=3", f"resume={state(tmp_path / 'ddp', 2)}")
    third = command(random_base, tmp_path / "one", *one)
    last = go(*steps, f"resume={state(third, 3)}", name="last")
    assert last.wait() == [0, 0], last.said()
    assert record(tmp_path / "last")["resumed"] == str(state(third, 3))
    close(tmp_path / "last", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.ci
def test_pictures_and_losses_that_need_the_whole_model_are_those_of_ddp(both) -> None:
    """All devices draw, and the first one writes; the state before them is that of training."""
    words = ("callbacks.samples.enabled=true", "callbacks.samples.steps=2", "callbacks.samples.every_n_steps=2")
    words += (
        "data.validation.split=0.3",
        "callbacks.validation.every_n_steps=1",
    )
    words += ("callbacks.sample_losses.base_every_n_steps=1", "ema.decay=0.9", "data.cache.latents=memory")
    shared, whole = both(*words)
    close(shared, whole)
    assert record(shared)["status"] == "finished"
    assert record(shared)["metrics"]["validation/loss"] == pytest.approx(record(whole)["metrics"]["validation/loss"])
    pictures = sorted(path.name for path in (shared / "samples").iterdir())
    assert pictures == sorted(path.name for path in (whole / "samples").iterdir())
    for name in pictures:
        one, other = (np.asarray(Image.open(folder / "samples" / name), np.int16) for folder in (shared, whole))
        assert np.abs(one - other).max() <= 2, name


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.ci)])
def test_a_killed_process_ends_the_others(go, tmp_path: Path, rank: int) -> None:
    kill = {"_target_": "tests.support.callbacks.KillAt", "rank": rank, "step": 2, "file": tmp_path / "killed"}
    run = go(*(f"+callbacks.kill.{key}={value}" for key, value in kill.items()))
    assert sorted(run.wait()) == [-9, 1], run.said()
    assert "the connection to another process of this run has ended" in run.said(1 - rank)


@pytest.mark.slow
def test_what_fails_on_one_device_while_all_look_ends_the_run(go) -> None:
    """The others wait in the middle of the model; where only a file cannot be written, they do not."""
    run = go("+callbacks.look._target_=tests.support.callbacks.FailingLook")
    assert run.wait() == [1, 1], run.said()
    assert "no picture" in run.said(1)
    assert "the connection to another process of this run has ended" in run.said(0)


@pytest.mark.slow
def test_one_device_has_nothing_to_share(random_base: Path, tmp_path: Path) -> None:
    trained = {}
    for trainer in ("fsdp", "ddp"):
        given = (f"trainer={trainer}", "trainer.devices=1")
        trained[trainer] = command(random_base, tmp_path / trainer, *given)
    one, other = (load_file(folder / "adapter.safetensors") for folder in trained.values())
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    assert "shares" not in record(trained["fsdp"])


def weights(part: Path) -> list[torch.Tensor]:
    return [tensor for file in part.glob("*.safetensors") for tensor in load_file(file).values()]


def state(run: Path, step: int) -> Path:
    return run / "states" / f"step{step:08d}"


def close(first: Path, second: Path, atol: float = 1e-5) -> None:
    """Two runs' adapters, of which rounding may have made a difference: gradients are summed in another order."""
    one, other = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(other[name], tensor, rtol=0, atol=atol), f"{name}: {(other[name] - tensor).abs().max()}"
