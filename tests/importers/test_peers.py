"""Files of trainers with a vocabulary of their own: public examples of each, what they come to, and a run of each."""

import json

import pytest

from loralab.errors import UserError
from loralab.importers import content as contents
from loralab.importers.conversion import converted, read
from loralab.models import registry
from loralab.schema.tree import get
from tests.support.settings_files import (
    PEERS,
    composed,
    content_of,
    paths,
    said,
    set_at,
    trained,
    without,
    write_images,
)

STRAY = {
    "onetrainer_whole.json": ["max_train_steps", "sample_definitions", "samples_config_path"],
    "ai-toolkit_held.json": [
        "train.lr_scheduler_kwargs.eta_min", "train.mixed_precision", "train.zero_terminal_snr",
        "train.scale_weight_norms", "train.cache_text_encoder_outputs", "train.cache_text_encoder_outputs_to_disk",
        "sample.cfg_rescale", "datasets.0.bucket_step_size", "datasets.0.bucket_no_upscale", "datasets.0.center_crop",
    ],
}  # fmt: skip
"""Keys of those files that the trainer does not know either."""


def whole(tmp_path):
    """A file with every key, of a family that there is."""
    table = json.loads((PEERS / "onetrainer_flux2.json").read_text("utf8"))
    path = tmp_path / "onetrainer_whole.json"
    concepts = str(PEERS / "onetrainer_concepts.json")
    table |= {"model_type": "STABLE_DIFFUSION_XL_10_BASE", "concept_file_name": concepts}
    path.write_text(json.dumps(table), "utf8")
    return path


FILES = [
    *("onetrainer_sd15.json", "onetrainer_sd15_held.json", "onetrainer_sdxl.json", "onetrainer_whole.json"),
    *("onetrainer_concepts.json", "ai-toolkit_sdxl.yaml", "ai-toolkit_quick.yaml", "ai-toolkit_held.json"),
    *("ai-toolkit_sd15_held.yaml", "simpletuner_lokr.json", "simpletuner_lora.json", "simpletuner_backends.json"),
    *("simpletuner_held.json", "simpletuner_held.env", "diffusion-pipe_sdxl.toml", "diffusion-pipe_held.toml"),
    *("diffusion-pipe_dataset.toml", "diffusion-pipe_dataset_held.toml", "diffusers_dreambooth.sh"),
    *("onetrainer_zimage.json", "onetrainer_zimage_held.json", "onetrainer_anima_held.json"),
    *("ai-toolkit_zimage.yaml", "ai-toolkit_zimage_held.yaml", "simpletuner_zimage.json"),
    *("simpletuner_anima_held.json", "diffusion-pipe_zimage.toml", "diffusion-pipe_anima.toml"),
    *(
        "diffusion-pipe_anima_held.toml",
        "diffusers_sdxl.sh",
        "diffusers_sdxl_held.sh",
        "diffusers_prior_held.sh",
        "diffusers_accumulated_held.sh",
    ),
]


@pytest.fixture
def file(tmp_path):
    return lambda name: whole(tmp_path) if name == "onetrainer_whole.json" else PEERS / name


SAME = {
    "simpletuner_backends.json": {
        *((0, "caption_strategy"), (1, "crop")),  # the defaults
        *((2, key) for key in ("id", "dataset_type", "default", "type", "cache_dir")),  # reported as a whole
    }
}
"""Keys that are also that without being there."""


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_used_or_named(file, name):
    """Leaving out any one of them changes what is said of the file."""
    content = content_of(file(name))
    assert read(file(name)).unknown == STRAY.get(name, [])
    whole = said(content, content.data)
    keys = list(paths(content.data))
    assert len(keys) >= 8
    silent = {key for key in keys if said(content, without(content.data, key)) == whole}
    assert silent <= SAME.get(name, set())


