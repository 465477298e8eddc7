"""SimpleTuner's settings for transformers that predict a flow: Z-Image and Anima."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from loralab.importers.conversion import read
from loralab.importers.expand import expand
from loralab.schema.tree import get
from tests.support.settings_files import PEERS, composed, trained, write_images

PRESET = PEERS / "simpletuner_zimage.json"


@pytest.fixture
def write(tmp_path: Path):
    """The preset with other values; None: without the key."""

    def write(**changes: object) -> Path:
        path = tmp_path / "config.json"
        table = {**json.loads(PRESET.read_text("utf8")), **changes}
        path.write_text(json.dumps({key: value for key, value in table.items() if value is not None}), "utf8")
        return path

    return write


def test_what_a_preset_comes_to() -> None:
    tree = composed(PRESET, "data=folder").tree
    expected = {
        "model.base": "Tongyi-MAI/Z-Image-Turbo", "model.quantize": "int8", "model.gradient_checkpointing": True,
        "adapter.rank": 64, "adapter.alpha": 64.0, "targets.feed_forward": False, "targets.text_encoder": False,
        "targets.patterns": [{"match": r"^transformer\.\w+_refiner\..*\.to_"}],
        "objective.timesteps._target_": "loralab.diffusion.timesteps.LogitNormal", "objective.timesteps.std": 1.0,
        "objective.timesteps.shift": 3.0, "optimizer.lr": 1e-4, "trainer.max_steps": 1000, "data.resolution": 1024,
        "scheduler.warmup_steps": 100, "callbacks.export.every_n_steps": 50, "trainer.gradient_clip_val": 0.01,
    }  # fmt: skip
    assert {key: get(tree, key) for key in expected} == expected
    assert any("assistant adapter" in warning for warning in read(PRESET).warnings)


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"model_flavour": "base"}, "model.base", "Tongyi-MAI/Z-Image"),
        ({"model_family": "anima", "model_flavour": "release"}, "model._target_", "loralab.models.families.anima.load"),
        ({"flow_schedule_shift": 1.73}, "objective.timesteps.shift", 1.73),
        ({"flow_schedule_shift": 0, "flow_schedule_auto_shift": True}, "objective.timesteps.shift",
         pytest.approx(math.exp(1.15), rel=1e-5)),
        ({"flow_sigmoid_scale": 0.8}, "objective.timesteps.std", 0.8),
        ({"flow_use_uniform_schedule": True}, "objective.timesteps._target_", "loralab.diffusion.timesteps.Uniform"),
        ({"base_model_precision": "fp8-quanto", "musubi_blocks_to_swap": 12}, "model.offload", 12),
        ({"base_model_precision": "fp8-torchao"}, "model.quantize", "fp8"),
        ({"base_model_precision": "nf4-bnb"}, "model.quantize", "nf4"),
        ({"base_model_precision": "no_change", "enable_group_offload": True}, "model.offload", 1.0),
        ({"base_model_precision": "no_change", "ramtorch": True}, "model.offload", 1.0),
        ({"lora_format": "comfyui"}, "output.layout", "comfyui"),
        ({"tokenizer_max_length": 256}, "model.max_token_length", 256),
    ],
)  # fmt: skip
def test_variants(write, changes: dict, key: str, value: object) -> None:
    path = write(**changes)
    assert get(composed(path, "data=folder").tree, key) == value
    assert not read(path).unknown


def test_what_is_not_supported_is_named(write) -> None:
    path = write(flow_use_beta_schedule=True, model_flavour="ostris-de-turbo", ramtorch=True,
                 base_model_precision="nf4-bnb", assistant_lora_path="a/b")  # fmt: skip
    why = {left.key: left.why for left in read(path).not_applicable}
    assert why["model_flavour"] == "set model.base"
    assert "cannot be combined with model.quantize=nf4" in why["ramtorch"]
    assert "loralab merge" in why["assistant_lora_path"]
    assert "flow_use_beta_schedule" in str(expand([f"settings.load={path}"]).problems)


@pytest.mark.parametrize("kind", ["standard", "lycoris"])
def test_it_trains(write, tmp_path: Path, kind: str) -> None:
    backend = {"id": "a", "type": "local", "instance_data_dir": str(write_images(tmp_path)),
               "caption_strategy": "textfile"}  # fmt: skip
    (tmp_path / "backends.json").write_text(json.dumps([backend]), "utf8")
    (tmp_path / "lycoris.json").write_text(json.dumps({"algo": "lokr", "linear_dim": 4, "linear_alpha": 1}), "utf8")
    path = write(data_backend_config="backends.json", lr_warmup_steps=0, lora_type=kind, lora_rank=4,
                 lycoris_config="lycoris.json", resume_from_checkpoint=None)  # fmt: skip
    assert trained(path, tmp_path, model="tiny_zimage", step=16)["steps"] == 2
