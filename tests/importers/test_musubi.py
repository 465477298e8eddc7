"""musubi-tuner's configuration and dataset: what they come to, nothing lost, and two steps by them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from loralab.data.index.caption_table import CaptionTable
from loralab.importers import content as contents
from loralab.importers.conversion import read
from loralab.importers.expand import expand
from loralab.schema.tree import get
from tests.support.settings_files import PEERS, composed, paths, said, trained, without, write_images

CONFIG, DATASET = PEERS / "musubi_zimage.toml", PEERS / "musubi_dataset.toml"


def test_what_a_configuration_comes_to() -> None:
    tree = composed(CONFIG).tree
    expected = {
        "model.base": "models/z_image_bf16.safetensors", "model.vae": "models/ae.safetensors",
        "model.text_encoder": "models/qwen_3_4b.safetensors", "model.quantize": "fp8", "model.offload": 16,
        "model.gradient_checkpointing": True, "adapter.rank": 32, "adapter.alpha": 16.0,
        "targets.text_encoder": False, "optimizer._target_": "bitsandbytes.optim.AdamW8bit", "optimizer.lr": 1e-4,
        "objective.timesteps._target_": "loralab.diffusion.timesteps.LogitNormal", "objective.timesteps.shift": 2.0,
        "trainer.max_steps": 3500, "trainer.precision": "bf16-mixed", "output.precision": "fp16",
        "output.name": "character", "seed": 42, "data.batch_size": 2, "data.resolution": 1024,
        "data.buckets.enabled": True, "data.buckets.no_upscale": True, "data.buckets.step": 16,
        "data.buckets.min_resolution": None, "data.buckets.max_resolution": None,
        "data.folders": [{"path": "test/in", "repeats": 3, "captions": {"extension": ".txt"}}],
    }  # fmt: skip
    assert {key: get(tree, key) for key in expected} == expected


@pytest.mark.parametrize("path", [CONFIG, DATASET], ids=["config", "dataset"])
def test_every_key_is_used_or_named(path: Path) -> None:
    content = contents.read(path)
    assert not read(path).unknown
    whole = said(content, content.data)
    assert not {key for key in paths(content.data) if said(content, without(content.data, key)) == whole}


def test_its_defaults(tmp_path: Path) -> None:
    """Even timesteps without a shift, files in bf16, a LoRA of rank 4 on the transformer alone."""
    path = tmp_path / "train.toml"
    path.write_text('dit = "z_image_turbo.safetensors"\nnetwork_module = "networks.lora_zimage"\n', "utf8")
    tree = composed(path, "data=shapes").tree
    expected = {
        "objective.timesteps._target_": "loralab.diffusion.timesteps.Uniform", "objective.timesteps.shift": 1.0,
        "output.precision": "bf16", "adapter.rank": 4, "adapter.alpha": 1.0, "optimizer.lr": 2e-6,
        "trainer.max_steps": 1600, "targets.text_encoder": False,
    }  # fmt: skip
    assert {key: get(tree, key) for key in expected} == expected
    found = read(path).settings
    assert (found.choices["model"], found.values["data.resolution"]) == ("zimage_turbo", [960, 544])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("timestep_sampling = 'logsnr'\nlogit_mean = 0.5", ("logit_normal", -0.25, 0.5)),
        ("timestep_sampling = 'sigmoid'\nsigmoid_scale = 1.5", ("logit_normal", None, 1.5)),
        ("timestep_sampling = 'qinglong_flux'", None),
        ("timestep_sampling = 'flux_shift'\nsigmoid_scale = 1.5", ("logit_normal", None, 1.5)),
    ],
)
def test_how_timesteps_are_drawn(tmp_path: Path, line: str, expected: tuple | None) -> None:
    path = tmp_path / "train.toml"
    path.write_text(f"dit = 'a.safetensors'\nnetwork_module = 'networks.lora_zimage'\n{line}\n", "utf8")
    found = read(path).settings
    drawn = [found.values.get(f"objective.timesteps.{key}") for key in ("mean", "std")]
    if expected:
        assert (found.choices["objective/timesteps"], *drawn) == expected
    else:
        assert "timestep_sampling" in str(expand([f"settings.load={path}"]).problems)


@pytest.mark.parametrize(("word", "most", "tokens"), [("flux_shift", 1.15, 4096), ("qwen_shift", 0.9, 8192)])
def test_shifts_that_follow_the_resolution(tmp_path: Path, word: str, most: float, tokens: int) -> None:
    """Their exponent rises along a line from 0.5 at 256 tokens of 16×16 pixels."""
    path = tmp_path / "train.toml"
    head = "dit = 'a.safetensors'\nnetwork_module = 'networks.lora_zimage'\n"
    path.write_text(f"{head}timestep_sampling = '{word}'\n[[datasets]]\nresolution = 768\nimage_directory = 'x'\n")
    exponent = 0.5 + (most - 0.5) / (tokens - 256) * (48 * 48 - 256)
    shift = read(path).settings.values["objective.timesteps.shift"]
    assert shift == pytest.approx(math.exp(exponent), rel=1e-5)


def test_a_command() -> None:
    path = PEERS / "musubi_zimage_held.sh"
    tree = composed(path).tree
    expected = {
        "model.base": "/models/z_image_bf16.safetensors", "adapter.rank": 32, "adapter.alpha": 32.0,
        "adapter.dropout": 0.1, "optimizer.betas": [0.9, 0.99], "optimizer.weight_decay": 0.01, "optimizer.lr": 1e-4,
        "trainer.max_epochs": 40, "trainer.max_steps": None, "scheduler.warmup_steps": 100,
        "objective.timesteps._target_": "loralab.diffusion.timesteps.LogitNormal", "objective.timesteps.shift": 1.0,
        "data.buckets.step": 16, "data.batch_size": 2, "output.precision": "bf16",
    }  # fmt: skip
    assert {key: get(tree, key) for key in expected} == expected
    assert not read(path).unknown


def test_another_family_is_named() -> None:
    told = str(expand([f"settings.load={PEERS / 'musubi_wan.toml'}"]).problems)
    assert "trains another model family; supported: " in told


def test_images_listed_in_a_file(tmp_path: Path) -> None:
    folder = write_images(tmp_path)
    for path in folder.glob("*.txt"):
        path.unlink()
    rows = [{"image_path": str(path), "caption": f"a {path.stem}"} for path in sorted(folder.glob("*.png"))]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf8")
    path = tmp_path / "data.toml"
    path.write_text(f"[[datasets]]\nimage_jsonl_file = '{tmp_path}/all.jsonl'\ncontrol_directory = 'c'\n", "utf8")
    found = read(path)
    assert found.settings.values["data.folders"] == [{"path": str(folder), "metadata": f"{tmp_path}/all.jsonl"}]
    assert {left.key: left.why for left in found.not_applicable} == {
        "datasets.0.control_directory": "for models that edit an image"
    }
    assert CaptionTable(f"{tmp_path}/all.jsonl", str(folder)).caption("2.png") == "a 2"
    assert trained(path, tmp_path)["steps"] == 2


def test_a_configuration_trains(tmp_path: Path) -> None:
    text = DATASET.read_text("utf8").replace("test/in", str(write_images(tmp_path)))
    (tmp_path / "musubi_dataset.toml").write_text(text, "utf8")
    path = tmp_path / "train.toml"
    path.write_text(CONFIG.read_text("utf8"), "utf8")
    assert trained(path, tmp_path, "model.offload=0", model="tiny_zimage", step=16)["steps"] == 2
