"""Settings of other trainers for Z-Image, in the forms that their own pages show."""

from __future__ import annotations

from pathlib import Path

from loralab.importers.conversion import Converted, read

MUSUBI = r"""accelerate launch --mixed_precision bf16 src/musubi_tuner/zimage_train_network.py \
    --dit models/z_image_bf16.safetensors --vae models/ae.safetensors --text_encoder models/qwen_3_4b.safetensors \
    --sdpa --mixed_precision bf16 --timestep_sampling shift --weighting_scheme none --discrete_flow_shift 2.0 \
    --optimizer_type adamw8bit --learning_rate 1e-4 --gradient_checkpointing \
    --network_module networks.lora_zimage --network_dim 32 --max_train_epochs 16 --seed 42 --output_name a
"""
AI_TOOLKIT = """
job: extension
config:
  name: my_first_lora
  process:
    - type: diffusion_trainer
      training_folder: output
      network: {type: lora, linear: 16, linear_alpha: 16}
      save: {dtype: bf16, save_every: 250}
      datasets:
        - {folder_path: images, caption_ext: txt, resolution: [512, 768, 1024], cache_latents_to_disk: true}
      train:
        batch_size: 1
        steps: 3000
        noise_scheduler: flowmatch
        optimizer: adamw8bit
        timestep_type: sigmoid
        lr: 1e-4
        dtype: bf16
      model: {name_or_path: Tongyi-MAI/Z-Image-Turbo, arch: zimage, quantize: false}
      sample: {sampler: flowmatch, sample_every: 250, guidance_scale: 1, sample_steps: 8}
"""


def told(path: Path, text: str) -> tuple[dict, Converted]:
    path.write_text(text, "utf8")
    found = read(path)
    return {**found.settings.choices, **found.settings.values}, found


def test_a_start_script_of_musubi_tuner(tmp_path: Path) -> None:
    given, _ = told(tmp_path / "train.sh", MUSUBI)
    expected = {
        "model": "zimage",
        "model.base": "models/z_image_bf16.safetensors",
        "model.text_encoder": "models/qwen_3_4b.safetensors",
        "model.vae": "models/ae.safetensors",
        "model.gradient_checkpointing": True,
        "adapter": "lora",
        "adapter.rank": 32,
        "objective/timesteps": "logit_normal",
        "objective.timesteps.shift": 2.0,
        "trainer.precision": "bf16-mixed",
    }
    assert {key: given.get(key) for key in expected} == expected
    assert "model.prediction_type" not in given
    turbo, _ = told(tmp_path / "turbo.sh", MUSUBI.replace("z_image_bf16", "z_image_turbo_bf16"))
    assert turbo["model"] == "zimage_turbo"


def test_a_configuration_of_ai_toolkit(tmp_path: Path) -> None:
    given, found = told(tmp_path / "train.yaml", AI_TOOLKIT)
    expected = {
        "model": "zimage_turbo",
        "model.base": "Tongyi-MAI/Z-Image-Turbo",
        "targets": "unet_only",
        "adapter.rank": 16,
        "objective/timesteps": "logit_normal",
        "objective.timesteps.shift": 1.0,
    }
    assert {key: given.get(key) for key in expected} == expected
    lost = {left.key for left in found.not_applicable}
    assert not lost & {"model.arch", "model.name_or_path", "train.timestep_type"}, lost
