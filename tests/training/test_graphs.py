"""What keeps a run from CUDA graphs, and the gradients that they give; tests/test_gpu.py has real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loralab.models.families import zimage
from loralab.models.families.sd import load
from loralab.schema.compose import compose
from loralab.training.graphs import hindrance, recorded_parts
from tests.support.cpu_graphs import use_cpu_graphs

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        ([], None),
        (["model.gradient_checkpointing=true"], None),
        (["model.quantize=int8"], None),
        (["adapter.dropout=0.1"], None),
        (["model.offload=0.5"], "model.offload"),
        (["model.quantize=nf4"], "model.quantize"),
        (["adapter.module_dropout=0.1"], "adapter.module_dropout"),
        (["model.gradient_checkpointing=4", "adapter.rank_dropout=0.1"], "adapter.rank_dropout"),
    ],
)
def test_what_keeps_a_run_from_graphs(overrides: list[str], setting: str | None) -> None:
    settings = compose(overrides).tree
    assert hindrance(GPU, 1, settings) == setting
    assert hindrance(torch.device("cpu"), 1, settings) == "trainer.accelerator"
    assert hindrance(GPU, 2, settings) == "trainer.devices"


def test_code_of_others_is_not_recorded() -> None:
    settings = compose([]).tree
    model = {**settings["model"], "_target_": "theirs.Model"}
    assert hindrance(GPU, 1, {**settings, "model": model}) == "model._target_"


def test_clip_is_recorded_while_it_is_there_and_its_blocks_are_not_computed_again(random_base: Path) -> None:
    family, settings = load(str(random_base), resolution=64), compose([]).tree
    assert recorded_parts(family, settings) == ["unet", "text_encoder"]
    again = {**settings, "model": {**settings["model"], "gradient_checkpointing": True}}
    assert recorded_parts(family, again) == ["unet"]
    family.rest(["text_encoder"])
    assert recorded_parts(family, settings) == ["unet"]


def test_text_encoders_that_look_at_captions_are_not_recorded() -> None:
    assert recorded_parts(zimage.miniature(), compose([]).tree) == ["transformer"]


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.accumulate_grad_batches=2", "adapter.dropout=0.5"),
        ("model=tiny_sdxl", "trainer.precision=bf16-mixed"),  # the last layer of one text encoder is not read
        ("objective.preservation_weight=0.5",),  # a second pass in a batch, which is no replay
    ],
    ids=" ".join,
)
def test_replays_give_the_gradients_of_plain_steps(
    words: tuple[str, ...], train, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*words, "trainer.max_steps=5", "health.stop_if_unchanged=false", "output.metadata=false")
    plain = train(*words, name="plain")
    recorded = use_cpu_graphs(monkeypatch)
    graphed = train(*words, name="graphed")
    assert recorded
    assert all(graph.replays for graph in recorded)
    assert (graphed / "adapter.safetensors").read_bytes() == (plain / "adapter.safetensors").read_bytes()
