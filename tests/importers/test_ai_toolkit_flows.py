"""ai-toolkit's jobs for transformers that predict a flow, how they are held in memory, and its concept sliders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from loralab.importers.conversion import read
from loralab.importers.expand import expand
from loralab.schema.tree import get
from tests.support.settings_files import PEERS, composed, trained, write_images

JOB = PEERS / "ai-toolkit_zimage.yaml"


@pytest.fixture
def write(tmp_path: Path):
    """The job with other values, by their dotted keys below the process."""

    def write(**changes: Any) -> Path:
        job = OmegaConf.load(JOB)
        for key, value in changes.items():
            OmegaConf.update(job.config.process[0], key.replace("__", "."), value, merge=False, force_add=True)
        path = tmp_path / "job.json"
        path.write_text(json.dumps(OmegaConf.to_container(job)), "utf8")
        return path

    return write


def test_what_a_job_comes_to() -> None:
    tree = composed(JOB).tree
    expected = {
        "model._target_": "loralab.models.families.zimage.load", "model.base": "/models/Z-Image-Turbo-HF",
        "model.quantize": "fp8", "model.offload": 0.7, "model.gradient_checkpointing": True, "adapter.rank": 32,
        "objective.timesteps._target_": "loralab.diffusion.timesteps.LogitNormal", "objective.timesteps.shift": 1.0,
        "targets.text_encoder": False, "optimizer.lr": 1.5e-4, "optimizer.weight_decay": 1e-4,
        "trainer.max_steps": 3000, "data.captions.trigger": "testarossa", "data.resolution": [[512, 512], [768, 768]],
        "targets.patterns": [{"match": r"^transformer\.layers\.\d+\.adaLN_modulation"}],
    }  # fmt: skip
    assert {key: get(tree, key) for key in expected} == expected
    assert read(JOB).settings.choices["model"] == "zimage_turbo"


def test_what_changes_the_result_is_named() -> None:
    why = {left.key: left.why for left in read(JOB).not_applicable}
    assert "loralab merge" in why["model.assistant_lora_path"]
    assert why["train.do_differential_guidance"] == "is not supported"


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"model__arch": "anima"}, "model._target_", "loralab.models.families.anima.load"),
        ({"model__arch": "zimage"}, "targets.in_out", False),
        ({"network__transformer_only": False}, "targets.in_out", True),
        ({"train__timestep_type": "shift"}, "objective.timesteps.shift", 3.0),
        ({"train__timestep_type": "linear"}, "objective.timesteps._target_", "loralab.diffusion.timesteps.Uniform"),
        ({"model__qtype": "qint8"}, "model.quantize", "int8"),
        ({"model__qtype": "uint4"}, "model.offload", 0),
        ({"model__qtype": "uint4"}, "model.quantize", "nf4"),
        ({"model__layer_offloading": False}, "model.offload", 0),
        ({"model__quantize": False}, "model.quantize", None),
    ],
)
def test_variants(write, changes: dict[str, Any], key: str, value: object) -> None:
    path = write(**changes)
    assert get(composed(path).tree, key) == value
    assert not read(path).unknown


def test_what_is_not_supported_is_named(write) -> None:
    recovery = "uint3|ostris/accuracy_recovery_adapters/a.safetensors"
    path = write(train__timestep_type="weighted", model__qtype=recovery)
    assert "weighted" in str(expand([f"settings.load={path}"]).problems)
    assert "make up for" in {left.key: left.why for left in read(path).not_applicable}["model.qtype"]


SLIDER = {
    "type": "concept_slider",
    "slider": {"guidance_strength": 2.5, "anchor_strength": 1.0, "positive_prompt": "a very old person",
               "negative_prompt": "a very young person", "target_class": "person", "anchor_class": "a dog"},
}  # fmt: skip


def test_a_concept_slider(write) -> None:
    path = write(**SLIDER)
    tree = composed(path).tree
    expected = {
        "_target_": "loralab.diffusion.slider.Slider", "positive": "a very old person", "target": "person",
        "negative": "a very young person", "guidance": 2.5,
    }  # fmt: skip
    assert {key: get(tree, f"objective.{key}") for key in expected} == expected
    assert "anchors" in {left.key: left.why for left in read(path).not_applicable}["slider.anchor_class"]


@pytest.mark.parametrize("changes", [{}, SLIDER], ids=["images", "slider"])
def test_it_trains(write, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = {"folder_path": str(write_images(tmp_path)), "caption_ext": "txt"}
    path = write(datasets=[folder], **changes)
    assert trained(path, tmp_path, "model.offload=0", model="tiny_zimage", step=16)["steps"] == 2
