"""What a file says of its making, against a file of sd-scripts."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from loralab.adapters.file import read_metadata
from loralab.models.registry import FAMILIES
from loralab.training.metadata import base_facts
from tests import GOLDEN
from tests.support.base_models import UNET, VAE, write_base
from tests.support.single_files import save_single_file

REFERENCE = json.loads((GOLDEN / "metadata.json").read_text())

VOLATILE = {"ss_session_id", "ss_training_started_at", "ss_training_finished_at", "modelspec.date"}
NOT_OURS = {"ss_sd_scripts_commit_hash"}
OWN_VALUE = {
    *("modelspec.implementation_version", "ss_optimizer", "ss_bucket_info", "ss_tag_frequency"),
    *("ss_sd_model_name", "sshs_model_hash", "sshs_legacy_hash"),
}


SIZES = {  # of the images: how many, (width, height); all but the last are near a bucket of the golden file
    "10_sks star": [(6, (60, 190)), (1, (60, 250)), (1, (512, 120)), (6, (128, 128))],
    "2_circle": [(1, (64, 192)), (1, (200, 70)), (8, (256, 250))],
    "1_shape": [(6, (300, 300))],
}
OVERRIDES = (
    *("seed=23", "trainer.max_steps=20", "data.batch_size=2", "data.resolution=128", "data.cache.latents=memory"),
    *("data.buckets.min_resolution=64", "data.buckets.max_resolution=256", "data.captions.shuffle=true"),
    *("data.captions.keep_tokens=1", "data.captions.trigger='sks star'", "model.max_token_length=150"),
    *("model.clip_skip=2", "adapter.rank=8", "adapter.alpha=4.0", "optimizer.lr=1e-4", "targets.unet_lr=1e-4"),
    *("targets.text_encoder_lr=5e-5", "scheduler=cosine", "scheduler.warmup_steps=2", "objective/noise=offset"),
    *("objective.noise.offset.strength=0.05", "objective/weighting=min_snr", "output.name=tiny_lora"),
    *("callbacks.validation.every_n_epochs=null", "data.buckets.step=64", "data=folder"),
)
OWN_SPELLING = {"ss_network_dropout": "0.0"}


def test_a_real_file_says_what_one_of_sd_scripts_says(train, random_base: Path, tmp_path: Path):
    """The golden file's run done again: as many images in as many buckets, the same settings."""
    images = {name: tmp_path / ("reg" if name == "1_shape" else "images") / name for name in SIZES}
    for name, folder in images.items():
        folder.mkdir(parents=True)
        sizes = [size for count, size in SIZES[name] for _ in range(count)]
        for number, size in enumerate(sizes):
            Image.new("RGB", size, (9 * number, 90, 30)).save(folder / f"{number}.png")
    folders = (f"data.folder={tmp_path / 'images'}", f"data.reg_folder={tmp_path / 'reg'}")
    ours = read_metadata(train(*OVERRIDES, *folders) / "tiny_lora.safetensors")
    assert set(REFERENCE) - set(ours) == VOLATILE | NOT_OURS
    assert set(ours) - set(REFERENCE) == {"modelspec.trigger_phrase", "loralab"}
    same = set(ours) & set(REFERENCE) - OWN_VALUE
    assert {key: ours[key] for key in same} == {key: REFERENCE[key] for key in same} | OWN_SPELLING
    theirs, info = json.loads(REFERENCE["ss_bucket_info"]), json.loads(ours["ss_bucket_info"])
    assert info["buckets"] == theirs["buckets"]
    buckets = sorted(tuple(row["resolution"]) for row in info["buckets"].values())
    flat = [size for entries in SIZES.values() for count, size in entries for _ in range(count)]
    errors = [min(abs(w / h - width / height) for w, h in buckets) for width, height in flat]
    assert info["mean_img_ar_error"] == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    assert ours["ss_sd_model_name"] == random_base.name


def test_epochs_and_steps_where_epochs_decide(train):
    """Of 100 samples, as many of regularisation, 50 a batch, two batches a step: two steps an epoch."""
    words = ("trainer.max_steps=null", "trainer.max_epochs=2", "data.batch_size=50", "data.buckets.enabled=false")
    run = train(*words, "trainer.accumulate_grad_batches=2", "callbacks.export.every_n_epochs=1")
    on_the_way, last = (read_metadata(run / f"adapter{end}.safetensors") for end in ("-000001", ""))
    length = ("ss_epoch", "ss_num_epochs", "ss_steps", "ss_max_train_steps", "ss_num_batches_per_epoch")
    assert [on_the_way[key] for key in length] == ["1", "2", "2", "4", "4"]
    assert [last[key] for key in length] == ["2", "2", "4", "4", "4"]
    assert last["ss_total_batch_size"] == "100"
    assert (last["ss_bucket_info"], last["ss_enable_bucket"]) == ("null", "False")


