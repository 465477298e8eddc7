"""diffusion-pipe's settings for transformers that predict a flow: Z-Image and Anima."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from loralab.importers.conversion import read
from loralab.importers.expand import expand
from loralab.schema.tree import get
from tests.support.settings_files import PEERS, composed, trained, write_images

ZIMAGE, ANIMA = PEERS / "diffusion-pipe_zimage.toml", PEERS / "diffusion-pipe_anima.toml"
HELD = PEERS / "diffusion-pipe_anima_held.toml"

EXPECTED = {
    ZIMAGE: {  # at 512, an exponent of 0.5 + 0.65 · (1024 − 256) / (4096 − 256)
        "model._target_": "loralab.models.families.zimage.load", "model.base": "/models/z_image_turbo_bf16.safetensors",
        "model.vae": "/models/flux_vae.safetensors", "model.text_encoder": "/models/qwen_3_4b.safetensors",
        "model.quantize": "fp8", "model.offload": 8, "model.gradient_checkpointing": True, "adapter.rank": 32,
        "objective.timesteps._target_": "loralab.diffusion.timesteps.LogitNormal", "objective.timesteps.std": 1.0,
        "objective.timesteps.shift": pytest.approx(math.exp(0.63), rel=1e-5), "output.layout": "comfyui",
        "targets.text_encoder": False, "targets.patterns": [
            {"match": r"^transformer\.layers\.\d+\.adaLN_modulation"}, {"match": r"^transformer\.\w+_refiner\."}],
        "optimizer.lr": 2e-4, "trainer.precision": "bf16-mixed", "trainer.max_epochs": 100,
    },
    ANIMA: {
        "model._target_": "loralab.models.families.anima.load", "model.base": "/models/anima-preview.safetensors",
        "model.vae": "/models/qwen_image_vae.safetensors", "model.text_encoder": "/models/qwen_3_06b_base.safetensors",
        "model.quantize": None, "targets.text_conditioner": False, "objective.timesteps.shift": 3.0,
        "objective.timesteps.std": 1.2, "adapter.rank": 16, "adapter.alpha": None, "targets.patterns": [
            {"match": r"^transformer\..*\.attn2\.", "lr": 1e-5},
            {"match": r"^transformer\.transformer_blocks\.\d+\.norm\d\.linear_"}],
    },
    HELD: {
        "model.base": "/models/anima_v8_epoch10.safetensors", "model.text_encoder": "/models/Qwen3-0.6B-Base",
        "optimizer.lr": 6e-6, "objective.timesteps.shift": 1.0, "data.captions.dropout_rate": 0.1,
        "data.captions.keep_tokens": 1, "data.captions.shuffle": False, "targets.text_conditioner": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.stem)
def test_what_a_file_comes_to(path: Path) -> None:
    tree = composed(path).tree
    assert {key: get(tree, key) for key in EXPECTED[path]} == EXPECTED[path]


def test_what_is_merged_into_the_base_is_named() -> None:
    why = {left.key: left.why for left in read(ZIMAGE).not_applicable}
    assert "loralab merge" in why["model.merge_adapters"]


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("timestep_sample_method = 'uniform'", "objective.timesteps._target_", "loralab.diffusion.timesteps.Uniform"),
        ("shift = 2.5", "objective.timesteps.shift", 2.5),
        ("shift = 2.5\ntransformer_dtype = 'nf4'", "model.quantize", "nf4"),
        ("", "objective.timesteps.shift", 1.0),
    ],
)
def test_variants(tmp_path: Path, line: str, key: str, value: object) -> None:
    text = ZIMAGE.read_text("utf8").replace("flux_shift = true", line).replace("diffusion_model_dtype = 'float8'\n", "")
    path = tmp_path / "config.toml"
    path.write_text(text.replace("blocks_to_swap = 8\n", ""), "utf8")
    assert get(composed(path, "data=folder").tree, key) == value


def test_other_kinds_of_cosmos_and_of_timesteps(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(ANIMA.read_text("utf8").replace("'anima'", "'cosmos_predict2'"), "utf8")
    assert read(path).settings.choices["model"] == "anima"
    path.write_text(ANIMA.read_text("utf8").replace("'logit_normal'", "'logsnr'"), "utf8")
    assert "timestep_sample_method" in str(expand([f"settings.load={path}"]).problems)


@pytest.mark.parametrize(("path", "model"), [(ZIMAGE, "zimage"), (ANIMA, "anima")], ids=["zimage", "anima"])
def test_it_trains(path: Path, model: str, tmp_path: Path) -> None:
    """With adapters on the text conditioner, too."""
    dataset = f"resolutions = [512]\n[[directory]]\npath = '{write_images(tmp_path)}'\n"
    (tmp_path / "diffusion-pipe_dataset.toml").write_text(dataset, "utf8")
    config = tmp_path / "config.toml"
    config.write_text(path.read_text("utf8").replace("llm_adapter_lr = 0", "llm_adapter_lr = 1e-5"), "utf8")
    assert trained(config, tmp_path, "model.offload=0", model=f"tiny_{model}", step=16)["steps"] == 2
