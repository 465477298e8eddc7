"""The rows of the catalogue: each says all that it takes to read an option, or names the function that does."""

import json

import pytest

from loralab.importers.conversion import RULES, read
from loralab.schema.catalogue import OPTIONS
from loralab.schema.compose import group_options

RULE_NAMES = {rule.__name__ for rule in RULES}


@pytest.mark.parametrize("option", [o for o in OPTIONS.values() if o.key], ids=lambda option: option.name)
def test_a_row_is_complete(option):
    assert callable(option.coercion)
    assert all(name in OPTIONS or name in RULE_NAMES for name in option.by.split())
    for condition in option.only.split():
        group, is_choice, options = condition.partition("=")
        if is_choice:
            assert set(options.split("|")) <= set(group_options()[group.removesuffix("!")])
        else:
            assert condition in OPTIONS


@pytest.mark.parametrize(
    ("option", "value", "holds", "key", "why"),
    [
        ("huber_c", 0.2, {"loss_type": "smooth_l1"}, "objective.loss.c", "objective/loss=huber or smooth_l1"),
        ("scheduler_power", 3.0, {"scheduler": "polynomial"}, "scheduler.power", "scheduler=polynomial"),
        ("adaptive_noise_scale", 0.1, {"noise_offset": 1}, "objective.noise.offset.adaptive", "objective/noise=offset"),
        ("conditioning_data_dir", "/m", {"masked_loss": True}, "data.mask_folder", "masked_loss off"),
        ("wandb_run_name", "a", {"log_with": "wandb"}, "logger.wandb.name", "Weights & Biases"),
    ],
)
def test_a_condition_decides_whether_an_option_is_used_or_reported(tmp_path, option, value, holds, key, why):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"net_dim": 4, option: value} | holds), "utf8")
    assert read(path).settings.values[key] == value
    path.write_text(json.dumps({"net_dim": 4, option: value}), "utf8")
    found = read(path)
    assert key not in found.settings.values
    assert why in next(left.why for left in found.not_applicable if left.key == option)


@pytest.mark.parametrize("name", [option.name for option in OPTIONS.values() if option.is_flag])
def test_a_command_line_gives_a_flag_without_a_value(tmp_path, name):
    path = tmp_path / "train.txt"
    path.write_text(f"train_network.py --{name} --network_dim 4", "utf8")
    found = read(path)
    assert found.settings.values["adapter.rank"] == 4
    assert not found.unknown