EXPECTED = {
    "onetrainer_sd15.json": {
        "model.base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "model.clip_skip": 1, "model.dtype": "fp16",
        "optimizer.lr": 3e-4, "optimizer.weight_decay": 0.01, "adapter.rank": 16, "adapter.alpha": 1.0,
        "adapter.conv_rank": None, "targets.unet": True, "targets.text_encoder": True, "targets.in_out": False,
        "data.batch_size": 4, "data.resolution": 512, "data.buckets.partial": "drop", "trainer.max_epochs": 100,
        "trainer.max_steps": None, "scheduler.warmup_steps": 200, "trainer.precision": "16-mixed",
        "output.precision": "fp32", "output.name": "lora", "output.folder": "models", "ema.decay": 0.0,
        "trainer.accumulate_grad_batches": 1, "trainer.gradient_clip_val": 1.0,
    },
    "onetrainer_sdxl.json": {
        "model.base": "stabilityai/stable-diffusion-xl-base-1.0", "optimizer.lr": 3e-4, "targets.unet_lr": 3e-4,
        "targets.text_encoder": False, "targets.text_encoder_2": True, "adapter.rank": 16, "adapter.conv_rank": 16,
        "targets.in_out": True, "objective.noise.offset.strength": 0.05, "data.resolution": 1024, "data.batch_size": 4,
    },
    "onetrainer_sd15_held.json": {
        "optimizer.lr": 3e-4, "data.batch_size": 4, "model.dtype": "fp16", "adapter.rank": 16, "adapter.alpha": 1.0,
        "adapter.conv_rank": 16, "targets.in_out": True, "trainer.max_epochs": 100, "data.resolution": 512,
    },
    "onetrainer_whole.json": {
        "optimizer._target_": "bitsandbytes.optim.AdamW8bit", "optimizer.lr": 1e-4, "adapter.rank": 32,
        "adapter.alpha": 16.0, "output.precision": "bf16", "output.name": "smoke", "output.folder": "C:/out/smoke",
        "objective.timesteps._target_": "loralab.diffusion.timesteps.LogitNormal", "objective.timesteps.std": 1.0,
        "data.folders": [{"augment": {"flip": False}, "repeats": 1, "captions": {"shuffle": False},
                          "path": "/data/sumi", "weight": 1.0}],
        "targets.patterns": [{"match": r"^unet\.(?!.*(?:transformer_block))", "rank": 0}], "trainer.max_epochs": 1,
    },
    "ai-toolkit_sdxl.yaml": {
        "optimizer._target_": "bitsandbytes.optim.AdamW8bit", "optimizer.lr": 1e-4, "optimizer.eps": 1e-6,
        "optimizer.weight_decay": 0.01, "adapter.rank": 16, "adapter.alpha": 16.0, "adapter.conv_rank": None,
        "targets.unet": True, "targets.text_encoder": False, "data.resolution": 1024, "data.batch_size": 1,
        "trainer.max_steps": 1500, "trainer.precision": "32-true", "callbacks.export.every_n_steps": 250,
        "callbacks.export.keep_last": 3, "output.name": "sdxl_lora_training", "ema.decay": 0.0,
        "data.folders": [{"captions": {"extension": ".txt"}, "path": "/workspace/training_data/input"}],
    },
    "ai-toolkit_quick.yaml": {
        "optimizer._target_": "prodigyopt.Prodigy", "optimizer.lr": 1.0, "objective.noise.offset.strength": 0.05,
        "trainer.max_steps": 150, "trainer.precision": "bf16-mixed", "model.dtype": "bf16", "data.resolution": 1024,
    },
    "ai-toolkit_held.json": {
        "adapter.rank": 32, "adapter.conv_rank": 16, "adapter.conv_alpha": 16.0, "targets.text_encoder": True,
        "targets.text_encoder_lr": 5e-5, "optimizer.lr": 1e-4, "ema.decay": 0.99, "ema.warmup": False,
        "objective.weighting.min_snr.gamma": 5.0, "objective.noise.offset.strength": 0.1, "trainer.max_steps": 3000,
        "scheduler._target_": "loralab.optim.schedules.cosine", "scheduler.end_ratio": 0.0, "data.batch_size": 2,
        "output.layout": "diffusers", "output.precision": "bf16",
    },
    "ai-toolkit_sd15_held.yaml": {  # each of the 1000 steps is a batch, of which 4 make an update
        "trainer.max_steps": 250, "trainer.accumulate_grad_batches": 4, "optimizer.lr": 4e-4, "adapter.rank": 16,
        "data.captions.trigger": "Matt", "data.cache.latents": "disk", "callbacks.export.every_n_steps": 62,
        "data.resolution": 512,
    },
    "simpletuner_lokr.json": {
        "adapter._target_": "loralab.adapters.lokr.LoKr", "adapter.full_matrix": True, "adapter.factor": 12,
        "adapter.alpha": 1.0, "trainer.max_steps": 100, "data.batch_size": 1, "optimizer.lr": 3e-7, "seed": 42,
        "optimizer.eps": 1e-6, "trainer.gradient_clip_val": 2.0, "trainer.precision": "bf16-mixed", "resume": "auto",
        "scheduler.warmup_steps": 0, "data.captions.dropout_rate": 0.1, "data.resolution": 1024,
        "data.folders": [
            {"path": "datasets/camera", "repeats": 1, "is_reg": True, "captions": {"extension": ".txt"}},
            {"path": "datasets/dreambooth-subject", "repeats": 10, "class_tokens": "a subject",
             "captions": {"extension": ".no_captions"}}],
    },
    "simpletuner_lora.json": {  # lr_end of 4e-7 is a 200th of 8e-5; warm-up and clipping are SimpleTuner's defaults
        "adapter.rank": 64, "adapter.alpha": 64.0, "adapter.dropout": 0.1, "targets.text_encoder": False,
        "targets.feed_forward": False, "targets.projection": False, "targets.attention": True, "optimizer.lr": 8e-5,
        "scheduler.end_ratio": 0.005, "scheduler.warmup_steps": 500, "trainer.max_steps": 10000,
        "data.batch_size": 1, "trainer.accumulate_grad_batches": 1, "callbacks.export.every_n_steps": 500,
    },
    "simpletuner_held.json": {
        "optimizer._target_": "bitsandbytes.optim.Lion8bit", "optimizer.betas": [0.9, 0.99], "optimizer.lr": 3e-5,
        "scheduler.warmup_steps": 0, "trainer.max_steps": 1000, "callbacks.export.every_n_steps": 100,
        "adapter.rank": 16, "adapter.alpha": 16.0,
    },
    "simpletuner_held.env": {
        "model.base": "segmind/SSD-1B", "optimizer.lr": 4e-7, "data.batch_size": 8, "trainer.max_steps": 1000,
        "scheduler.power": 0.8, "scheduler.end_ratio": 0.025, "scheduler.warmup_steps": 10,
    },
    "diffusion-pipe_sdxl.toml": {  # aspect ratios of 0.5 to 2 at 512: sides of 362 to 724, in steps of 32
        "adapter.rank": 32, "adapter.alpha": None, "targets.unet_lr": 4e-5, "targets.text_encoder_lr": 2e-5,
        "targets.text_encoder_2_lr": 2e-5, "optimizer.lr": 2e-5, "optimizer.betas": [0.9, 0.99],
        "trainer.max_epochs": 10, "trainer.max_steps": None, "objective.weighting.min_snr.gamma": 5.0,
        "trainer.precision": "bf16-mixed", "data.buckets.min_resolution": 352, "data.buckets.max_resolution": 736,
        "data.buckets.step": 32, "data.buckets.partial": "drop", "callbacks.export.every_n_epochs": 2,
        "targets.patterns": [{"match": r"^unet\..*time_emb_proj"}], "data.batch_size": 1,
    },
    "diffusion-pipe_held.toml": {
        "optimizer._target_": "bitsandbytes.optim.AdamW8bit", "optimizer.lr": 1e-4, "optimizer.weight_decay": 1e-4,
        "scheduler.warmup_steps": 100, "trainer.max_steps": 1000, "callbacks.export.every_n_steps": 250,
        "model.gradient_checkpointing": True,
        "data.folders": [{"captions": {"prefix": "je, "}, "path": "/data/images", "repeats": 1}],
    },
    "diffusers_dreambooth.sh": {
        "model.base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "adapter.rank": 4, "adapter.alpha": None,
        "optimizer._target_": "torch.optim.AdamW", "optimizer.weight_decay": 0.01, "optimizer.lr": 1e-4,
        "scheduler._target_": "loralab.optim.schedules.constant", "scheduler.warmup_steps": 0, "seed": 0,
        "trainer.max_steps": 500, "trainer.precision": "32-true", "data.batch_size": 1,
        "data.resolution": 512, "data.buckets.enabled": False, "data.augment.random_crop": True,
        "targets.text_encoder": False, "targets.feed_forward": False, "targets.attention": True,
        "callbacks.export.every_n_steps": 100, "callbacks.samples.every_n_epochs": 50, "data.folders": [
            {"path": "/data/dog", "class_tokens": "a photo of sks dog", "captions": {"extension": ".no_captions"}}],
    },
    "diffusers_sdxl.sh": {
        "data.resolution": 1024, "data.augment.flip": True, "trainer.max_epochs": 2, "trainer.max_steps": None,
        "trainer.precision": "16-mixed", "model.dtype": "fp16", "model.vae": "madebyollin/sdxl-vae-fp16-fix",
        "data.folders": [{"path": "/data/naruto"}], "callbacks.samples.every_n_epochs": 1,
    },
    "diffusers_sdxl_held.sh": {
        "data.augment.random_crop": False, "targets.text_encoder": True, "trainer.max_steps": 250, "seed": 1337,
        "trainer.precision": "32-true", "callbacks.export.every_n_steps": 50, "optimizer.lr": 1e-4,
    },
    "diffusers_prior_held.sh": {  # two instance images and two class images
        "data.batch_size": 4, "optimizer._target_": "bitsandbytes.optim.AdamW8bit", "adapter.rank": 8,
        "trainer.max_epochs": 50, "objective.prior_loss_weight": 1.0, "model.gradient_checkpointing": True,
    },
    "diffusers_accumulated_held.sh": {
        "trainer.accumulate_grad_batches": 4, "optimizer.lr": 1e-5, "trainer.max_steps": 500, "data.batch_size": 1,
    },
}  # fmt: skip
"""Worked out by hand from the file and the trainer's own defaults."""


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_file_comes_to(file, name):
    tree = composed(file(name)).tree
    assert {key: get(tree, key) for key in EXPECTED[name]} == EXPECTED[name]


