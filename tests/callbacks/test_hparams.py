"""What TensorBoard shows of a sweep, asked from its own server; and the settings in the other loggers' files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

from loralab.callbacks.hparams import columns
from loralab.callbacks.logged_pictures import titles
from loralab.callbacks.prompts import Prompt
from tests.support.runs import record

STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
NAMES = ["0/tensorboard/alpha=2", "1/tensorboard/alpha=null"]


@pytest.fixture
def swept(train, tmp_path: Path) -> Path:
    words = ("-m", "adapter.alpha=2,null", "trainer.max_steps=2", "logger=many")
    words += ("data/validation=split", "callbacks.samples.enabled=true", "callbacks.samples.steps=1")
    words += ("trainer.log_every_n_steps=1", "callbacks.samples.before=false", "run.name=mine")
    words += ("callbacks.samples.prompts=['a star: why?','a star: why?']",)
    train(*words, f"hydra.sweep.dir={tmp_path / 'points'}")
    return tmp_path / "points"


@pytest.fixture
def board(swept: Path):
    """board(path, …) asks TensorBoard, which shows the sweep."""
    from tensorboard.program import TensorBoard

    server = TensorBoard()
    server.configure([None, "--logdir", str(swept), "--port", "0", "--load_fast", "false"])
    url = server.launch()

    def ask(path: str, **request: Any) -> Any:
        with urlopen(f"{url}data/{path}?request={quote(json.dumps(request))}", timeout=60) as answer:
            return json.load(answer)

    until = time.monotonic() + 60
    while len(ask("plugin/hparams/session_groups", allowedStatuses=STATUSES, sliceSize=9)["sessionGroups"]) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    return ask


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's
def test_a_sweep_is_one_table_of_what_is_swept(swept: Path, board) -> None:
    table = board("plugin/hparams/experiment")
    assert [info["name"] for info in table["hparamInfos"] if info["differs"]] == ["adapter.alpha"]
    assert table["hparamInfos"][0]["name"] == "adapter.alpha"
    metrics = [info["name"]["tag"] for info in table["metricInfos"]]
    assert metrics[:3] == ["validation/loss", "validation/gap", "loss_epoch"]
    rows = board("plugin/hparams/session_groups", allowedStatuses=STATUSES, sliceSize=9)["sessionGroups"]
    assert sorted(row["name"] for row in rows) == NAMES
    for row, alpha in zip(sorted(rows, key=lambda row: row["name"]), (2, None), strict=True):
        run = record(swept / row["name"][0])
        assert row["hparams"].get("adapter.alpha") == alpha
        assert row["hparams"]["adapter.rank"] == 4
        assert row["sessions"][0]["status"] == "STATUS_SUCCESS"
        shown = {cell["name"]["tag"]: cell["value"] for cell in row["metricValues"]}
        assert shown["validation/loss"] == pytest.approx(run["metrics"]["validation/loss"])
        assert shown["loss_epoch"] == pytest.approx(run["loss"])
    curves, pictures = board("plugin/scalars/tags"), board("plugin/images/tags")
    assert sorted(curves) == NAMES
    assert sorted(pictures[NAMES[0]]) == ["samples/a star: why? · 1", "samples/a star: why? · 2"]
    (settings,) = swept.glob("0/csv/alpha=2/hparams.yaml")
    assert yaml.safe_load(settings.read_text())["adapter.alpha"] == 2


def test_what_is_swept_is_a_column() -> None:
    """Whatever it is: a group, an option of a group, a list, a setting that is usually one, a new one."""
    settings = {"optimizer": {"_target_": "bitsandbytes.optim.Adam8bit", "lr": 1e-3}, "data": {"resolution": [64, 32]}}
    settings |= {"trainer": {"limits": [1, 2]}, "mine": {"on": True}}
    own = ["optimizer=adam8bit", "objective/loss=l1", "trainer.limits=[1,2]", "+mine.on=true"]
    found = {name: value for name, value in columns(settings, own).items() if value is not None}
    assert found.pop("data.resolution") == "[64, 32]"
    assert found == {
        "optimizer": "adam8bit",
        "optimizer.lr": 1e-3,
        "objective/loss": "l1",
        "trainer.limits": "[1,2]",
        "mine.on": True,
    }
    assert columns(settings, [])["optimizer"] == "Adam8bit"


def test_pictures_are_called_by_their_prompts() -> None:
    """The same words twice: by what differs, else by number."""
    one = {"negative": "", "width": 64, "height": 64, "steps": 1, "guidance": 7.0}
    seeds = [Prompt("a  star,\nred", seed=seed, **one) for seed in (0, 1)]
    assert titles(seeds) == ["a star, red · seed 0", "a star, red · seed 1"]
    assert titles([seeds[0], seeds[0], Prompt("", seed=0, **one)]) == [
        "a star, red · 1",
        "a star, red · 2",
        "(no words)",
    ]
    assert len(titles([Prompt("word " * 100, seed=0, **one)])[0]) <= 80
