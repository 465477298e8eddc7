"""What a file says of its making, against a file of sd-scripts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from loralab.adapters.file import read_metadata
from loralab.training.metadata import Data, Dates, Model, Progress, base_facts, metadata

GOLDEN = json.loads((Path(__file__).parent / "golden" / "metadata.json").read_text())

SETTINGS = {
    "seed": 23,
    "output": {"name": "tiny_lora", "comment": None},
    "model": {"clip_skip": 2, "max_token_length": 150, "gradient_checkpointing": False},
    "adapter": {"_target_": "loralab.adapters.lora.LoRA", "rank": 8, "alpha": 4.0, "dropout": None},
    "targets": {"unet_lr": 1e-4, "text_encoder_lr": 5e-5},
    "objective": {
        "loss": {"_target_": "loralab.diffusion.loss.L2", "c": 0.1, "scale": 1.0, "schedule": "snr"},
        "noise": {
            "offset": {"strength": 0.05, "random_strength": False},
            "multires": {"discount": 0.3},
            "input_perturbation": {"random_strength": False},
        },
        "weighting": {"min_snr": {"gamma": 5.0}},
        "prior_loss_weight": 1.0,
    },
    "data": {
        "resolution": [128, 128],
        "batch_size": 2,
        "buckets": {"enabled": True, "min_resolution": 64, "max_resolution": 256, "no_upscale": False},
        "captions": {
            "shuffle": True,
            "keep_tokens": 1,
            "dropout_rate": 0.0,
            "tag_dropout_rate": 0.0,
            "dropout_every_n_epochs": 0,
            "trigger": "sks star",
        },
        "augment": {"color": False, "flip": False, "random_crop": False},
        "cache": {"latents": "memory"},
        "validation": {"share": 0.0},
    },
    "optimizer": {"_target_": "torch.optim.adamw.AdamW", "_partial_": True, "lr": 1e-4},
    "scheduler": {"_target_": "loralab.optim.schedules.cosine", "warmup_steps": 2},
    "trainer": {"precision": "32-true", "gradient_clip_val": 1.0, "accumulate_grad_batches": 1},
}
MODEL = Model("sd1", "epsilon", False, 4.0)
DATA = Data(
    images=160,
    reg_images=6,
    held_out=0,
    batches=160,
    folders={"10_sks star": (10, 14), "2_circle": (2, 10)},
    reg_folders={"1_shape": (1, 6)},
    tags={"10_sks star": {"sks star": 14}},
    buckets=[((64, 192), 62)],
)
PROGRESS = Progress(epoch=1, step=20, max_epochs=1, max_steps=20)

VOLATILE = {"ss_session_id", "ss_training_started_at", "ss_training_finished_at", "modelspec.date"}
BY_FILE = {"sshs_model_hash", "sshs_legacy_hash", "ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash"}
NOT_OURS = {"ss_sd_scripts_commit_hash"}
OWN_VALUE = {"modelspec.implementation_version", "ss_optimizer", "ss_bucket_info", "ss_tag_frequency"}


def told(settings=SETTINGS, model=MODEL, **more):
    return metadata(settings, model, DATA, PROGRESS, **more)


def test_names_and_values_of_sd_scripts():
    ours = told()
    assert all(isinstance(value, str) for value in ours.values())
    assert set(GOLDEN) - set(ours) == VOLATILE | BY_FILE | NOT_OURS
    assert set(ours) - set(GOLDEN) == {"modelspec.trigger_phrase"}
    same = set(ours) & set(GOLDEN) - OWN_VALUE
    assert {key: ours[key] for key in same} == {key: GOLDEN[key] for key in same}
    assert json.loads(ours["ss_tag_frequency"]) == {"10_sks star": {"sks star": 14}}
    assert json.loads(ours["ss_bucket_info"])["buckets"]["0"] == {"resolution": [64, 192], "count": 62}


def test_dates_only_where_asked_for():
    dated = told(dates=Dates(1e9, 1e9 + 60, 7))
    assert set(dated) >= VOLATILE
    assert dated["modelspec.date"] == "2001-09-09T01:47:40"
    assert told() == told()


@pytest.mark.parametrize(
    ("family", "prediction", "version", "architecture"),
    [
        ("sd1", "epsilon", "sd_v1", "stable-diffusion-v1/lora"),
        ("sd2", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("sd2", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("sdxl", "v_prediction", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_families(family, prediction, version, architecture):
    ours = told(model=Model(family, prediction, False, 1.0))
    assert ours["ss_base_model_version"] == version
    assert ours["modelspec.architecture"] == architecture
    assert ours["modelspec.prediction_type"] == ("v" if prediction == "v_prediction" else "epsilon")


def test_other_adapters():
    adapter = {"_target_": "loralab.adapters.dora.DoRA", "rank": 8, "conv_rank": 4, "rank_dropout": 0.1}
    ours = told({**SETTINGS, "adapter": adapter})
    assert ours["ss_network_module"] == "lycoris.kohya"
    args = {"algo": "lora", "dora_wd": "True", "wd_on_output": "True", "conv_dim": "4", "rank_dropout": "0.1"}
    assert json.loads(ours["ss_network_args"]) == args


def test_rank_and_alpha_are_those_of_the_adapter(train):
    start = train("adapter.rank=3", "adapter.alpha=1.5", "trainer.max_steps=1", name="start") / "adapter.safetensors"
    run = train(f"adapter.weights={start}", "adapter.rank=6", "trainer.max_steps=1")
    told = read_metadata(run / "adapter.safetensors")
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("3", "1.5")
    settings = ("adapter.rank=4", "adapter.alpha=2.0", "adapter.rank_stabilised=true", "trainer.max_steps=1")
    told = read_metadata(train(*settings, name="stabilised") / "adapter.safetensors")
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("4", "2.0")  # in the tensors, 4.0


def test_hashes_of_the_base(tmp_path):
    content = bytes(range(256)) * 8192  # 2 MiB
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    facts = base_facts(str(path), vae=str(path))
    window = content[0x100000 : 0x100000 + 0x10000]
    assert facts["ss_sd_model_name"] == facts["ss_vae_name"] == "model.safetensors"
    assert facts["ss_sd_model_hash"] == hashlib.sha256(window).hexdigest()[:8]
    assert facts["ss_new_vae_hash"] == hashlib.sha256(content).hexdigest()
    assert base_facts("owner/name") == {"ss_sd_model_name": "name"}