FAMILIES = {
    "onetrainer_flux2.json": "model_type (in onetrainer_flux2.json): Flux 2 is not supported",
    "ai-toolkit_flux.yaml": "model.is_flux (in ai-toolkit_flux.yaml): flux is not supported",
    "simpletuner_flux.json": "model_family (in simpletuner_flux.json): flux is not supported",
    "diffusers_flux.sh": "train_dreambooth_lora_flux.py (in diffusers_flux.sh): flux is not supported",
    "diffusion-pipe_hunyuan.toml": "model.type (in diffusion-pipe_hunyuan.toml): hunyuan-video is not supported",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_another_family_is_named_with_what_is_supported(name):
    with pytest.raises(UserError) as caught:
        read(PEERS / name)
    assert FAMILIES[name] in str(caught.value)
    assert f"supported: {registry.named()}" in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_told_by_its_content(file, name, tmp_path):
    path = tmp_path / "train.cfg"
    path.write_bytes(file(name).read_bytes())
    assert converted(contents.read(path)).dialect == name.partition("_")[0]


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path)


def test_onetrainer_trains(images, tmp_path):
    (concept,) = json.loads((PEERS / "onetrainer_concepts.json").read_text("utf8"))
    concept |= {"path": str(images), "balancing": 2.0}
    (tmp_path / "concepts.json").write_text(json.dumps([concept]), "utf8")
    table = json.loads((PEERS / "onetrainer_sd15.json").read_text("utf8"))
    table |= {"concept_file_name": "concepts.json", "learning_rate_warmup_steps": 0}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(table), "utf8")
    record = trained(path, tmp_path)
    assert record["steps"] == 2
    assert get(composed(path).tree, "data.folders")[0]["repeats"] == 2


