"""OneTrainer's settings for transformers that predict a flow: Z-Image and Anima."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from loralab.diffusion.timesteps import LogitNormal, Mode, Uniform
from loralab.importers import content as contents
from loralab.importers.conversion import Converted, read
from loralab.importers.expand import expand
from loralab.schema.tree import get
from tests.support.settings_files import PEERS, composed, paths, said, trained, without, write_images

PRESET = PEERS / "onetrainer_zimage.json"


@pytest.fixture
def write(tmp_path: Path):
    """A file of the preset with other values."""

    def write(**changes: object) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(PRESET.read_text("utf8")), **changes}), "utf8")
        return path

    return write


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file with every key of every part."""
    table = json.loads((PEERS / "onetrainer_flux2.json").read_text("utf8"))
    for key in ("max_train_steps", "sample_definitions", "samples_config_path"):  # not OneTrainer's
        table.pop(key, None)
    table |= {"model_type": "ANIMA", "concept_file_name": str(PEERS / "onetrainer_concepts.json")}
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(table), "utf8")
    return path


def test_what_a_preset_comes_to() -> None:
    tree = composed(PRESET).tree
    expected = {
        "model._target_": "loralab.models.families.zimage.load", "model.base": "Tongyi-MAI/Z-Image",
        "model.quantize": "fp8", "model.offload": 0.6, "model.gradient_checkpointing": True,
        "targets.unet": True, "targets.text_encoder": False, "adapter.rank": 16, "adapter.alpha": 1.0,
        "objective.timesteps._target_": "loralab.diffusion.timesteps.LogitNormal", "objective.timesteps.shift": 1.0,
        "objective.timesteps.std": 1.0, "trainer.precision": "bf16-mixed", "output.precision": "bf16",
        "data.batch_size": 2, "data.resolution": 512, "optimizer.lr": 3e-4,
    }  # fmt: skip
    assert {key: get(tree, key) for key in expected} == expected


def test_every_key_is_used_or_named(whole: Path) -> None:
    content = contents.read(whole)
    assert not read(whole).unknown
    everything = said(content, content.data)
    assert not [key for key in paths(content.data) if said(content, without(content.data, key)) == everything]


def test_the_layers_of_a_filter() -> None:
    """Attention and feed-forward of the blocks, not of the refiners; as `re.search` finds them in OneTrainer."""
    pattern = get(composed(PRESET).tree, "targets.patterns")[0]["match"]
    texts = json.loads(PRESET.read_text("utf8"))["layer_filter"].split(",")
    names = [
        f"{block}.0.{layer}"
        for block in ("layers", "noise_refiner", "context_refiner")
        for layer in ("attention.to_q", "attention.to_out.0", "feed_forward.w1", "adaLN_modulation.0")
    ]
    kept = [name for name in names if not re.search(pattern, f"transformer.{name}")]
    assert kept == [name for name in names if any(re.search(text, name) for text in texts)]
    assert kept == ["layers.0.attention.to_q", "layers.0.attention.to_out.0", "layers.0.feed_forward.w1"]


def theirs(word: str, weight: float, bias: float, shift: float, u: torch.Tensor) -> torch.Tensor:
    """OneTrainer's timesteps, as shares of 1000, of uniform numbers."""
    if word == "LOGIT_NORMAL":
        t = torch.sigmoid(bias + (1 + weight) * torch.special.ndtri(u))
    else:
        t = 1 - u - weight * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u) if word == "HEAVY_TAIL" else u
    return shift * t / ((shift - 1) * t + 1)


@pytest.mark.parametrize(
    ("word", "weight", "bias", "shift"),
    [
        ("UNIFORM", 0.0, 0.0, 3.0),
        ("LOGIT_NORMAL", 0.25, -0.5, 2.0),
        ("HEAVY_TAIL", 0.7, 0.0, 1.5),
        ("INVERTED_PARABOLA", 0.0, 0.0, 2.0),
    ],
)
def test_how_timesteps_are_drawn(write, word: str, weight: float, bias: float, shift: float) -> None:
    path = write(timestep_distribution=word, noising_weight=weight, noising_bias=bias, timestep_shift=shift)
    node = dict(get(composed(path).tree, "objective.timesteps"))
    kind = {"LogitNormal": LogitNormal, "Mode": Mode, "Uniform": Uniform}[node.pop("_target_").rpartition(".")[2]]
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    ours = kind(**node).quantile(u) / 1000
    drawn = theirs(word, weight, bias, shift, u).sort().values
    torch.testing.assert_close(ours, drawn, rtol=0, atol=1.5e-3)  # ours are whole timesteps


