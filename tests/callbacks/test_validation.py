"""The validation loss: what it is, that it disturbs nothing, and what goes by it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

SHARE = ("data.validation.split=0.15", "logger=csv", "data.reg_folder=null")
EVERY_STEP = ("callbacks.validation.every_n_steps=1", "callbacks.validation.every_n_epochs=null")
STILL = ("optimizer.lr=1e-30", "health.stop_if_unchanged=false")
"""Weights that stay those of the base."""


def curves(folder: Path) -> dict[str, list[float]]:
    """The validations' figures by name, in order."""
    (file,) = folder.rglob("metrics.csv")
    found: dict[str, list[float]] = {}
    for row in csv.DictReader(file.open()):
        for name, value in row.items():
            if name.startswith("validation/") and value:
                found.setdefault(name, []).append(float(value))
    return found


def test_training_is_the_same_to_the_bit_with_and_without_it(train) -> None:
    words = (*SHARE, "adapter.dropout=0.2", "ema.decay=0.9", "optimizer=schedulefree", "output.metadata=false")
    files = [
        (train(*words, *more, name=name) / "adapter.safetensors").read_bytes()
        for name, more in (("with", EVERY_STEP), ("without", ("callbacks.validation.enabled=false",)))
    ]
    assert files[0] == files[1]


def test_the_curve_is_the_same_whatever_the_seed_and_the_objective(train) -> None:
    first = curves(train(*SHARE, *EVERY_STEP, *STILL, name="first"))
    other = ("seed=5", "objective/loss=huber", "objective/timesteps=range", "objective.timesteps.low=300")
    second = curves(train(*SHARE, *EVERY_STEP, *STILL, *other, "data.batch_size=3", name="second"))
    assert len(first["validation/loss"]) == 3
    for name, values in first.items():
        assert values == pytest.approx([values[0]] * 3, rel=1e-5), "the weights stay, and so does the loss"
        assert second[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name


def test_it_is_the_error_on_the_images_held_out(train, random_base: Path) -> None:
    """Computed once more: plain noise, one timestep of each band for each image, no adapter."""
    folder = train(*SHARE, *EVERY_STEP, *STILL, "trainer.max_steps=1")
    measured = curves(folder)
    data, family = load_data(random_base, folder)
    held_out, trained = (by_hand(family, loader) for loader in data.val_dataloader())  # (N, 5) each
    assert len(held_out) == len(trained) == json.loads((folder / "run.json").read_text())["data"]["held_out"]
    assert measured["validation/loss"] == pytest.approx([held_out.mean().item()], rel=1e-4)
    assert measured["validation/trained"] == pytest.approx([trained.mean().item()], rel=1e-4)
    assert measured["validation/gap"] == pytest.approx([(held_out.mean() - trained.mean()).item()], abs=1e-4)
    assert measured["validation/loss_by_timestep/600-800"] == pytest.approx([held_out[:, 3].mean().item()], rel=1e-4)


def load_data(base: Path, folder: Path):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from loralab.models.families.sd import load

    family = load(str(base), resolution=64)
    settings = OmegaConf.load(folder / "config" / "config.yaml").data
    data = instantiate(settings, _convert_="all", _partial_=False, seed=0)
    data.attach(family)
    return data, family


@torch.no_grad()
def by_hand(family, loader) -> torch.Tensor:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    from loralab.rng import generator

    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    rows = []
    for batch in loader:
        for i, draw in enumerate(batch.draws):
            shape = (1, 4, batch.pixels.shape[-2] // 8, batch.pixels.shape[-1] // 8)
            sampled = torch.randn(shape, generator=generator(0, "vae", *draw))
            posterior = family.vae.encode(batch.pixels[i : i + 1]).latent_dist
            latents = (posterior.mean + posterior.std * sampled) * family.vae.config.scaling_factor
            hidden = family.encode_text([batch.captions[i]]).hidden
            row = []
            for band in range(5):
                noise = torch.randn(shape, generator=generator(band, "noise", *draw))
                timestep = torch.tensor([int((band + draw.index * 0.6180339887498949 % 1) * 200)])
                noisy = schedule.add_noise(latents, noise, timestep)
                row.append(((family.denoiser(noisy, timestep, hidden).sample - noise) ** 2).mean().item())
            rows.append(row)
    return torch.tensor(rows)


def test_the_best_adapter_is_kept(train) -> None:
    folder = train(*SHARE, *EVERY_STEP, "callbacks.validation.save_best=true", "optimizer.lr=3e-2")
    losses = curves(folder)["validation/loss"]
    with safe_open(folder / "adapter-best.safetensors", "pt") as file:
        assert int(file.metadata()["ss_steps"]) == 1 + losses.index(min(losses))


def test_early_stopping_ends_the_run_and_says_why(train, capsys: pytest.CaptureFixture) -> None:
    stopping = ("callbacks.early_stopping.enabled=true", "callbacks.early_stopping.patience=2")
    folder = train(
        *SHARE, *EVERY_STEP, *STILL, *stopping, "callbacks.early_stopping.min_delta=0.1", "trainer.max_steps=5"
    )
    record = json.loads((folder / "run.json").read_text())
    assert record["steps"] == 3, "the first sets the mark, two are no better"
    assert (folder / "adapter.safetensors").is_file()
    first = curves(folder)["validation/loss"][0]
    why = f"early stopping at step 3: validation/loss did not improve on {first:.4f} by more than 0.1 in 2 validations"
    assert record["stopped"].startswith(why)
    assert record["stopped"] in capsys.readouterr().out


@pytest.mark.parametrize("scheduler", ["constant", "plateau"])
def test_a_run_shorter_than_its_intervals_is_validated_at_its_end(train, scheduler: str, capsys) -> None:
    """And what waits for more validations than there will be is told."""
    words = ("callbacks.validation.save_best=true", "callbacks.early_stopping.enabled=true")
    folder = train(*SHARE, *words, f"scheduler={scheduler}", "callbacks.early_stopping.patience=1")
    assert len(curves(folder)["validation/loss"]) == 1
    assert (folder / "adapter-best.safetensors").is_file()
    said = capsys.readouterr().out
    early = "callbacks.early_stopping.patience=1 has no effect: it needs 2 validations, but the run has only 0"
    assert early in said
    assert ("scheduler.patience=3 has no effect: it needs 5" in said) == (scheduler == "plateau")


def test_nothing_is_told_where_validations_suffice(train, capsys) -> None:
    stopping = ("callbacks.early_stopping.enabled=true", "callbacks.early_stopping.patience=2")
    train(*SHARE, *EVERY_STEP, *stopping)
    assert "no effect" not in capsys.readouterr().out


@pytest.mark.parametrize("words", ["scheduler=plateau", "callbacks.early_stopping.enabled=true"])
def test_what_goes_by_the_validation_needs_one(train, words: str, capsys: pytest.CaptureFixture) -> None:
    train(words, code=1)
    assert "data/validation=split" in capsys.readouterr().err
