"""What only an accelerator can show. Each run has the same on a CPU beside it, or another of its kind.

python -m pytest -m gpu
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loralab import cli
from loralab.callbacks import compiled
from loralab.training.graphs import Graphed, _Replayed
from loralab.training.loss_log import file_of, read
from tests.support.runs import record

pytestmark = pytest.mark.gpu

EIGHT_BIT = ("adam8bit", "adamw8bit", "paged_adamw8bit", "lion8bit", "ademamix8bit")
ONE_LENGTH = ("data.captions.dropout_rate=1",)
"""Of captions, so that shapes come again within a few steps."""


@pytest.fixture
def on_gpu(train, monkeypatch: pytest.MonkeyPatch):
    """The `train` fixture on one GPU."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic matrix products ask for

    def start(*overrides: str, name: str = "gpu") -> Path:
        return train(*overrides, "trainer.accelerator=gpu", "trainer.devices=1", name=name)

    return start


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter.safetensors")


def test_in_full_precision_it_is_the_run_of_the_cpu(train, on_gpu) -> None:
    words = ("optimizer=sgd", "optimizer.lr=0.1", "speed=exact")  # Adam would turn rounding into steps
    ours, theirs = weights(on_gpu(*words)), weights(train(*words, "trainer.accelerator=cpu", name="cpu"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-5)


def test_what_is_fast_trains_on_the_same_loss(on_gpu) -> None:
    fast, exact = (record(on_gpu(f"speed={speed}", name=speed)) for speed in ("auto", "exact"))
    assert fast["speed"] == "fp32 products in TF32 · channels last · the optimizer's step as one kernel · CUDA graphs"
    assert fast["loss"] == pytest.approx(exact["loss"], rel=5e-3)


@pytest.mark.parametrize(
    ("lever", "precision", "error"),
    [
        ("speed.tf32=true", "32-true", 5e-3),
        ("speed.channels_last=true", "32-true", 1e-4),
        ("speed.graphs=true", "32-true", 0),
        ("speed.graphs=true", "bf16-mixed", 0),
        ("model.kernels=auto", "bf16-mixed", 0.02),
        ("model.kernels=auto", "16-mixed", 0.005),
        ("model.attention=auto", "bf16-mixed", 0.02),
    ],
)
def test_each_lever_alone_has_the_plain_loss_curve(lever: str, precision: str, error: float, on_gpu) -> None:
    words = ("optimizer=sgd", "optimizer.lr=0.1", "trainer.max_steps=8", f"trainer.precision={precision}")
    runs = [on_gpu(*words, "speed=exact", name="plain"), on_gpu(*words, "speed=exact", lever, name="ours")]
    plain, ours = (read(file_of(run, 0)).records["loss"] for run in runs)
    np.testing.assert_allclose(ours, plain, rtol=error)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of inductor, about itself
@pytest.mark.parametrize("graphs", ["true", "false"])
def test_compiled_blocks_train_on_the_same_loss(graphs: str, on_gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "PAYS", float("inf"))
    words = ("optimizer=sgd", "optimizer.lr=0.1", "trainer.max_steps=6", f"speed.graphs={graphs}")
    ours, plain = (record(on_gpu(*words, f"speed.compile={way}", name=way)) for way in ("true", "false"))
    assert ours["compiled"]["kept"]
    assert ours["loss"] == pytest.approx(plain["loss"], rel=5e-3)


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.precision=32-true",),
        ("trainer.precision=bf16-mixed",),
        ("trainer.precision=16-mixed", "adapter.dropout=0.5", "adapter.rank_dropout=0.2"),
        ("trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2"),
        ("trainer.precision=bf16-mixed", "data.batch_size=3"),
        ("adapter=t_lora", "trainer.precision=bf16-mixed"),
        ("adapter=dora", "trainer.precision=bf16-mixed"),
        ("adapter=lokr",),
        ("targets=unet_only", "data.cache.latents=memory", "callbacks.samples.enabled=true"),
        ("model=tiny_sdxl", "trainer.precision=bf16-mixed"),
        ("model=tiny_zimage", *ONE_LENGTH, "trainer.precision=bf16-mixed"),
        ("model=tiny_anima", "trainer.precision=bf16-mixed"),
        ("objective.preservation_weight=0.5",),
        ("model.gradient_checkpointing=true", "trainer.precision=bf16-mixed"),
        ("model=tiny_zimage", *ONE_LENGTH, "model.gradient_checkpointing=3", "targets=unet_only"),
    ],
    ids=" ".join,
)
def test_cuda_graphs_train_to_the_same_byte(
    words: tuple[str, ...], on_gpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays = []
    own = _Replayed.forward
    monkeypatch.setattr(_Replayed, "forward", staticmethod(lambda *given: replays.append(given[2]) or own(*given)))
    words = (*words, "trainer.max_steps=8", "trainer.deterministic=true", "output.metadata=false")
    plain = on_gpu(*words, "speed.graphs=false", name="plain")
    assert not replays
    graphed = on_gpu(*words, name="graphed")
    assert len(replays) > len(set(map(id, replays))) > 0, "graphs were replayed, and again"
    assert "without CUDA graphs" not in caplog.text
    assert (graphed / "adapter.safetensors").read_bytes() == (plain / "adapter.safetensors").read_bytes()


def test_graphs_make_room_for_pictures_and_are_recorded_anew(on_gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    own = Graphed._record
    monkeypatch.setattr(Graphed, "_record", lambda *given: made.append(given) or own(*given))
    pictures = ("callbacks.samples.enabled=true", "callbacks.samples.every_n_steps=8", "callbacks.samples.steps=2")
    words = (*pictures, "trainer.max_steps=16", "trainer.deterministic=true", "output.metadata=false")
    runs, counts = [], []
    for free in (2**40, 0):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_, free=free: (free, 2**40))
        runs.append(on_gpu(*words, name=f"free{free}"))
        counts.append(len(made))
        made.clear()
    assert counts[1] > counts[0] > 0
    first, second = ((run / "adapter.safetensors").read_bytes() for run in runs)
    assert first == second


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_trains_on_the_same_loss(precision: str, on_gpu) -> None:
    full, mixed = (record(on_gpu(f"trainer.precision={p}", name=p)) for p in ("32-true", precision))
    assert (mixed["status"], mixed["steps"]) == ("finished", 3)
    assert mixed["loss"] == pytest.approx(full["loss"], rel=0.02)


@pytest.mark.parametrize("optimizer", [*EIGHT_BIT, "prodigy", "schedulefree"])
def test_an_optimizer_moves_the_weights(optimizer: str, on_gpu) -> None:
    small = ("optimizer.min_8bit_size=16",) if optimizer in EIGHT_BIT else ()
    folder = on_gpu(f"optimizer={optimizer}", *small)
    assert any(bool(t.any()) for name, t in weights(folder).items() if name.endswith("lora_up.weight"))
    if small:
        in_eight_bits, tensors = record(folder)["eight_bit"]
        assert in_eight_bits == tensors > 0


@pytest.mark.parametrize("attention", ["eager", "xformers"])
def test_attention_is_sdpas(attention: str, on_gpu) -> None:
    if attention == "xformers" and find_spec("xformers") is None:
        pytest.skip("pip install xformers")
    losses = [record(on_gpu(f"model.attention={kind}", name=kind))["loss"] for kind in ("sdpa", attention)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_resumed_run_is_the_whole_run_to_the_byte(precision: str, on_gpu) -> None:
    words = (f"trainer.precision={precision}", "trainer.deterministic=true", "trainer.max_steps=6")
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=3")
    whole = on_gpu(*words, *states, "output.metadata=false", name="whole")
    state = sorted((whole / "states").iterdir())[0]
    resumed = on_gpu(*words, *states, "output.metadata=false", f"resume={state}", name="resumed")
    first, second = ((folder / "adapter.safetensors").read_bytes() for folder in (whole, resumed))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "resolution", "gigabytes"), [("sd1", 512, 8), ("sdxl", 1024, 24)])
def test_full_size_fits_a_home_gpu(shape: str, resolution: int, gigabytes: int, capsys) -> None:
    """Random weights of the true sizes, bf16; the figures are printed (pytest -s)."""
    words = [f"--shape={shape}", f"--resolution={resolution}", "--device=cuda", "--dtype=bf16"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "train", *words, "--precision=bf16-mixed", "--targets=unet_only", "--steps=50"])
    assert not stop.value.code
    said = capsys.readouterr().out
    with capsys.disabled():
        print(said)
    assert json.loads(said)["loralab"]["peak_memory_gb"] < gigabytes
