"""Blocks by torch.compile: the same training up to rounding, resumed bit for bit, and dropped where it does not pay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loralab.callbacks import compiled
from loralab.checks import compiling
from loralab.models.checkpointing import blocks_of
from loralab.training.loss_log import file_of, read
from tests.support.images import picture
from tests.support.refusals import problems
from tests.support.runs import adapter, record

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within torch itself
SGD = ("optimizer=sgd", "optimizer.lr=0.1")
"""Adam would turn rounding into steps."""
RANDOM = ("adapter.dropout=0.2", "adapter.rank_dropout=0.2")
STATES = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "callbacks.state.keep_last=null")
COMPILED = "speed.compile=true"


@pytest.fixture
def go(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """go(*overrides, name=…, pays=…) trains four steps of pictures of two shapes; compiled blocks pay below `pays`."""
    for number, size in enumerate([(64, 64), (96, 64), (64, 64), (96, 64)]):
        picture(
            tmp_path / "pictures" / f"{number}.png", size, ["red", "blue", "green", "grey"][number], f"star {number}"
        )
    usual = ("data=folder", f"data.folder={tmp_path / 'pictures'}", "data.batch_size=1", "trainer.max_steps=4")
    usual += ("data.buckets.step=16", "data.buckets.min_resolution=32")

    def start(*words: str, name: str, pays: float = float("inf")) -> Path:
        monkeypatch.setattr(compiled, "PAYS", pays)
        return train(*usual, *SGD, *words, name=name)

    return start


def assert_equal(one: Path, other: Path) -> None:
    """The same tensors to the last bit; the settings in the files differ."""
    ours, theirs = (load_file(run / "adapter.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def losses(run: Path) -> np.ndarray:
    return read(file_of(run, 0)).records["loss"]


def test_blocks_with_a_wrong_gradient_are_dropped(
    go, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain = go(name="plain")
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *given, **named: 1.1 * forward(*given, **named))
    dropped = go(COMPILED, name="dropped")
    assert "compile   dropped: torch.compile gets the gradient wrong, by " in capsys.readouterr().out
    assert_equal(dropped, plain)


def test_one_shape_with_a_wrong_gradient_is_computed_by_plain_blocks(
    go, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def wrong_where_small(forward, **_):
        def compiled(x: torch.Tensor, *given, **named):
            return forward(x, *given, **named) * (1.1 if x[0].numel() == 16 * 6 * 10 else 1)

        return compiled

    plain = go(name="plain")
    monkeypatch.setattr(torch, "compile", wrong_where_small)
    mixed = go(COMPILED, name="mixed")
    assert "compile   plain blocks for 1×3×48×80: torch.compile gets the gradient wrong" in capsys.readouterr().out
    assert record(mixed)["compiled"]["kept"]
    assert_equal(mixed, plain)


def test_a_resumed_run_follows_the_decision(go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    for kept, pays in ((True, float("inf")), (False, 0)):
        whole = go(COMPILED, *STATES, name=f"whole {kept}", pays=pays)
        state = whole / "states" / "step00000003"
        resumed = go(COMPILED, f"resume={state}", name=f"resumed {kept}", pays=0 if kept else float("inf"))
        assert record(resumed)["compiled"] == record(whole)["compiled"]
        assert record(resumed)["compiled"]["kept"] is kept
        assert adapter(resumed) == adapter(whole)


@pytest.mark.slow
@pytest.mark.ci
def test_what_does_not_pay_is_dropped_and_leaves_no_trace(
    go, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loralab.models.compiling.blocks_of", lambda denoiser: blocks_of(denoiser)[:3])  # in a minute
    words = ("targets=unet_only", "data.buckets.enabled=false", *RANDOM)
    plain, dropped = go(*words, name="plain"), go(*words, COMPILED, name="dropped", pays=0)
    assert_equal(dropped, plain)
    found = record(dropped)["compiled"]
    assert not found["kept"]
    assert f"compile   dropped: a step takes {found['ratio']:.2f} of the time\n" in capsys.readouterr().out
    assert "compiled" not in record(plain)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "model",
    [(), ("model.gradient_checkpointing=2", "model.quantize=int8"), ("model=tiny_zimage",), ("model=tiny_anima",)],
)
def test_the_loss_is_the_same_up_to_rounding_and_the_file_of_a_resumed_run_the_same(
    go, model: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    words = (*model, *RANDOM)
    plain, whole = go(*words, name="plain"), go(*words, COMPILED, *STATES, name="whole")
    assert record(whole)["compiled"]["kept"]
    said = capsys.readouterr().out
    assert "; 2 shapes of batches, each compiled when it first comes" in said, said
    np.testing.assert_allclose(losses(whole), losses(plain), rtol=1e-5)
    ours, theirs = (load_file(run / "adapter.safetensors") for run in (whole, plain))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-6)
    torch.compiler.reset()  # as in a process of its own, which meets the shapes in another order
    state = whole / "states" / "step00000001"
    resumed = go(*words, COMPILED, f"resume={state}", name="resumed", pays=0)  # measured again, it would be dropped
    assert record(resumed)["compiled"]["kept"]
    assert adapter(resumed) == adapter(whole)


def test_what_it_cannot_be_combined_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not problems(COMPILED, "trainer.accelerator=cpu")
    assert "cannot be combined with trainer.strategy=fsdp" in problems(COMPILED, "trainer=fsdp", "trainer.devices=2")
    monkeypatch.setattr(compiling, "which", lambda name: None)
    found = problems(COMPILED, "trainer.accelerator=cpu")
    assert "speed.compile: needs a C++ compiler" in found
    assert "speed.compile=false" in found
