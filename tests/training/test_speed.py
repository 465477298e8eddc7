"""What is fast computes the same, up to rounding, and is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loralab.bench.ways import TINY
from loralab.models import onednn, onednn_attention
from loralab.training.loss_log import file_of, read
from loralab.training.marker import TENSORS
from tests.support.runs import record

EXACT = ("speed=exact",)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fast_and_exact_train_the_same(train, optimizer: str, capsys: pytest.CaptureFixture) -> None:
    words = (
        f"optimizer={optimizer}",
        "optimizer.lr=1e-3",
        "trainer.max_steps=6",
        "callbacks.state.enabled=true",
        "callbacks.state.every_n_steps=6",
    )
    fast, exact = train(*words, name="fast"), train(*words, *EXACT, name="exact")
    assert "the optimizer's step as one kernel" in record(fast)["speed"]
    assert record(exact)["speed"] == "nothing beside torch's own choices"
    out = capsys.readouterr().out
    assert f"speed     {record(fast)['speed']}" in out
    assert out.count("optimizer AdamW · lr 0.001\n" if optimizer == "adamw" else "optimizer SGD · lr 0.001\n") == 2
    assert (fused(fast), fused(exact)) == (True, None)
    ours, plain = (load_file(run / "adapter.safetensors") for run in (fast, exact))
    assert ours.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-3, atol=1e-5)


def test_each_alone_has_the_plain_loss_curve(train, monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()
    for module, function in ((onednn, "product"), (onednn_attention, "product")):
        own = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *of, own=own, module=module: used.add(module) or own(*of))
    monkeypatch.setattr(onednn, "IS_INTEL", False)
    monkeypatch.setattr(onednn_attention, "is_faster", lambda: True)
    words = ("model.base=" + str(TINY), "data.resolution=192", "data.batch_size=2", "optimizer=sgd", "optimizer.lr=0.1")
    words += (*EXACT, "trainer.max_steps=6")

    def curve(*lever: str) -> np.ndarray:
        run = train(*words, *lever, name="_".join(lever).partition("=")[0] or "plain")
        return read(file_of(run, 0)).records["loss"]

    plain = curve()
    assert not used
    levers = {"speed.fused=true": set(), "model.kernels=auto": {onednn}, "model.attention=auto": {onednn_attention}}
    for lever, wanted in levers.items():
        used.clear()
        np.testing.assert_allclose(curve(lever), plain, rtol=2e-5)
        assert used == wanted


def test_an_optimizer_without_such_a_kernel_trains_as_before(train) -> None:
    assert "optimizer" not in record(train("optimizer=prodigy", name="prodigy"))["speed"]


def fused(run: Path) -> bool | None:
    """What the training state of a run says of its optimizer."""
    (file,) = (run / "states").rglob(TENSORS)
    state = torch.load(file, weights_only=True)
    return state["optimizer_states"][0]["param_groups"][0]["fused"]
