"""Whatever a setting is given, the check in front answers: accepted, or a UserError; no traceback, no waiting."""

import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from omegaconf import OmegaConf

from loralab.checks.check import Check
from loralab.schema.compose import Composed, compose
from loralab.schema.tree import is_node, leaves

HOSTILE: list[Any] = [
    *(None, "", " ", "\\", "x" * 5000, "\0", "\x1b[31m", "ä 日本", "auto", "/", ".", "nan", "${seed}", "${no.such}"),
    *(True, False, 0, 1, -1, 2**63, -(2**63), 10**40, 100_000, 0.5, -0.5, 1e38, 1e-38, 1e300),
    *(float("inf"), float("-inf"), float("nan"), [], [1], [[]], [None], ["\\"], [0, 0], {}, {"a": 1}, {"a": {}}),
    *({"_target_": "os.system"}, [{"_target_": "os.system"}], {"_target_": None}),
]
CHOICES = (
    [],
    ["data=folder", "data.folder=tests/golden", "optimizer=prodigy", "scheduler=plateau", "logger=many"],
    ["model=sd15", "adapter=lokr", "scheduler=polynomial", "objective/loss=huber", "objective/noise=[offset,multires]"],
    [
        "optimizer=adafactor",
        "objective/timesteps=logit_normal",
        "objective/weighting=[min_snr,v_like]",
        "data/cache=disk",
    ],
)
SECONDS = 5


def problems(composed: Composed, key: str, value: Any) -> list[str]:
    """What the check says of the value."""
    changed = replace(composed, cfg=composed.cfg.copy(), overrides=[f"{key}=…"])
    OmegaConf.update(changed.cfg, key, value, merge=False, force_add=True)
    start = time.process_time()
    found = [str(problem) for problem in Check(changed).problems]
    assert time.process_time() - start < SECONDS, (key, value)
    assert all(len(problem) < 6000 for problem in found)
    return found


def keys(tree: dict[str, Any]) -> list[str]:
    """Every leaf, and every node: these can be given, too."""
    nodes = [f"{name}" for name, node in tree.items() if is_node(node)]
    return [*nodes, *(key for key, _ in leaves(tree))]


@pytest.mark.parametrize("overrides", CHOICES, ids=str)
def test_some(overrides: list[str]) -> None:
    sweep(overrides, 10)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", CHOICES, ids=str)
def test_all(overrides: list[str]) -> None:
    sweep(overrides, None)


def sweep(overrides: list[str], count: int | None) -> None:
    composed = compose(overrides)
    pairs = [(key, value) for key in keys(composed.tree) for value in HOSTILE]
    for key, value in pairs if count is None else Random(str(overrides)).sample(pairs, count):
        try:
            problems(composed, key, value)
        except Exception as error:
            raise AssertionError(f"{key}={value!r:.60}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("value", ["\0", "x" * 5000, "~nobody_of_this_name/x"])
def test_paths(value: str, tmp_path: Path) -> None:
    composed = compose(["data=folder", f"data.folder={tmp_path}", "data/cache=disk"])
    for key in (
        "data.folder",
        "data.reg_folder",
        "data.mask_folder",
        "data.metadata",
        "data.cache_folder",
        "model.base",
    ):
        assert problems(composed, key, value), key
    for key in ("output.folder", "settings.save_folder", "adapter.weights", "resume", "model.vae", "model.tokenizer"):
        problems(composed, key, value)
