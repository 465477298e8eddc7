"""Options for flows: of sd-scripts, of its forks for SDXL, and of the metadata that we write in their words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

from loralab.command.prepare import checked
from loralab.diffusion.timesteps import LogitNormal
from loralab.importers.conversion import Converted, read
from loralab.schema.compose import without_hydra
from loralab.training.flow_metadata import flow

HEAD = 'pretrained_model_name_or_path = "model.safetensors"\nnetwork_dim = 4\n'
FLOW = HEAD + "flow_model = true\n"


@pytest.fixture
def converted(tmp_path: Path):
    def convert(text: str) -> Converted:
        (tmp_path / "config.toml").write_text(text, "utf8")
        return read(tmp_path / "config.toml")

    return convert


def told(found: Converted) -> dict:
    """What the file sets of model and timesteps."""
    of = {**found.settings.choices, **found.settings.values}
    keys = ("objective/timesteps", "objective.timesteps", "objective/weighting", "model", "model.")
    aside = ("model.max_token_length",)
    found = {key: value for key, value in of.items() if key.startswith(keys) and key not in aside}
    return {key: value for key, value in found.items() if (key, value) != ("objective/weighting", "none")}


COMMON = {"model": "sdxl_flow", "model.base": "model.safetensors", "model.prediction_type": "flow"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'flow_timestep_distribution = "logit_normal"\nflow_logit_mean = -0.2\nflow_logit_std = 1.5\n'
            "flow_uniform_static_ratio = 2.5\nvae_custom_scale = 0.6043\nvae_custom_shift = 0.076",
            {
                "objective/timesteps": "logit_normal",
                "objective.timesteps.mean": -0.2,
                "objective.timesteps.std": 1.5,
                "objective.timesteps.shift": 2.5,
                "model.latent_scale": 0.6043,
                "model.latent_shift": 0.076,
            },
        ),
        (
            'flow_timestep_distribution = "uniform"\nflow_uniform_shift = true\nflow_uniform_base_pixels = 1048576',
            {
                "objective/timesteps": "uniform",
                "objective.timesteps.shift": 1.0,
                "objective.timesteps.shift_side": 1024,
            },
        ),
        (
            "",
            {"objective/timesteps": "logit_normal", "objective.timesteps.shift": 1.0},
        ),
        (
            'timestep_sampling = "shift"\nsigmoid_scale = 1.2\ndiscrete_flow_shift = 3.1',
            {
                "objective/timesteps": "logit_normal",
                "objective.timesteps.std": 1.2,
                "objective.timesteps.shift": 3.1,
            },
        ),
        (
            'timestep_sampling = "sigma"\nweighting_scheme = "mode"\nmode_scale = 0.8\ndiscrete_flow_shift = 2.0',
            {"objective/timesteps": "mode", "objective.timesteps.scale": 0.8, "objective.timesteps.shift": 2.0},
        ),
        (
            'timestep_sampling = "uniform"\nweighting_scheme = "cosmap"\ndiscrete_flow_shift = 3.0',
            {
                "objective/timesteps": "uniform",
                "objective.timesteps.shift": 1.0,
                "objective/weighting": "cosmap",
            },
        ),
    ],
)
def test_options_of_flows(text: str, expected: dict, converted) -> None:
    found = converted(FLOW + text)
    assert told(found) == COMMON | expected
    assert not found.unknown


def test_sd_scripts_turns_the_logit_normal_round(converted) -> None:
    """Its number counts a list of timesteps from the noisiest on."""
    text = 'timestep_sampling = "sigma"\nweighting_scheme = "logit_normal"\nlogit_mean = 0.7\nlogit_std = 0.9'
    values = told(converted(FLOW + text))
    assert (values["objective.timesteps.mean"], values["objective.timesteps.std"]) == (-0.7, 0.9)
    torch.manual_seed(0)
    drawn = compute_density_for_timestep_sampling("logit_normal", 200_000, logit_mean=0.7, logit_std=0.9).double()
    shares = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    ours = LogitNormal(-0.7, 0.9).quantile(shares) / 1000
    torch.testing.assert_close(ours, torch.quantile(1 - drawn, shares), rtol=0, atol=0.01)


def test_a_model_that_is_no_flow_has_none_of_them(converted) -> None:
    found = converted(HEAD + 'timestep_sampling = "shift"\ndiscrete_flow_shift = 3.0\nmin_snr_gamma = 5')
    assert not any("timesteps" in key for key in told(found))
    why = {left.key: left.why for left in found.not_applicable}
    assert "only models that predict a flow" in why["timestep_sampling"]
    assert "only models that predict a flow" in why["discrete_flow_shift"]


def test_what_is_not_supported_is_reported(converted) -> None:
    found = converted(FLOW + 'flow_use_ot = true\ncontrastive_flow_matching = true\nvae_type = "flux2"')
    why = {left.key: left.why for left in found.not_applicable}
    assert "not supported" in why["flow_use_ot"]
    assert "not supported" in why["contrastive_flow_matching"]
    assert "found in the base model" in why["vae_type"]


@pytest.mark.parametrize(
    "words",
    [
        ["objective.timesteps.shift=1"],
        ["objective.timesteps.shift=2.5"],
        ["objective/timesteps=logit_normal", "objective.timesteps.std=1.3", "objective.timesteps.shift=1"],
        ["objective/timesteps=logit_normal", "objective.timesteps.std=1.3", "objective.timesteps.shift=3"],
        ["objective/timesteps=logit_normal", "objective.timesteps.mean=-0.2", "objective.timesteps.shift=2"],
        ["objective/timesteps=mode", "objective.timesteps.scale=0.7", "objective.timesteps.shift=2"],
        ["objective/weighting=sigma_sqrt", "objective.timesteps.shift=1"],
    ],
)
def test_the_metadata_says_the_same_in_sd_scripts_words(words: list[str], converted, tmp_path: Path) -> None:
    def objective(*overrides: str) -> dict:
        common = ["data=folder", f"data.folder={tmp_path}", "model=tiny_sdxl_flow"]
        return without_hydra(checked([*common, *overrides]).cfg).objective

    made = objective(*words)
    text = "\n".join(f"{name.removeprefix('ss_')} = {value!r}" for name, value in flow({"objective": made}).items())
    found = converted(FLOW + text)
    settings = [line for line in found.overrides if line.startswith("objective")]
    again = objective("objective/weighting=none", *settings)
    for part in ("timesteps", "weighting"):
        assert again[part] == made[part]
