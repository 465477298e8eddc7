"""Training from an adapter file: what counts is said, and what could not learn is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loralab.adapters import file
from loralab.adapters.inject import inject
from loralab.adapters.loha import LoHa
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets


@pytest.fixture
def start(random_family, tmp_path) -> Path:
    """A LoRA of rank 2 on the UNet, its convolutions included."""
    adapters = inject(random_family, LoRA(rank=2, alpha=1.0, conv_rank=2), Targets(text_encoder=False))
    file.save(tmp_path / "start.safetensors", adapters.state(), {}, "fp32")
    adapters.remove()
    return tmp_path / "start.safetensors"


def test_what_counts_is_said(start, train, capsys):
    """In the plan of the run and in run.json: what is ignored, what is new, what is beyond the targets."""
    run = train(f"adapter.weights={start}", "adapter.rank=6", "trainer.max_steps=1")
    said = capsys.readouterr().out
    notes = json.loads((run / "run.json").read_text())["adapter_notes"]
    assert all(note in said for note in notes)
    assert "79 of 79 modules keep the file's rank 2, alpha 1; the settings' rank 6, alpha 6 is ignored" in notes[0]
    assert "lacks 18 of 97 modules" in notes[1]
    assert "lora_te_" in notes[1]
    convolutions = [name for name in file.load(start).groups if "resnets" in name or "samplers" in name]
    assert f"contains {len(convolutions)} modules outside targets" in notes[2]
    ranks = {group.rank for group in file.load(next(run.rglob("*.safetensors"))).groups.values()}
    assert ranks == {2, 6}


def test_the_same_rank_and_alpha_need_no_words(start, train):
    run = train(
        f"adapter.weights={start}", "adapter=locon", "adapter.rank=2", "adapter.alpha=1", "targets=unet_only",
        "trainer.max_steps=1",
    )  # fmt: skip
    assert json.loads((run / "run.json").read_text())["adapter_notes"] == []


def changed(start: Path, change) -> Path:
    path = start.with_name("changed.safetensors")
    save_file({key: change(key, tensor) for key, tensor in load_file(start).items()}, path)
    return path


ALPHAS = [0.0, float("nan"), float("inf"), 1e30]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_an_alpha_that_trains_nothing(alpha, start, train, capsys):
    path = changed(start, lambda key, t: torch.tensor(alpha) if key.endswith("alpha") else t)
    train(f"adapter.weights={path}", code=1)
    said = capsys.readouterr().err
    assert "adapter.weights" in said
    assert "alpha" in said
    assert "lora_unet_" in said


def test_an_adapter_that_is_all_zero(start, train, capsys):
    path = changed(start, lambda key, t: t if key.endswith("alpha") else t * 0)
    train(f"adapter.weights={path}", code=1)
    assert "79 of 79 modules are all zero" in capsys.readouterr().err


def test_another_kind(random_family, tmp_path, train, capsys):
    adapters = inject(random_family, LoHa(rank=2), Targets(text_encoder=False))
    file.save(tmp_path / "loha.safetensors", adapters.state(), {}, "fp32")
    adapters.remove()
    train(f"adapter.weights={tmp_path / 'loha.safetensors'}", code=1)
    assert "set adapter=loha" in capsys.readouterr().err
