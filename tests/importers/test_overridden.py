"""A key that another key of the same file overrides is reported, in every dialect."""

import json

import pytest

from loralab.errors import UserError
from loralab.importers.conversion import read

EASY = "[network_args.args]\nnetwork_dim = 4\n{}\n[optimizer_args.args]\nunet_lr = 1e-4\n"


def easy(**keys):
    return EASY.format("\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()))


def found_in(folder, text):
    path = folder / ("a.json" if text[0] == "{" else "a.toml")
    path.write_text(text, "utf8")
    return read(path)


@pytest.mark.parametrize("algo", ["loha", "lokr"])
def test_lora_fa_beside_an_algorithm_of_lycoris(tmp_path, algo):
    text = easy(fa=True) + f'[network_args.args.network_args]\nalgo = "{algo}"\n'
    found = found_in(tmp_path, text)
    assert found.settings.choices["adapter"] == algo
    assert [(entry.key, entry.value, entry.why) for entry in found.not_applicable if entry.key == "fa"] == [
        ("fa", True, "overridden by network_args.algo")
    ]


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        (easy(network_module="networks.loha", fa=True), "network_module", "overridden by fa"),
        ('{"net_dim": 4, "network_module": "networks.loha", "lyco": true}', "network_module", "overridden by lyco"),
        ('{"net_dim": 4, "network_module": "networks.loha", "locon": true}', "network_module", "overridden by locon"),
    ],
)
def test_a_network_that_another_key_chooses(tmp_path, text, key, why):
    assert {entry.key: entry.why for entry in found_in(tmp_path, text).not_applicable}[key] == why


@pytest.mark.parametrize(
    ("own", "further"), [({"LoRA_type": "Standard"}, "additional_parameters"), ({"net_dim": 4}, "ext_sd_script_args")]
)
def test_what_additional_parameters_replace(tmp_path, own, further):
    found = found_in(tmp_path, json.dumps({**own, "keep_tokens": 2, further: "--keep_tokens=3"}))
    assert found.settings.values["data.captions.keep_tokens"] == 3
    assert "defines keep_tokens twice: --keep_tokens of additional_parameters is used" in found.warnings


def test_an_invalid_size_in_a_dataset_configuration(tmp_path):
    text = 'network_dim = 4\n[[datasets]]\nresolution = "x"\nenable_bucket = true\n'
    with pytest.raises(UserError) as caught:
        found_in(tmp_path, text + '[[datasets.subsets]]\nimage_dir = "/a"\n')
    assert "datasets.0.resolution" in str(caught.value)


@pytest.mark.parametrize("key", ["dit", "_diffusers_version"])
def test_our_own_section_is_no_mark_of_another_program(tmp_path, key):
    assert found_in(tmp_path, json.dumps({"net_dim": 4, "loralab": {"values": {key: 1}}})).dialect == "old-json"


def test_a_key_that_overrides_cannot_express(tmp_path):
    with pytest.raises(UserError) as caught:
        found_in(tmp_path, json.dumps({"net_dim": 4, "loralab": {"values": {"a.b": {"¹": None}}}}))
    assert "loralab.values.a.b" in str(caught.value)