def test_a_shift_that_follows_the_resolution(write) -> None:
    """FLUX's exponent: 0.5 at 256 tokens of 16×16 pixels, 1.15 at 4096."""
    for side, shift in ((1024, math.exp(1.15)), (256, math.exp(0.5)), (512, math.exp(0.5 + 0.65 * 768 / 3840))):
        path = write(dynamic_timestep_shifting=True, timestep_shift=3.0, resolution=str(side))
        assert read(path).settings.values["objective.timesteps.shift"] == pytest.approx(shift, rel=1e-5)


def why(found: Converted) -> dict[str, str]:
    return {left.key: left.why for left in found.not_applicable}


@pytest.mark.parametrize(
    ("word", "kind", "offload"),
    [("NFLOAT_4", "nf4", None), ("INT_8", "int8", 0.6), ("FLOAT_W8A8", "fp8", 0.6), ("BFLOAT_16", None, 0.6)],
)
def test_weights_in_fewer_bits(write, word: str, kind: str | None, offload: float | None) -> None:
    found = read(write(transformer={"train": True, "weight_dtype": word, "offload_fraction": 0.6}))
    values = found.settings.values
    assert (values.get("model.quantize"), values.get("model.offload")) == (kind, offload)
    assert ("cannot be combined" in why(found).get("transformer.offload_fraction", "")) == (offload is None)
    assert values.get("model.dtype") == ("bf16" if kind is None else None)


def test_the_share_of_all_parts_counts_with_checkpoints_on_the_cpu(write) -> None:
    """As it did in earlier versions."""
    for checkpoints, offload in (("CPU_OFFLOADED", 0.4), ("ON", None)):
        path = write(transformer={}, gradient_checkpointing=checkpoints, layer_offload_fraction=0.4)
        found = read(path)
        assert found.settings.values.get("model.offload") == offload
        assert found.settings.values["model.gradient_checkpointing"] is True
        assert ("layer_offload_fraction" in why(found)) == (offload is None)


def test_what_is_not_supported_is_named(write) -> None:
    path = write(text_encoder={"train": True}, timestep_distribution="COS_MAP", transformer={"model_name": "a.gguf"})
    found = why(read(path))
    assert "is not trained" in found["text_encoder.train"]
    assert "set model.base" in found["transformer.model_name"]
    assert "timestep_distribution" in str(expand([f"settings.load={path}"]).problems)


def test_rotations_of_blocks(write) -> None:
    path = write(peft_type="OFT_2", oft_block_size=16, oft_block_share=True, oft_coft=True, coft_eps=1e-4)
    tree = composed(path).tree
    expected = {"_target_": "loralab.adapters.oft_v2.OFTv2", "rank": 16, "block_share": True}
    assert {key: get(tree, f"adapter.{key}") for key in expected} == expected
    assert "constraining" in why(read(path))["oft_coft"]
    assert get(composed(write(peft_type="OFT_2")).tree, "adapter.rank") == 32


@pytest.mark.parametrize(("model", "kind"), [("zimage", "OFT_2"), ("anima", "LORA")])
def test_it_trains(write, tmp_path: Path, model: str, kind: str) -> None:
    concept = json.loads((PEERS / "onetrainer_concepts.json").read_text("utf8"))[0]
    concept |= {"path": str(write_images(tmp_path)), "balancing": 1.0}
    word = {"zimage": "Z_IMAGE", "anima": "ANIMA"}[model]
    layers = json.loads(PRESET.read_text("utf8"))["layer_filter"] if model == "zimage" else "attn1, ff"
    path = write(concepts=[concept], model_type=word, peft_type=kind, layer_filter=layers, oft_block_size=4,
                 layer_filter_regex=model == "zimage", learning_rate_warmup_steps=0)  # fmt: skip
    assert trained(path, tmp_path, "model.offload=0", model=f"tiny_{model}", step=16)["steps"] == 2
