"""`memory.limit_gb`, by the public commands: what is said, chosen, kept, refused, and that the result is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from loralab.command.memory_plan import planned
from loralab.command.prepare import prepare
from loralab.memory.estimate import estimate
from loralab.schema.compose import compose
from tests.support.runs import adapter, record
from tests.support.verbs import loralab

ALL_FITS = "memory.limit_gb=100"
QUIET = ("callbacks.samples.enabled=false", "trainer.accelerator=cpu")


def lines(said: str) -> list[str]:
    """What a command says of memory before the model is loaded."""
    return [line for line in said.partition("\nloading")[0].splitlines() if line.startswith("memory")]


COMMON = (
    *("adapter.rank=4", "data.batch_size=2", "data.cache.latents=disk", "ema.decay=0.0"),
    *("callbacks.samples.enabled=false", "trainer.accelerator=cpu"),
)


@pytest.fixture
def below(random_base: Path):
    """below(share, *overrides): the overrides, with a limit that leaves out a share of what they could save."""

    def limited(share: float, *overrides: str) -> list[str]:
        found = estimate(compose([f"model.base={random_base}", *COMMON, *overrides]).tree, "cpu")
        step = found.phases["a training step"]
        limit = found.bytes - share * step["activations and gradients"]
        return [*COMMON, *overrides, f"memory.limit_gb={limit / 2**30:.5f}"]

    return limited


def test_a_limit_with_room_changes_nothing(train, capsys) -> None:
    plain = train("data.batch_size=3", name="plain")
    capsys.readouterr()
    limited = train("data.batch_size=3", ALL_FITS, name="limited")
    assert adapter(limited) == adapter(plain), "the dry run of the largest batch leaves no trace"
    said = capsys.readouterr().out
    assert lines(said)[-1] == "memory    nothing had to be changed"
    memory = record(limited)["memory"]
    assert memory["choices"] == []
    assert memory["measured_gb"] == record(limited)["peak_memory_gb"]
    assert sum(memory["parts_gb"].values()) == pytest.approx(memory["estimated_gb"], abs=0.01)
    assert f"{memory['measured_gb']:.2f} GB at the peak · {memory['estimated_gb']:.2f} GB estimated" in said
    assert "memory" not in record(plain)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_plan_says_what_training_does(train, below, random_base: Path, capsys, share: float) -> None:
    overrides = below(share)
    run = train(*overrides, name="run")
    trained = lines(capsys.readouterr().out)
    loralab("plan", f"model.base={random_base}", *overrides)
    assert lines(capsys.readouterr().out) == trained
    chosen = [choice["settings"] for choice in record(run)["memory"]["choices"]]
    assert chosen[0].keys() <= {"model.attention", "model.gradient_checkpointing"}
    config = OmegaConf.load(run / "config" / "config.yaml")
    for key, value in ((key, value) for settings in chosen for key, value in settings.items()):
        assert OmegaConf.select(config, key) == value, "what was chosen is among the run's settings"


def test_what_is_set_stays_and_what_fits_nowhere_is_refused(train, below, capsys) -> None:
    """Before the model is loaded, with single changes that would be enough."""
    stays = ["model.attention=auto", "model.gradient_checkpointing=false", "model.dtype=fp32", "targets=unet_only"]
    run = train(*below(0.1, *stays, "trainer.accumulate_grad_batches=1"), code=1)
    said = capsys.readouterr()
    assert "memory.limit_gb" in said.err
    assert "model.gradient_checkpointing=" in said.err.partition("→")[2]
    assert "loading" not in said.out
    assert not (run / "run.json").exists()


def test_a_refusal_names_each_change_once(capsys) -> None:
    """Quantised weights want a dtype, which was chosen before them."""
    loralab("plan", "memory.limit_gb=0.5", *QUIET, code=1)
    changes = capsys.readouterr().err.partition(", with ")[2].partition("→")[0].split()
    assert "model.quantize=nf4" in changes
    assert len(changes) == len(set(changes))


@pytest.mark.parametrize("value", ["0", "-1", "much", "true", "[8]"])
def test_other_limits_are_refused(train, capsys, value: str) -> None:
    train(f"memory.limit_gb={value}", code=1)
    assert "memory.limit_gb: invalid value" in capsys.readouterr().err


def test_auto_is_what_is_free(capsys) -> None:
    loralab("plan", "memory.limit_gb=auto", *QUIET)
    assert "nothing had to be changed" in capsys.readouterr().out
    loralab("plan", *QUIET, code=1)
    assert "add memory.limit_gb=8" in capsys.readouterr().err


def test_the_runs_of_a_sweep_get_the_same_choices() -> None:
    """As the largest of them needs."""
    swept = ["adapter.rank=1,16", *QUIET]
    small, large = (estimate(compose([f"adapter.rank={rank}", *QUIET]).tree, "cpu").gb for rank in (1, 16))
    overrides = [*swept, f"memory.limit_gb={(small + large) / 2:.5f}"]
    plan, chosen = planned(prepare(overrides, True), overrides, True)
    assert plan.choices
    assert chosen[: len(swept)] == swept
    needed = [plan.estimate(compose([*chosen[1:], f"adapter.rank={rank}"]).tree).gb for rank in (1, 16)]
    assert max(needed) <= plan.limit_gb


@pytest.mark.parametrize("parts", [2, 3])
def test_batches_in_parts_train_the_same(train, parts: int) -> None:
    """Each optimizer step sees the samples that it saw: the same up to the order of sums."""
    common = ["data.batch_size=5", "trainer.max_steps=12", "optimizer=sgd"]
    whole = train(*common, name="whole")
    given = [f"data.batch_parts={parts}", f"trainer.accumulate_grad_batches={parts}"]
    split = train(*common, *given, name="split")
    assert record(split)["steps"] == record(whole)["steps"]
    one, other = (load_file(run / "adapter.safetensors") for run in (whole, split))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-6)


def test_parts_must_divide_the_window(train, capsys) -> None:
    train("data.batch_parts=2", "trainer.accumulate_grad_batches=3", code=1)
    assert "no multiple of data.batch_parts=2" in capsys.readouterr().err
