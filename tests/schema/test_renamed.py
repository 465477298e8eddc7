"""Old names of settings still count, wherever they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loralab.command.prepare import prepare
from loralab.errors import UserError
from loralab.schema.compose import CONF, Places
from loralab.schema.constructors import parameters
from loralab.schema.renamed import RENAMED, TARGETS
from loralab.schema.tree import exists, get

VALUES = {
    "adapter.rank_stabilised": True,
    "data.validation.share": 0.25,
    "health.movement": False,
    "model.convolutions": "auto",
    "targets.ends": True,
}


def test_each_has_a_value_here() -> None:
    assert VALUES.keys() == RENAMED.keys()


@pytest.mark.parametrize("old", RENAMED)
def test_on_the_command_line(old: str) -> None:
    value = str(VALUES[old]).lower()
    prepared = prepare([f"{old}={value}"])
    assert get(prepared.composed.tree, RENAMED[old]) == VALUES[old]
    assert f"{old}={value} is now called {RENAMED[old]}={value}" in prepared.warnings


def test_options_of_groups() -> None:
    prepared = prepare(["data/validation=share"])
    assert get(prepared.composed.tree, "data.validation.split") == 0.1


def test_misspelt_old_names_lead_to_the_new() -> None:
    with pytest.raises(UserError, match=r"did you mean 'health.stop_if_unchanged'"):
        prepare(["health.movment=false"])
    with pytest.raises(UserError, match="valid in health: on_nan, skips_in_a_row, stop_if_unchanged"):
        prepare(["health.commend=1"])


def test_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntargets: {ends: true}\n")
    Places.use(CONF, "train", [tmp_path])
    try:
        prepared = prepare(["experiment=mine"])
    finally:
        Places.use()
    tree = prepared.composed.tree
    assert get(tree, "targets.in_out") is True
    assert not exists(tree, "targets.ends")
    assert "targets.ends is now called targets.in_out" in prepared.warnings


def test_in_saved_settings(tmp_path: Path) -> None:
    choices = {"model": "tiny", "data": "shapes", "adapter": "lora", "targets": "both", "data/validation": "share"}
    section = {"choices": choices, "values": VALUES}
    (tmp_path / "a.json").write_text(json.dumps({"mixed_precision": "no", "loralab": section}))
    prepared = prepare([f"settings.load={tmp_path / 'a.json'}"])
    for old, value in VALUES.items():
        assert get(prepared.composed.tree, RENAMED[old]) == value


OPTIONS = {
    "loralab.models.sd.load": "tiny",
    "loralab.models.sdxl.load": "sdxl",
    "loralab.models.miniature.sdxl": "tiny_sdxl",
}


@pytest.mark.parametrize("old", TARGETS)
def test_targets(old: str, tmp_path: Path) -> None:
    """On the command line and in a file of the user's; they exist, and are on the allow-list."""
    new, words = TARGETS[old], [f"model={OPTIONS[old]}", "data.buckets.step=32"]
    assert parameters(new) is not None
    prepared = prepare([*words, f"model._target_={old}"])
    assert get(prepared.composed.tree, "model._target_") == new
    assert f"model._target_={old} is now called model._target_={new}" in prepared.warnings
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\nmodel: {{_target_: {old}}}\n")
    Places.use(CONF, "train", [tmp_path])
    try:
        prepared = prepare([*words, "experiment=mine"])
    finally:
        Places.use()
    assert get(prepared.composed.tree, "model._target_") == new
    assert f"{old} is now called {new}" in prepared.warnings
