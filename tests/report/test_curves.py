"""Curves are read back as they were logged, from TensorBoard's files and from CSV."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from loralab.report.curves import POINTS, curves, lowest, thinned


def log(folder: Path, values: dict[str, list[tuple[int, float]]], suffix: str = "") -> None:
    with SummaryWriter(folder, filename_suffix=suffix) as writer:
        for name, points in values.items():
            for step, value in points:
                writer.add_scalar(name, value, step)


def test_a_resumed_run_counts_by_its_later_values(tmp_path: Path) -> None:
    log(tmp_path / "tensorboard", {"loss_step": [(1, 0.5), (2, 0.4), (3, 0.3)], "lr/unet": [(1, 0.25)]}, ".1")
    log(tmp_path / "tensorboard", {"loss_step": [(3, 0.25), (4, 0.125)], "lr/text_encoder": [(1, 0.25)]}, ".2")
    found, unread = curves(tmp_path)
    assert found["loss"] == pytest.approx({1: 0.5, 2: 0.4, 3: 0.25, 4: 0.125})
    assert [name for name in found if name.startswith("lr/")] == ["lr/text_encoder"], "equal rates are one curve"
    assert not unread


def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    log(tmp_path / "a", {"loss_epoch": [(1, 0.5)]})
    (whole,) = (tmp_path / "a").iterdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / whole.name).write_bytes(whole.read_bytes()[:-5])
    (tmp_path / "metrics.csv").write_bytes(b"step,validation/loss\n1,0.5\nx,\xff\n")
    found, unread = curves(tmp_path)
    assert found["loss"] == {1: 0.5}
    assert [words.partition(" ")[0] for words in unread] == ["metrics.csv"], "what is cut is read as far as it goes"


def test_what_the_csv_logger_writes_is_read(train) -> None:
    folder = train("logger=csv", "trainer.log_every_n_steps=1", "data/validation=split", "data.batch_size=1")
    found, unread = curves(folder)
    assert list(found["loss"]) == [0, 1, 2]
    assert list(found["validation/loss"]) == [3]
    assert found["lr/text_encoder"].keys() == {1, 2, 3}
    assert not unread


def test_few_points_are_kept_of_many(tmp_path: Path) -> None:
    steps, values = thinned({step: step / 3 for step in range(5001)})
    assert len(steps) <= POINTS + 1
    assert (steps[0], steps[-1], values[-1]) == (0, 5000, 1666.7)
    assert thinned({1: math.nan, 2: 0.5}) == [[1, 2], [None, 0.5]]
    assert lowest({1: math.nan, 2: 0.5, 3: 0.25, 4: math.inf}) == (3, 0.25)
    assert lowest({1: math.nan}) is None
