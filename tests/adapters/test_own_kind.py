"""CONTRIBUTING's kind of adapter in a user's own package: it trains, and its files pass through every tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loralab import cli
from loralab.adapters.base import METHODS
from loralab.adapters.inject import inject
from loralab.adapters.targets import Targets
from loralab.models.families.sd import load
from tests.support.adapters import grouped
from tests.support.contributing import shown

OWN = ("adapter._target_=my_package.SVD", "allow=[my_package.]", "adapter.conv_rank=2", "adapter.dropout=0.1")
STATES = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=3")
STATE = "step00000003"


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "my_package.py").write_text(shown("SVD"))
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield tmp_path / "own"
    forget()


def forget() -> None:
    """As in a new process, which has not imported it."""
    sys.modules.pop("my_package", None)
    METHODS[:] = [method for method in METHODS if method.__module__ != "my_package"]


def tool(*words: object, allow: str = "my_package.", code: int = 0) -> None:
    forget()
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, words), *(["--allow", allow] if allow else [])])
    assert stop.value.code == code


def inspected(file: Path, package: Path) -> dict:
    """By another process."""
    done = subprocess.run(
        [sys.executable, "-m", "loralab", "inspect", str(file), "--json", "--allow", "my_package."],
        env=os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@torch.no_grad()
def predict(base: Path, *, weights: Path | None = None) -> torch.Tensor:
    family = load(str(base), attention="eager", resolution=64)
    if weights:
        import my_package  # pyright: ignore[reportMissingImports]

        inject(family, my_package.SVD(rank=1, weights=str(weights)), Targets()).eval()
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(77).repeat(2, 1)
    hidden = family.text_encoders["text_encoder"](ids).last_hidden_state
    return family.denoiser(noisy, torch.tensor([3, 800]), hidden).sample


def test_through_every_tool(package, train, random_base, tmp_path, capsys):
    run = train(*OWN, "trainer.max_steps=6", "optimizer.lr=0.1", *STATES)
    file = run / "adapter.safetensors"
    resumed = train(*OWN, "trainer.max_steps=6", "optimizer.lr=0.1", f"resume={run / 'states' / STATE}", name="resumed")
    assert (resumed / file.name).read_bytes() == file.read_bytes()
    told = inspected(file, package)
    assert (told["content"], told["layout"], told["problems"]) == ("adapter", "kohya", [])
    assert list(told["kinds"]) == ["SVD"]
    assert set(told["ranks"]) == {"4", "2"}
    assert told["metadata"]["ss_network_module"] == "my_package.SVD"

    tool("merge", file, "--base", random_base, "-o", tmp_path / "merged")
    expected = predict(random_base, weights=file)
    torch.testing.assert_close(predict(tmp_path / "merged"), expected, atol=2e-5, rtol=2e-5)
    assert told["blocks"]["unet mid"]["mean"] > 1e-3

    tool("convert", file, "-o", tmp_path / "there.pt")
    there = torch.load(tmp_path / "there.pt", weights_only=True)
    tool("convert", tmp_path / "there.pt", "-o", tmp_path / "back.safetensors", allow="my_package")
    assert there.keys() == load_file(file).keys() == load_file(tmp_path / "back.safetensors").keys()
    assert all(torch.equal(there[key], tensor) for key, tensor in load_file(file).items())
    tool("convert", file, "--layout", "diffusers", "-o", tmp_path / "no.safetensors", code=1)
    assert "diffusers layout does not support SVD" in capsys.readouterr().err

    tool("resize", file, "--rank", 4, "-o", tmp_path / "lora.safetensors")
    tool("merge", tmp_path / "lora.safetensors", "--base", random_base, "-o", tmp_path / "merged_lora", allow="")
    torch.testing.assert_close(predict(tmp_path / "merged_lora"), expected, atol=2e-5, rtol=2e-5)
    tool("merge", file, file, "--rank", 4, "--weights", 0.5, 0.5, "-o", tmp_path / "sum.safetensors")
    one, both = (grouped(load_file(tmp_path / f"{name}.safetensors")) for name in ("lora", "sum"))
    assert all(abs(one[name].norm - both[name].norm) < 1e-4 for name in one)

    further = train(*OWN, f"adapter.weights={file}", "trainer.max_steps=1", "optimizer.lr=1e-9", name="further")
    before, after = load_file(file), load_file(further / file.name)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[key], after[key], atol=1e-7) for key in before)


def test_what_is_not_allowed_is_not_imported(package, train, tmp_path, capsys):
    file = train(*OWN, "trainer.max_steps=1") / "adapter.safetensors"
    capsys.readouterr()
    for words in (("inspect", file), ("merge", file, file, "--rank", "2", "-o", tmp_path / "x.safetensors")):
        tool(*words, allow="", code=0 if words[0] == "inspect" else 1)
        said = "".join(capsys.readouterr())
        assert "--allow my_package" in said
        assert "my_package" not in sys.modules
    train(f"adapter.weights={file}", name="lora", code=1)
    assert "allow=[my_package.SVD]" in capsys.readouterr().err
    train(f"settings.load={file}", "settings.save_only=true", f"settings.save_folder={tmp_path}", name="settings")
    assert "add adapter._target_=my_package.SVD allow=[my_package.SVD]" in capsys.readouterr().err
    train(*OWN, "output.layout=diffusers", name="layout", code=1)
    assert "diffusers layout does not support SVD" in capsys.readouterr().err
    tool("inspect", file, allow="other_package", code=1)
    assert "--allow: 'other_package' could not be imported" in capsys.readouterr().err
