"""The curves of a run, read back from its TensorBoard file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BANDS = ("000-200", "200-400", "400-600", "600-800", "800-1000")


def test_tensorboard_has_every_curve(train) -> None:
    words = ("data/validation=split", "callbacks.validation.every_n_steps=3", "callbacks.samples.enabled=true")
    words += ("callbacks.samples.every_n_steps=3", "callbacks.samples.steps=1", "callbacks.samples.prompts=[star]")
    words += ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "trainer.limit_train_batches=3")
    words += ("optimizer=prodigy", "scheduler=linear", "optimizer.d0=1e-3")
    folder = train(*words, "logger=tensorboard") / "tensorboard"
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    found = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    per_step = ["loss_step", "loss_smoothed", "images_per_second", "waiting_for_data", "memory_gb"]
    parts = ("unet", "text_encoder")
    per_step += [f"{curve}/{part}" for curve in ("lr", "gradient_norm", "adapter_norm") for part in parts]
    assert [(name, len(found[name])) for name in per_step] == [(name, 6) for name in per_step]
    assert len(found["loss_epoch"]) == 2
    assert {name.rpartition("/")[2] for name in found if name.startswith("loss_by_timestep/")} <= set(BANDS)
    assert [name for name in found if name.startswith("loss_by_folder/")]
    validation = ["loss", "trained", "gap", *(f"loss_by_timestep/{band}" for band in BANDS)]
    assert [len(found[f"validation/{name}"]) for name in validation] == [2] * 8
    assert all(0 <= share < 1 for share in found["waiting_for_data"])
    assert found["memory_gb"][0] > 0.05

    assert [image.step for image in events.Images("samples/star")] == [0, 3, 6]
    assert b"optimizer" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def rows(folder: Path, name: str) -> list[float]:
    (file,) = folder.rglob("metrics.csv")
    return [float(row[name]) for row in csv.DictReader(file.open()) if row.get(name)]


def test_rates_are_those_in_force(train) -> None:
    """Every group's own, falling by the schedule; where the optimizer finds it, times what it found."""
    words = ("logger=csv", "trainer.log_every_n_steps=1", "scheduler=linear", "trainer.max_steps=4")
    own = train(*words, "optimizer.lr=4e-3", "targets.text_encoder_lr=8e-3", name="own")
    assert rows(own, "lr/unet") == pytest.approx([3e-3, 2e-3, 1e-3, 0])
    assert rows(own, "lr/text_encoder") == pytest.approx([6e-3, 4e-3, 2e-3, 0])
    found = rows(train(*words, "optimizer=prodigy", "optimizer.d0=1e-3", name="found"), "lr/unet")
    assert found[0] == pytest.approx(0.75e-3)
    assert found[-1] == 0


@pytest.mark.parametrize("words", [(), ("adapter.max_norm=1.0", "adapter.dropout=0.1", "ema.decay=0.9")])
def test_no_step_waits_for_the_device(train, words: tuple[str, ...]) -> None:
    """Between two looks, every trainer.log_every_n_steps steps, nobody asks for a value, nor at the end of an epoch."""
    watched = (
        "+callbacks.waits._target_=tests.support.callbacks.Waits",
        "allow=[tests.]",
        "trainer.log_every_n_steps=100",
    )
    folder = train(
        *watched, *words, "trainer.max_steps=8", "trainer.limit_train_batches=3", "callbacks.progress.enabled=true"
    )
    assert (folder.parent / "waits.txt").read_text() == ""