def test_ai_toolkit_trains(images, tmp_path):
    text = (PEERS / "ai-toolkit_sd15_held.yaml").read_text("utf8")
    path = tmp_path / "config.txt"
    path.write_text(
        text.replace('folder_path: "/workspace/training_data/matt_training_test"', f"folder_path: {images}")
    )
    record = trained(path, tmp_path, "trainer.accumulate_grad_batches=1")
    assert record["steps"] == 2


def test_simpletuner_trains(images, tmp_path):
    backend = {"id": "a", "type": "local", "instance_data_dir": str(images), "caption_strategy": "textfile"}
    (tmp_path / "backends.json").write_text(json.dumps([{**backend, "repeats": 1}]), "utf8")
    table = json.loads((PEERS / "simpletuner_lora.json").read_text("utf8"))
    table |= {"--data_backend_config": "backends.json", "--lr_warmup_steps": 0}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(table), "utf8")
    assert trained(path, tmp_path)["steps"] == 2
    assert get(composed(path).tree, "data.folders")[0]["repeats"] == 2


def test_diffusion_pipe_trains(images, tmp_path):
    dataset = f"resolutions = [512]\n[[directory]]\npath = '{images}'\nnum_repeats = 2\n"
    (tmp_path / "images.toml").write_text(dataset, "utf8")
    path = tmp_path / "config.toml"
    text = (PEERS / "diffusion-pipe_sdxl.toml").read_text("utf8")
    path.write_text(text.replace("diffusion-pipe_dataset.toml", "images.toml"), "utf8")
    assert trained(path, tmp_path)["steps"] == 2
    tree = composed(path).tree
    assert get(tree, "data.folders")[0]["repeats"] == 2
    assert not get(tree, "data.buckets.enabled")