def test_dates_only_where_asked_for(train):
    """Without them, the same settings give the same file."""
    dated = read_metadata(train("output.dates=true", "trainer.max_steps=1", name="dated") / "adapter.safetensors")
    plain = read_metadata(train("trainer.max_steps=1", name="plain") / "adapter.safetensors")
    assert set(dated) - set(plain) == VOLATILE
    started, finished = float(dated["ss_training_started_at"]), float(dated["ss_training_finished_at"])
    assert time.time() - 60 < started < finished < time.time()
    finished_at = datetime.fromtimestamp(finished, timezone.utc)
    assert datetime.fromisoformat(dated["modelspec.date"] + "+00:00") == finished_at.replace(microsecond=0)


@pytest.fixture(scope="module")
def sd2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("sd2") / "sd2", width=1024)


@pytest.mark.parametrize(
    ("model", "prediction", "version", "architecture"),
    [
        ("model=sd15", "epsilon", "sd_v1", "stable-diffusion-v1/lora"),
        ("model=sd2", "epsilon", "sd_v2", "stable-diffusion-v2-512/lora"),
        ("model=sd2_v", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
        ("model=tiny_sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("model=tiny_sdxl", "v_prediction", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_families(train, sd2_base: Path, model, prediction, version, architecture):
    words = [model, f"model.prediction_type={prediction}", "trainer.max_steps=1", "data.resolution=64"]
    words += [f"model.base={sd2_base}", f"model.tokenizer={sd2_base / 'tokenizer'}"] if "sd2" in model else []
    ours = read_metadata(train(*words, "data.batch_size=1") / "adapter.safetensors")
    assert ours["ss_base_model_version"] == version
    assert ours["ss_v2"] == str(version.startswith("sd_v2"))
    assert ours["modelspec.architecture"] == architecture
    assert ours["modelspec.prediction_type"] == ("v" if prediction == "v_prediction" else "epsilon")


def test_rank_and_alpha_are_those_of_the_adapter(train):
    start = train("adapter.rank=3", "adapter.alpha=1.5", "trainer.max_steps=1", name="start") / "adapter.safetensors"
    run = train(f"adapter.weights={start}", "adapter.rank=6", "trainer.max_steps=1")
    told = read_metadata(run / "adapter.safetensors")
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("3", "1.5")
    settings = ("adapter.rank=4", "adapter.alpha=2.0", "adapter.rs_lora=true", "trainer.max_steps=1")
    told = read_metadata(train(*settings, name="stabilised") / "adapter.safetensors")
    assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("4", "2.0")  # in the tensors, 4.0


def test_a_run_on_a_single_file_names_it_by_both_hashes(train, random_base, random_family, tmp_path, monkeypatch):
    """The older hash, of a window of the file, and the newer one of all of it: by UIs and sd-scripts a model is known
    by these."""
    text = json.loads((random_base / "text_encoder" / "config.json").read_text())
    unet = {"in_channels": 4, "out_channels": 4, "transformer_layers_per_block": 1, **UNET}
    small = {"unet": unet, "text_encoder": text, "vae": VAE}
    monkeypatch.setitem(FAMILIES, "sd1", replace(FAMILIES["sd1"], architecture=small))
    base, vae = tmp_path / "base.safetensors", tmp_path / "vae.safetensors"
    save_single_file(random_family, base, torch.float32)
    save_file(dict(random_family.vae.state_dict()), vae)
    content = base.read_bytes()
    assert len(content) > 0x110000
    words = ("model=sd15", f"model.base={base}", f"model.tokenizer={random_base / 'tokenizer'}", "data.resolution=64")
    file = train(*words, f"model.vae={vae}", "trainer.max_steps=1", "trainer.precision=32-true") / "adapter.safetensors"
    told = read_metadata(file)
    assert told["ss_sd_model_name"] == "base.safetensors"
    assert told["ss_sd_model_hash"] == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert told["ss_new_sd_model_hash"] == hashlib.sha256(content).hexdigest()
    content = vae.read_bytes()
    assert told["ss_vae_name"] == "vae.safetensors"
    assert told["ss_vae_hash"] == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert told["ss_new_vae_hash"] == hashlib.sha256(content).hexdigest()
    assert told["sshs_model_hash"] == hashlib.sha256(tensors_of(file)).hexdigest()


def tensors_of(file: Path) -> bytes:
    """What follows the header of a safetensors file."""
    content = file.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


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
    folder = {"ss_sd_model_name": tmp_path.name, "ss_sd_model_hash": "IsADirectory"}
    assert base_facts(str(tmp_path)) == folder | {"ss_new_sd_model_hash": "IsADirectory"}
