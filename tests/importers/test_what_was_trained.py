"""Whatever was trained reads back from the metadata of its file: every setting, by any combination of options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from loralab.command.prepare import prepare
from loralab.errors import UserError
from loralab.importers.recipe import recipe
from loralab.importers.save import stored
from loralab.importers.section import is_left_out
from loralab.schema.catalogue import OPTIONS
from loralab.schema.tree import exists, get
from loralab.training.metadata import RECIPE, Data, Model, Progress, metadata

CHOICES = {
    "adapter": ["lora", "locon", "loha", "lokr", "dora"],
    "targets": ["both", "unet_only", "text_encoder_only"],
    "optimizer": ["adamw", "adam8bit", "adamw8bit", "lion", "prodigy", "adafactor", "sgd"],
    "scheduler": ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"],
    "objective/noise": ["plain", "offset", "multires", "input_perturbation", "[offset,input_perturbation]"],
    "objective/weighting": ["none", "min_snr", "debiased", "v_like", "[min_snr,debiased]"],
    "objective/loss": ["l1", "l2", "huber", "smooth_l1"],
    "objective/timesteps": ["uniform", "range", "logit_normal"],
    "data/captions": ["default", "tags"],
    "data/augment": ["default", "flip"],
}
VALUES = {
    "adapter.rank": ["1", "4", "7"],
    "adapter.alpha": ["null", "0.5", "3.0"],
    "adapter.conv_rank": ["2", "5"],
    "adapter.conv_alpha": ["null", "0.25"],
    "adapter.dropout": ["0.125"],
    "adapter.max_norm": ["1.5"],
    "adapter.rank_dropout": ["0.25"],
    "data.batch_size": ["2", "3"],
    "data.captions.dropout_rate": ["0.375"],
    "data.captions.keep_tokens": ["2"],
    "data.captions.shuffle": ["true"],
    "data.captions.token_warmup_steps": ["5"],
    "model.clip_skip": ["2"],
    "objective.prior_loss_weight": ["0.5"],
    "optimizer.lr": ["3e-5", "0.002"],
    "scheduler.warmup_ratio": ["0.125"],
    "scheduler.warmup_steps": ["null", "3"],
    "targets.loraplus_ratio": ["4.0"],
    "targets.text_encoder_lr": ["null", "1e-5", "0.0"],
    "targets.unet_lr": ["null", "1e-5"],
    "trainer.accumulate_grad_batches": ["2"],
    "trainer.gradient_clip_val": ["null", "0.5"],
    "trainer.max_steps": ["9", "null"],
    "seed": ["3"],
}
PAIRS = sorted({**CHOICES, **VALUES}.items())
OVERRIDES = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in PAIRS})
FACTS = (Data(images=8, reg_images=0, held_out=0, batches=4), Progress(epoch=2, step=9, epochs=2, steps=9))


@pytest.fixture(scope="module")
def usual(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The model and images, which a file does not hold."""
    images = tmp_path_factory.mktemp("images")
    Image.new("RGB", (64, 64)).save(images / "a.png")
    return ["model=sd15", f"model.base={random_base}", "data=folder", f"data.folder={images}"]


@given(chosen=OVERRIDES)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_setting_reads_back(usual: list[str], tmp_path_factory, chosen: dict[str, str]) -> None:
    try:
        prepared = prepare([*usual, *(f"{key}={value}" for key, value in chosen.items())])
    except UserError:  # options that contradict each other
        assume(False)
        raise
    made, choices = prepared.composed.tree, prepared.composed.choices
    told = written(made)
    section = json.dumps(recipe(made, choices))

    file = tmp_path_factory.mktemp("files") / "a.safetensors"
    assert held(read(file, told | {RECIPE: section}, usual)) == held(made)

    bare = read(file, told, usual)
    for option in (option for option in OPTIONS.values() if option.ss and option.key):
        key = option.holder or option.key
        if exists(made, key) and not is_left_out(key) and key not in OF_IMAGES:
            assert (get(bare, key) or None) == (get(made, key) or None), (option.name, chosen)


OF_IMAGES = ("output.name", "data.buckets.max_resolution", "data.buckets.min_resolution")
"""Names of files, and sizes that follow the model."""


def written(made: dict[str, Any]) -> dict[str, str]:
    """The metadata of a file that training with these settings writes."""
    rank, alpha = get(made, "adapter.rank"), get(made, "adapter.alpha")
    model = Model("sd1", "epsilon", False, alpha=float(rank if alpha is None else alpha), rank=rank)
    return metadata(made, model, *FACTS)


def read(file: Path, told: dict[str, str], usual: list[str]) -> dict[str, Any]:
    """What a file with this metadata composes to."""
    save_file({"lora_unet_a.alpha": torch.ones(()), "lora_te_a.alpha": torch.ones(())}, file, told)
    return prepare([f"settings.load={file}", *usual]).composed.tree


def held(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored(tree) if not is_left_out(key)}