def test_diffusers_scripts_train(images, tmp_path):
    text = (PEERS / "diffusers_prior_held.sh").read_text("utf8")
    path = tmp_path / "train.txt"
    path.write_text(text.replace("/data/me", str(images)).replace("/data/class", str(images)), "utf8")
    assert trained(path, tmp_path, "optimizer=adamw", "optimizer.weight_decay=0.01")["steps"] == 2


def test_the_launcher_s_precision_and_unknown_values(tmp_path):
    path = tmp_path / "train.sh"
    command = "train_text_to_image_lora.py --pretrained_model_name_or_path=m --train_data_dir=d --scale_lr"
    path.write_text(f"accelerate launch --mixed_precision=bf16 {command} --gradient_acc=2 --lr_sch polynomial\n")
    tree = composed(path).tree
    assert get(tree, "trainer.precision") == "bf16-mixed"
    assert get(tree, "optimizer.lr") == pytest.approx(1e-4 * 2 * 16)
    assert (get(tree, "scheduler.warmup_steps"), get(tree, "trainer.max_epochs")) == (500, 100)
    path.write_text(f"accelerate launch {command} --learning_rate=$RATE\n")
    with pytest.raises(UserError, match="RATE is not assigned"):
        read(path)


ODD = (True, 0, -3, 1e30, "x", "", None, [], {}, ["a"], {"a": 1}, "1,2", "${x}", 1.5)


@pytest.mark.parametrize("name", FILES)
def test_any_value_is_a_setting_or_a_user_s_mistake(file, name):
    """Never a traceback."""
    content = content_of(file(name))
    for number, key in enumerate(paths(content.data)):
        for value in ODD[number % 4 :: 4]:
            said(content, set_at(content.data, key, value))
