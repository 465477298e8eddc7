"""sd-scripts' options for Anima, of its script, a settings file and the metadata of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from loralab.adapters.targets import Pattern, Targets
from loralab.errors import UserError
from loralab.importers.conversion import Converted, read
from loralab.models.registry import FAMILIES
from tests.support.settings_files import trained, write_images

COMMAND = """accelerate launch anima_train_network.py --pretrained_model_name_or_path=dit.safetensors \\
  --qwen3=qwen.safetensors --vae=vae.safetensors --t5_tokenizer_path=t5 --llm_adapter_path=llm.safetensors \\
  --network_module=networks.lora_anima --network_dim=8 --network_args train_llm_adapter=True \\
  network_reg_dims=".*mlp.*=4" --learning_rate=1e-4 --timestep_sampling=shift --discrete_flow_shift=3.0 \\
  --sigmoid_scale=1.2 --qwen3_max_token_length=256 --attn_mode=torch --split_attn --vae_chunk_size=64 \\
  --self_attn_lr=1e-5 --cache_text_encoder_outputs --mixed_precision=bf16 --max_token_length=225 --clip_skip=2
"""


@pytest.fixture
def converted(tmp_path: Path):
    def convert(text: str, name: str = "train.sh") -> Converted:
        (tmp_path / name).write_text(text, "utf8")
        return read(tmp_path / name)

    return convert


def test_a_command_of_its_script(converted) -> None:
    found = converted(COMMAND)
    assert found.settings.choices["model"] == "anima"
    assert (found.settings.choices["adapter"], found.settings.choices["objective/timesteps"]) == (
        "lora",
        "logit_normal",
    )
    expected = {
        "model.base": "dit.safetensors",
        "model.text_encoder": "qwen.safetensors",
        "model.vae": "vae.safetensors",
        "model.t5_tokenizer": "t5",
        "model.max_token_length": 256,
        "model.attention": "sdpa",
        "targets.text_conditioner": True,
        "adapter.rank": 8,
        "objective.timesteps.shift": 3.0,
        "objective.timesteps.std": 1.2,
        "data.cache.text": True,
        "targets.patterns": [
            {"match": r"^transformer\.transformer_blocks\.(\d+)\.(ff\.net\.0\.proj|ff\.net\.2)$", "rank": 4},
            {"match": r"^text_conditioner\.blocks\.(\d+)\.(mlp\.0|mlp\.2)$", "rank": 4},
        ],
    }
    assert expected.items() <= found.settings.values.items()
    left = {each.key.lstrip("-").partition(".")[2] or each.key.lstrip("-") for each in found.not_applicable}
    assert {"llm_adapter_path", "split_attn", "vae_chunk_size", "self_attn_lr"} <= left
    assert {"max_token_length", "clip_skip"} <= left
    assert not found.unknown


RANKS = {r".*mlp.*": 4, r"blocks\.[0-2]\..*self_attn.*": 16, r"blocks\.5\.cross_attn.*": 0}
RATES = {r".*cross_attn.*": 1e-5}
INCLUDED, EXCLUDED = [r".*adaln_modulation_mlp.*", r"final_layer\.linear"], [r"blocks\.27\..*"]


def theirs(name: str) -> tuple[int, float | None] | None:
    """Rank and rate of a layer by sd-scripts' rules: the first expression that matches the whole name."""
    usual = r".*(_modulation|_norm|_embedder|final_layer).*"
    excluded = any(re.fullmatch(text, name) for text in [*EXCLUDED, usual])
    if excluded and not any(re.fullmatch(text, name) for text in INCLUDED):
        return None
    rank = next((rank for text, rank in RANKS.items() if re.fullmatch(text, name)), 8)
    rate = next((rate for text, rate in RATES.items() if re.fullmatch(text, name)), None)
    return (rank, rate) if rank else None


def test_layers_by_regular_expressions_on_its_names(converted) -> None:
    given = [
        f"network_reg_dims={','.join(f'{text}={rank}' for text, rank in RANKS.items())}",
        f"network_reg_lrs={','.join(f'{text}={rate}' for text, rate in RATES.items())}",
        f"include_patterns={INCLUDED}",
        f"exclude_patterns={EXCLUDED}",
    ]
    text = f"qwen3 = 'q'\nnetwork_module = 'networks.lora_anima'\nnetwork_dim = 8\nnetwork_args = {json.dumps(given)}\n"
    found = converted(text, "train.toml")
    chosen = Targets(patterns=[Pattern(**entry) for entry in found.settings.values["targets.patterns"]])
    table = {"transformer": FAMILIES["anima"].table["transformer"]}
    sites = {site.target.comfyui: site for site in chosen.choose(table, 28, conv=False)}
    for target in table["transformer"]:
        site = sites.get(target.comfyui)
        rank = 0 if site is None else 8 if site.rank is None else site.rank
        assert ((rank, site.lr) if site and rank else None) == theirs(target.comfyui), target.comfyui
    assert not found.unknown
    bad = 'qwen3 = "q"\nnetwork_module = "networks.lora_anima"\nnetwork_args = ["network_reg_dims=(=4"]\n'
    with pytest.raises(UserError, match="network_reg_dims"):
        converted(bad, "bad.toml")


def test_it_trains(tmp_path: Path) -> None:
    images = write_images(tmp_path)
    path = tmp_path / "train.sh"
    text = COMMAND.replace("--split_attn", "--fp8_base --max_train_steps=2").replace(
        "--vae_chunk", "--seed=1 --vae_chunk"
    )
    path.write_text(f"{text.rstrip()} --train_data_dir={images}\n", "utf8")
    assert trained(path, tmp_path, model="tiny_anima", step=16)["steps"] == 2


def test_what_takes_less_memory(converted) -> None:
    found = converted(COMMAND.replace("--split_attn", "--fp8_base --fp8_scaled --blocks_to_swap=14"))
    assert (found.settings.values["model.quantize"], found.settings.values["model.offload"]) == ("fp8", 14)
    assert not found.unknown
    found = converted(COMMAND)
    assert not {"model.quantize", "model.offload"} & found.settings.values.keys()


def test_its_defaults_and_marks(converted) -> None:
    """Each of its own options says what model it is; timesteps are drawn by a sigmoid, and are not shifted."""
    for text in ('qwen3 = "qwen.safetensors"\n', 'network_module = "networks.lora_anima"\n'):
        found = converted(f'pretrained_model_name_or_path = "dit.safetensors"\n{text}', "train.toml")
        assert found.settings.choices["model"] == "anima"
        assert found.settings.choices["objective/timesteps"] == "logit_normal"
        assert found.settings.values["objective.timesteps.shift"] == 1.0
        assert "model.max_token_length" not in found.settings.values


def test_the_metadata_of_its_files(converted) -> None:
    text = (
        '{"ss_base_model_version": "anima", "ss_network_module": "networks.lora_anima", "ss_network_dim": "16", '
        '"ss_timestep_sampling": "sigmoid", "ss_sigmoid_scale": "1.0", "ss_discrete_flow_shift": "1.0"}'
    )
    found = converted(text, "metadata.json")
    assert found.settings.choices["model"] == "anima"
    assert found.settings.choices["objective/timesteps"] == "logit_normal"
    assert "model.prediction_type" not in found.settings.values
