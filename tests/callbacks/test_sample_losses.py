"""The log of losses sample by sample: what is in it, also after a resume, a kill, and damage; it changes nothing."""

from __future__ import annotations

import csv
import textwrap
from pathlib import Path

import numpy as np
import pytest

from loralab.rng import generator
from loralab.training.loss_log import RECORD, Losses, file_of, read
from tests.support.runs import adapter, record

WORDS = ("data.reg_folder=null", "logger=csv", "trainer.log_every_n_steps=1", "trainer.accumulate_grad_batches=2")


def rows(log: Losses) -> list[tuple]:
    """The records, with the images' paths in the place of their numbers, and None for a base model not asked."""
    return [
        (r["step"], log.images[r["image"]].path, r["timestep"], r["loss"], None if np.isnan(r["base"]) else r["base"])
        for r in log.records
    ]


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
    saving = (*saving, "callbacks.sample_losses.base_every_n_steps=2")
    whole = train(*saving, "trainer.max_steps=6", name="whole")
    expected = rows(read(file_of(whole, 0)))
    assert sum(row[-1] is not None for row in expected) == len(expected) / 2
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
        assert cut.records.tobytes() == log.records[: len(cut.records)].tobytes()
    middle = data.index(b"LLL1b") + 20
    file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    damaged = read(file)
    assert damaged.damaged > 0
    assert damaged.records.tobytes() == log.records[log.records["step"] > 1].tobytes()


def test_without_it_nothing_is_logged(train) -> None:
    assert not (train("callbacks.sample_losses.enabled=false", "trainer.max_steps=1") / "losses").exists()


def by_hand(folder: Path, samples: int) -> list[float]:
    """The losses of the first samples of a run for its base model, on which no adapter has ever been."""
    import torch

    from loralab.command.rerun import of_folder
    from loralab.diffusion.noise import normal
    from loralab.run import instantiate

    cfg = of_folder(folder, [])
    data = instantiate(cfg.data)(seed=cfg.seed, cache=instantiate(cfg.data.cache))
    family, objective = instantiate(cfg.model), instantiate(cfg.objective)
    data.attach(family)
    found: list[float] = []
    with torch.no_grad():
        for batch in data.train_dataloader():
            noise = normal(cfg.seed, "vae", batch.draws, family.latent_shape(*batch.pixels.shape[-2:]), family.device)
            known = family.encode_text(batch.captions, batch)
            losses = objective(
                lambda noisy, steps, known=known: family.predict(noisy, steps, known),
                family.latents(batch, noise),
                family.process,
                batch,
                cfg.seed,
            )
            found += losses.unweighted.tolist()
            if len(found) >= samples:
                return found[:samples]
    raise AssertionError("the run is longer than an epoch")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("targets=both",), id="with the text encoder"),
        pytest.param(("targets=both", "objective.noise.offset.strength=0.1", "objective/noise=offset"), id="noise"),
        pytest.param(("adapter.weights=first/adapter.safetensors",), id="from an adapter"),
        pytest.param(("adapter=dora", "adapter.dropout=0.3", "data.captions.dropout_rate=0.5"), id="dropout"),
    ],
)
def test_the_base_models_losses_are_those_of_the_base_model_alone(train, words: tuple[str, ...]) -> None:
    """For the same noise, timesteps and captions, whatever the adapter has learnt or started from."""
    if "adapter.weights" in words[0]:
        train("optimizer.lr=0.1", name="first")
    more = ("optimizer.lr=0.01", "callbacks.sample_losses.base_every_n_steps=1", "data.reg_folder=null")
    folder = train(*words, *more, "trainer.max_steps=4")
    records = read(file_of(folder, 0)).records
    assert records["base"].tolist() == pytest.approx(by_hand(folder, len(records)), rel=1e-5)
    changed, first = np.abs(records["loss"] / records["base"] - 1) > 1e-3, records["step"] == 1
    assert changed[~first].any(), "the adapter has learnt something"
    assert changed[first].any() == ("adapter.weights" in words[0]), "it has no effect before the first step"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            ("targets=both", "adapter.dropout=0.3", "adapter.rank_dropout=0.2", "ema.decay=0.9"), id="dropout"
        ),
        pytest.param(("optimizer=schedulefree", "trainer.accumulate_grad_batches=2"), id="schedule-free"),
        pytest.param(("objective.preservation_weight=1.0", "data.reg_folder=null"), id="preservation"),
    ],
)
def test_asking_the_base_model_changes_no_bit(train, words: tuple[str, ...]) -> None:
    """Of the adapter and of the training state."""
    words = (*words, "trainer.max_steps=4", "callbacks.state.enabled=true")
    found = []
    for name, more in (
        ("never", ("callbacks.sample_losses.enabled=false",)),
        ("always", ("callbacks.sample_losses.base_every_n_steps=1",)),
    ):
        folder = train(*words, *more, name=name)
        found.append([adapter(folder), *(file.read_bytes() for file in sorted(folder.glob("states/*/state.ckpt")))])
    assert len(found[0]) == 2
    assert found[0] == found[1]
    assert np.isfinite(read(file_of(folder, 0)).records["base"]).all()


def test_a_base_model_that_fails_costs_neither_the_result_nor_the_log(train, tmp_path: Path, monkeypatch) -> None:
    """A loss of the user's own that needs gradients."""
    (tmp_path / "needy.py").write_text(
        textwrap.dedent("""
        import torch
        from loralab.diffusion.loss import L2

        class Needy(L2):
            def __call__(self, prediction, *given):
                assert torch.is_grad_enabled(), "no gradients here"
                return super().__call__(prediction, *given)
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("trainer.max_steps=4", "data.reg_folder=null", "objective.loss._target_=needy.Needy", "allow=[needy.]")
    plain = train(*words, "callbacks.sample_losses.base_every_n_steps=null", name="plain")
    folder = train(*words, "callbacks.sample_losses.base_every_n_steps=1", code=1)
    assert adapter(folder) == adapter(plain)
    assert record(folder)["status"] == "finished with errors"
    assert record(folder)["errors"] == ["sample_losses failed: AssertionError: no gradients here"]
    log = read(file_of(folder, 0)).records
    assert np.isnan(log["base"]).all()
    assert log["loss"].tolist() == read(file_of(plain, 0)).records["loss"].tolist()


def test_a_log_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its records, of 16 bytes, have no base model's loss."""
    import struct
    import zlib

    records = np.zeros(3, np.dtype(RECORD.descr[:4]))
    records["step"], records["loss"] = (1, 2, 3), (0.1, 0.2, 0.3)
    content = zlib.compress(records.tobytes())
    file = tmp_path / "0.log"
    file.write_bytes(struct.pack("<4sc3xII", b"LLL1", b"r", len(content), zlib.crc32(content)) + content)
    found = read(file)
    assert found.damaged == 0
    assert found.records[["step", "loss"]].tolist() == records[["step", "loss"]].tolist()
    assert np.isnan(found.records["base"]).all()
