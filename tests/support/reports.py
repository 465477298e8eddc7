"""The page of a report as its scripts get it, and folders of many runs made from a real one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from loralab import cli


def report(*words: object, code: int = 0) -> None:
    """The command `loralab report`; the exit code must be `code`."""
    with pytest.raises(SystemExit) as end:
        cli.main(["report", *map(str, words)])
    assert (end.value.code or 0) == code


def shown(page: Path) -> dict[str, Any]:
    """The values in a page."""
    (text,) = re.findall(r"<script type=application/json id=data>(.*?)</script>", page.read_text("utf8"), re.DOTALL)
    return json.loads(text)


def variant(run: Path, target: Path, pictures: tuple[int, int] = (0, 0), **settings: object) -> Path:
    """A copy of a run's folder with other settings (a__b for a.b); pictures: how many prompts, and training steps.

    Its losses move with its settings, so that no two look alike; its files are small.
    """
    target.mkdir(parents=True)
    shutil.copytree(run / "config", target / "config")
    shutil.copytree(run / "tensorboard", target / "tensorboard")
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    record = json.loads((run / "run.json").read_text())
    record["overrides"] = [f"{key}={value}" for key, value in keys.items()]
    shift = 1 + 0.01 * (crc32(repr(keys).encode()) % 100)
    record["loss"] *= shift
    if "validation/loss" in record["metrics"]:
        record["metrics"]["validation/loss"] *= shift
    (target / "run.json").write_text(json.dumps(record))
    _set(target / "config" / "config.yaml", keys)
    drawn = sorted((run / "samples").glob("step*.png"))
    (target / "samples").mkdir()
    for step in range(pictures[1]):
        for prompt in range(pictures[0]):
            source = drawn[(step * pictures[0] + prompt) % len(drawn)]
            (target / "samples" / f"step{step * 100:08d}-{prompt:02d}.png").write_bytes(source.read_bytes())
    return target


def _set(file: Path, keys: dict[str, object]) -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.load(file)
    for key, value in keys.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, file)
