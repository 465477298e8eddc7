"""The log of losses sample by sample: what is in it, also after a resume, a kill, and damage."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from loralab.rng import generator
from loralab.training.loss_log import Losses, file_of, read

WORDS = ("data.reg_folder=null", "logger=csv", "trainer.log_every_n_steps=1", "trainer.accumulate_grad_batches=2")


def rows(log: Losses) -> list[tuple]:
    """The records, with the images' paths in the place of their numbers."""
    return [(r["step"], log.images[r["image"]].path, r["timestep"], r["loss"]) for r in log.records]


def test_every_sample_is_logged_once(train) -> None:
    """The loss that Lightning logs of a step is the mean of its samples; timesteps are those that the seed draws."""
    folder = train(*WORDS, "trainer.max_steps=6", "suggested.batch_size=2", "trainer.limit_train_batches=6")
    log = read(file_of(folder, 0))
    assert log.damaged == 0
    assert np.bincount(log.records["step"])[1:].tolist() == [4] * 6
    (file,) = folder.rglob("metrics.csv")
    logged = {int(r["step"]) + 1: float(r["loss_step"]) for r in csv.DictReader(file.open()) if r.get("loss_step")}
    means = {step: log.records["loss"][log.records["step"] == step][-2:].mean() for step in logged}
    assert len(means) == 6
    assert means == pytest.approx(logged, rel=1e-5), "the last batch of each step"
    drawn = {int(1000 * float(_uniform(0, epoch, index))) for epoch in range(4) for index in range(100)}
    assert set(log.records["timestep"].astype(int)) <= drawn
    image = log.images[int(log.records["image"][0])]
    assert Path(image.path).with_suffix(".txt").read_text().strip() == image.caption
    assert image.tags == image.caption.split(", ")


def _uniform(seed: int, epoch: int, index: int) -> float:
    import torch

    return torch.rand((), generator=generator(seed, "timestep", epoch, index), dtype=torch.float64).item()


def test_a_resumed_run_continues_the_log_of_the_state(train) -> None:
    """In a new folder and in its own: as if the run had never stopped, however far it had gone after the state."""
    saving = (*WORDS, "callbacks.state.enabled=true", "callbacks.state.every_n_steps=2", "callbacks.state.keep_last=9")
    whole = train(*saving, "trainer.max_steps=6", name="whole")
    expected = rows(read(file_of(whole, 0)))
    resume = f"resume={whole}/states/step00000002"
    assert rows(read(file_of(train(*saving, "trainer.max_steps=6", resume, name="new"), 0))) == expected
    (whole / "adapter.safetensors").unlink()
    train(*saving, "trainer.max_steps=6", resume, name="whole")
    assert rows(read(file_of(whole, 0))) == expected


def test_damage_costs_the_damaged_block_only(train) -> None:
    folder = train(*WORDS, "trainer.max_steps=4")
    file = file_of(folder, 0)
    data, log = file.read_bytes(), read(file)
    for end in range(0, len(data), 7):
        file.write_bytes(data[:end])
        cut = read(file)
        assert cut.damaged == 0, "an unfinished block is no damage"
        assert cut.records.tolist() == log.records[: len(cut.records)].tolist()
    middle = data.index(b"LLL1r") + 20
    file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    damaged = read(file)
    assert damaged.damaged > 0
    assert damaged.records.tolist() == log.records[log.records["step"] > 1].tolist()


def test_without_it_nothing_is_logged(train) -> None:
    assert not (train("callbacks.sample_losses.enabled=false", "trainer.max_steps=1") / "losses").exists()
