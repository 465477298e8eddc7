"""What `auto` stands for, in the configuration that everything reads; and that it trains what fp32 does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from loralab.checks.check import Check
from loralab.command.prepare import prepare
from loralab.schema.compose import CONF, compose, follow, group_options, option_file
from loralab.schema.sources import raw
from loralab.schema.tree import get
from tests import ROOT
from tests.support.runs import adapter, record

TINY = ROOT / "src" / "loralab" / "assets" / "tiny"


@pytest.mark.parametrize(
    ("overrides", "dtype"),
    [
        (["model=sdxl"], "fp32"),
        (["model=sd15", "trainer=gpu"], "bf16"),
        (["model=tiny_sdxl", "trainer.precision=16-mixed", "model.dtype=auto"], "fp16"),
        (["trainer.precision=bf16-mixed", "model.dtype=fp32"], "fp32"),
        (["experiment=low_memory", "trainer.precision=16-mixed"], "fp16"),
    ],
    ids=str,
)
def test_frozen_weights_follow_the_precision(overrides: list[str], dtype: str) -> None:
    composed = compose(overrides)
    assert composed.tree["model"]["dtype"] == dtype
    assert not [p for p in Check(composed, here=False).problems if p.setting == "model.dtype"]


def test_those_of_every_model_do() -> None:
    for option in group_options()["model"]:
        file = option_file("model", option)
        assert file is not None
        if not option.startswith("tiny_"):
            assert get(raw(file), "model.dtype", "auto") == get(raw(file), "dtype", "auto") == "auto"
    assert raw(CONF / "model" / "base.yaml")["dtype"] == "auto"
    assert compose(["experiment=low_memory"]).tree["model"]["dtype"] == "bf16"


def test_an_imported_file_follows_it(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('mixed_precision = "bf16"\nnetwork_dim = 4\nnetwork_train_unet_only = true\n')
    tree = prepare([f"settings.load={file}", "model=tiny", "data=shapes"]).composed.tree
    assert get(tree, "model.dtype") == "bf16"


def test_the_points_of_a_sweep_follow_it() -> None:
    """Each its own: a type that one point has contradicts the precision of another."""
    prepare(["trainer.precision=32-true,bf16-mixed,32-true", "model.dtype=auto,fp32"], multirun=True)


KEPT = {
    "targets": {"text_encoder": False},
    "data": {"cache": {"latents": "disk", "text": "auto"}, "captions": {"shuffle": False, "dropout_rate": 0.1}},
}
TRAINED = {"text_encoder": True, "text_encoder_lr": None}


@pytest.mark.parametrize(
    ("changes", "cached"),
    [
        ({}, True),
        ({"data.cache.latents": "none"}, False),
        ({"targets": TRAINED}, False),
        ({"targets": {**TRAINED, "text_encoder_lr": 0}}, True),
        ({"targets": {**TRAINED, "text_encoder_lr": 0}, "adapter": {"weights": "a"}}, False),
        ({"targets": {"text_encoder": False, "text_encoder_2": True}}, False),
        ({"data.captions.shuffle": True}, False),
        ({"data.captions.tag_dropout_rate": 0.1}, False),
        ({"data.captions.wildcards": True}, False),
        ({"data.captions.token_warmup_steps": 5}, False),
        ({"data.folders": [{"path": "a"}, {"path": "b", "captions": {"shuffle": True}}]}, False),
        ({"data.folders": [{"path": "a", "captions": {"keep_tokens": 1}}, {"path": "b"}]}, True),
        ({"data.cache.text": False}, False),
    ],
    ids=str,
)
def test_texts_are_cached_where_nothing_changes_them(changes: dict[str, Any], cached: bool) -> None:
    cfg = OmegaConf.create(KEPT)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    follow(cfg)
    assert cfg.data.cache.text is cached


def test_a_run_that_caches_texts_composes() -> None:
    composed = compose(["data.cache.latents=disk", "targets=unet_only"])
    assert composed.tree["data"]["cache"]["text"] is True
    assert not [p for p in Check(composed, here=False).problems if p.setting == "data.cache.text"]


def test_what_a_run_records(train, capsys) -> None:
    """The resolved type; a state of the same type continues, whether it was set or followed."""
    given = ["trainer.precision=bf16-mixed", "callbacks.state.enabled=true"]
    run = train(*given, "trainer.max_steps=2", name="first")
    assert "base model frozen in bf16" in capsys.readouterr().out
    assert OmegaConf.load(run / "config" / "config.yaml").model.dtype == "bf16"
    given += ["trainer.max_steps=3", f"resume={run / 'states' / 'step00000002'}"]
    assert record(train(*given, "model.dtype=bf16", name="second"))["resumed"]
    capsys.readouterr()
    train(*given, "model.dtype=fp32", name="third", code=1)
    assert "'fp32' here, 'bf16' in the state" in capsys.readouterr().err


def curve(run: Path) -> np.ndarray:
    (file,) = run.rglob("metrics.csv")
    with file.open() as lines:
        return np.array([float(row["loss_step"]) for row in csv.DictReader(lines) if row.get("loss_step")])


@pytest.mark.slow
@pytest.mark.ci
def test_weights_in_bf16_train_as_those_in_fp32(train) -> None:
    """The embedded model, whose weights are pretrained: each loss within 2 %, their mean within 0.5 %."""
    given = ["model=tiny", f"model.base={TINY}", "trainer.precision=bf16-mixed"]
    given += [
        "trainer.max_steps=30",
        "data.batch_size=1",
        "trainer.log_every_n_steps=1",
        "logger=csv",
        "optimizer.lr=2e-3",
    ]
    half, full = (train(*given, f"model.dtype={dtype}", name=dtype) for dtype in ("auto", "fp32"))
    assert adapter(half) != adapter(full)
    one, other = curve(half), curve(full)
    assert len(one) == 30
    np.testing.assert_allclose(one, other, rtol=0.02)
    np.testing.assert_allclose(one.mean(), other.mean(), rtol=0.005)
