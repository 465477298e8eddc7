"""Families: loading in every layout, the way from pixels and captions to a prediction, previews, precision."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.errors import UserError
from loralab.models.families.sd import load
from loralab.models.families.sd.original import tensors_of
from loralab.models.families.sd.text import load_tokenizers
from loralab.models.families.sdxl import miniature as sdxl
from loralab.models.load import read_single_file
from loralab.models.preview import sample, start_noise
from loralab.models.quantize import dequantized, quantize_linears
from loralab.models.registry import FAMILIES
from loralab.models.vae import diffusers_vae
from loralab.types import Batch, Conditioning, Draw
from tests import GOLDEN
from tests.support.base_models import TEXT, UNET, VAE, write_base
from tests.support.names import ARCHITECTURES, modules
from tests.support.pipelines import pipeline_of
from tests.support.single_files import original_state, save_single_file

PART = "text_encoder"
PROMPTS = ["sks star", "a hill"]


def batch(count: int = 2, **values) -> Batch:
    side = torch.tensor([[64, 64]] * count)
    defaults = dict.fromkeys(("pixels", "latent_mean", "latent_std", "mask"))
    sizes = {"original_size": side * 3, "crop": side // 8, "target_size": side}
    flags = {"weight": torch.ones(count), "is_reg": torch.zeros(count, dtype=torch.bool)}
    draws = [Draw(0, i) for i in range(count)]
    return Batch(draws=draws, items=[], captions=PROMPTS[:count], **{**defaults, **sizes, **flags, **values})


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# loading


def test_a_folder_is_loaded_as_diffusers_loads_it(random_base: Path, random_family):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.modeling_clip import CLIPTextModel

    assert same(random_family.denoiser, UNet2DConditionModel.from_pretrained(random_base, subfolder="unet"))
    assert same(random_family.vae, AutoencoderKL.from_pretrained(random_base, subfolder="vae"))
    theirs = CLIPTextModel.from_pretrained(random_base / "text_encoder")
    assert same(random_family.text_encoders["text_encoder"], theirs)
    assert not any(p.requires_grad for part in random_family.parts().values() for p in part.parameters())


def test_variants_of_a_folder(random_base: Path, tmp_path: Path):
    """Shards, .bin files, fp16 variants, names with text_model. and the VAE's old names of attention."""
    folder = tmp_path / "base"
    shutil.copytree(random_base, folder)
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(unet)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: unet[name] for name in inside}, folder / "unet" / shard)
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))

    text = load_file(folder / "text_encoder" / "model.safetensors")
    (folder / "text_encoder" / "model.safetensors").unlink()
    prefixed = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    torch.save(prefixed, folder / "text_encoder" / "pytorch_model.bin")

    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, name in old.items():
        vae = {key.replace(new, name): value for key, value in vae.items()}
    save_file(vae, folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")

    ours, plain = load(str(folder)), load(str(random_base))
    assert same(ours.denoiser, plain.denoiser)
    assert same(ours.vae, plain.vae)
    assert same(ours.text_encoders["text_encoder"], plain.text_encoders["text_encoder"])
    assert ours.vae_id == plain.vae_id
    assert ours.text_id == plain.text_id


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_single_file_is_the_folder_again(random_base: Path, random_family, tmp_path: Path, kind: str):
    """Written in the original layout and read back, by diffusers' conversion, with the small model's own configs."""
    path = tmp_path / f"base.{kind}"
    if kind == "safetensors":
        save_single_file(random_family, path, torch.float32)
    else:
        torch.save({"state_dict": dict(original_state(random_family))}, path)
    text = json.loads((random_base / "text_encoder" / "config.json").read_text())
    unet = {"in_channels": 4, "out_channels": 4, "transformer_layers_per_block": 1, **UNET}
    small = replace(FAMILIES["sd1"], architecture={"unet": unet, "text_encoder": text, "vae": VAE})
    parts = read_single_file(path, small, ["unet", "text_encoder", "vae"], torch.float32)
    assert same(parts["unet"], random_family.denoiser)
    assert same(parts["vae"], random_family.vae)
    assert same(parts["text_encoder"], random_family.text_encoders["text_encoder"])


@pytest.mark.parametrize("where", ["folder", "whole folder", "file", "original file"])
def test_another_vae(random_base: Path, tmp_path: Path, where: str):
    other = write_base(tmp_path / "other", seed=1)
    theirs = load(str(other))
    path = {"folder": other / "vae", "whole folder": other}.get(where)
    if where == "file":
        path = other / "vae" / "diffusion_pytorch_model.safetensors"
    elif where == "original file":
        path = tmp_path / "vae.safetensors"
        save_file({k: v.contiguous() for k, v in original_state(theirs) if k.startswith("first_stage_model.")}, path)
    if path.is_file():  # a file has no config, so only a VAE of the full size will do
        with pytest.raises(UserError, match=r"model\.vae"):
            load(str(random_base), vae=str(path))
        return
    mixed = load(str(random_base), vae=str(path))
    assert mixed.vae_id == theirs.vae_id != load(str(random_base)).vae_id


def test_what_the_base_says_of_itself_and_what_the_user_wants(
    random_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    velocity = write_base(tmp_path / "v", prediction_type="v_prediction")
    assert load(str(random_base)).process.prediction == "epsilon"
    assert load(str(velocity)).process.prediction == "v_prediction"
    with caplog.at_level(logging.WARNING):
        assert load(str(velocity), prediction_type="epsilon").process.prediction == "epsilon"
    assert "model.prediction_type is epsilon, but the base model says v_prediction" in caplog.text
    assert load(str(random_base), zero_terminal_snr=True).process.zero_terminal_snr


def test_a_model_of_another_vocabulary_asks_for_its_tokenizer(random_base: Path, tmp_path: Path):
    folder = tmp_path / "base"
    shutil.copytree(random_base, folder, ignore=shutil.ignore_patterns("tokenizer"))
    with pytest.raises(UserError, match=r"model\.tokenizer: has 49408 tokens"):
        load(str(folder))
    family = load(str(folder), tokenizer=str(random_base / "tokenizer"))
    torch.testing.assert_close(
        family.encode_text(PROMPTS).hidden, load(str(random_base)).encode_text(PROMPTS).hidden, rtol=0, atol=0
    )


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_single_file_reads_with_clips_vocabulary(family: str):
    """The ids of another library's tokenizer, and the padding that each text encoder was trained with."""
    loaded = load_tokenizers(FAMILIES[family], None)
    pads = {part: tokenizer.pad_token_id for part, tokenizer in loaded.items()}
    assert pads == {"sd1": {PART: 49407}, "sd2": {PART: 0}, "sdxl": {PART: 49407, f"{PART}_2": 0}}[family]
    golden = json.loads((GOLDEN / "clip_tokens.json").read_text("utf8"))
    for tokenizer in loaded.values():
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
        for text, ids in golden.items():
            assert tokenizer(text, add_special_tokens=False, verbose=False).input_ids == ids, text


def test_the_hub_s_cache(random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A whole model by its id, without a network."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    place = tmp_path / "cache" / "models--someone--model"
    shutil.copytree(random_base, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    family, plain = load("someone/model"), load(str(random_base))
    assert same(family.denoiser, plain.denoiser)
    assert family.text_id == plain.text_id
    with pytest.raises(UserError, match="offline"):
        load("someone/else")


def test_settings_that_cannot_be(random_base: Path):
    for settings in ({"clip_skip": TEXT["num_hidden_layers"] + 1}, {"attention": "xformers"}):
        if settings.get("attention") and torch.cuda.is_available():
            continue
        with pytest.raises(UserError, match=f"model.{next(iter(settings))}"):
            load(str(random_base), **settings)


# the way of a batch


def test_pixels_to_latents_and_back_are_those_of_diffusers(random_family):
    pixels, noise = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 8, 8)
    mean, std = random_family.encode_image(pixels)
    posterior = random_family.vae.encode(pixels).latent_dist
    torch.testing.assert_close((mean, std), (posterior.mean, posterior.std))
    expected = (mean + std * noise) * 0.18215
    torch.testing.assert_close(random_family.latents(batch(pixels=pixels), noise), expected)
    torch.testing.assert_close(random_family.latents(batch(latent_mean=mean, latent_std=std), noise), expected)
    decoded = random_family.vae.decode(expected / 0.18215).sample.clamp(-1, 1)
    torch.testing.assert_close(random_family.decode(expected), decoded)


def test_cached_texts_are_the_texts(random_base: Path):
    for family in (load(str(random_base)), sdxl(str(random_base))):
        plain = batch()
        cached = batch(text=[family.encode_text([caption]) for caption in PROMPTS])
        first, second = family.encode_text(PROMPTS, plain), family.encode_text(PROMPTS, cached)
        torch.testing.assert_close(first.hidden, second.hidden)
        torch.testing.assert_close(first.added, second.added)


def test_sdxl_is_told_the_true_sizes(random_base: Path):
    family = sdxl(str(random_base))
    sizes = {"original_size": torch.tensor([[480, 640], [90, 70]]), "crop": torch.tensor([[0, 5], [3, 0]])}
    ids = family.encode_text(PROMPTS, batch(**sizes)).added["time_ids"]
    assert ids.tolist() == [[480, 640, 0, 5, 64, 64], [90, 70, 3, 0, 64, 64]]


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_gradient_checkpointing_changes_no_gradient(random_base: Path, kind: str):
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        make = load if kind == "sd" else sdxl
        family = make(str(random_base), gradient_checkpointing=checkpointing)
        weights = [parameter for part in family.parts().values() for parameter in part.parameters()]
        for weight in weights:
            weight.requires_grad_(True)
        generator = torch.Generator().manual_seed(1)
        noisy = torch.randn(2, 4, 8, 8, generator=generator)
        prediction = family.predict(noisy, torch.tensor([10, 900]), family.encode_text(PROMPTS, batch()))
        prediction.square().mean().backward()
        assert sum(w.grad is not None for w in weights) > 0.9 * len(weights)
        return [w.grad if w.grad is not None else torch.zeros(1) for w in weights]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_attention_gives_the_same(random_base: Path, attention: str, dtype: torch.dtype):
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    results = []
    for kind in ("auto", attention):
        family = load(str(random_base), attention=kind)
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            conditioning = family.encode_text(PROMPTS)
            results.append(family.predict(noisy, torch.tensor([10, 900]), conditioning))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_bases(random_base: Path, dtype: str):
    """The VAE keeps fp32; what comes out is fp32, and near."""
    half, full = load(str(random_base), dtype=dtype), load(str(random_base))
    assert half.denoiser.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert half.vae.dtype == torch.float32
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    predictions = [f.predict(noisy, torch.tensor([10, 900]), f.encode_text(PROMPTS)) for f in (half, full)]
    assert predictions[0].dtype == torch.float32
    torch.testing.assert_close(*predictions, rtol=0.05, atol=0.03)


@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.2), ("int8", 0.02)])
def test_quantised_bases(random_base: Path, kind: str, error: float):
    small, full = load(str(random_base), quantize=kind), load(str(random_base))
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    conditioning = full.encode_text(PROMPTS)
    ours, theirs = (f.predict(noisy, torch.tensor([10, 900]), conditioning) for f in (small, full))
    assert (ours - theirs).norm() < error * theirs.norm()
    assert not torch.equal(ours, theirs)
    ours.sum().backward()
    assert noisy.grad.isfinite().all()
    block = small.denoiser.mid_block.attentions[0].transformer_blocks[0]
    assert block.attn1.to_q.weight.dtype in (torch.uint8, torch.int8)


def test_quantised_weights_are_what_the_layers_compute_with():
    """Their answer to the unit vectors, before and after the first use."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 96))
    plain = model[0].weight.detach().clone()
    quantize_linears(model, torch.float32)
    before = dequantized(model[0])
    answer = (model(torch.eye(64)) - model[0].bias).T
    torch.testing.assert_close(before, answer, atol=2e-6, rtol=0)
    torch.testing.assert_close(dequantized(model[0]), before, atol=0, rtol=0)
    assert 0 < (before - plain).abs().max() < 0.03


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_bases_train(random_base: Path, train, kind: str):
    """Every adapter moves, also after a picture was drawn, which leaves the gradients as they were."""
    run = train(f"model.quantize={kind}", "trainer.max_steps=2", "model.dtype=bf16", "trainer.precision=bf16-mixed")
    state = load_file(run / "adapter.safetensors")
    assert all(tensor.any() for name, tensor in state.items() if "lora_up" in name)

    family = load(str(random_base), quantize=kind, resolution=64)
    adapters = inject(family, LoRA(rank=2), Targets())
    with torch.no_grad():
        for name, parameter in adapters.named_parameters():
            parameter += 0.05 if name.endswith("lora_up") else 0

    def gradients() -> list[torch.Tensor]:
        torch.nn.ModuleList(family.parts().values()).train()
        noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        loss = family.predict(noisy, torch.tensor([500]), family.encode_text(PROMPTS[:1])).square().mean()
        return list(torch.autograd.grad(loss, list(adapters.parameters())))

    before = gradients()
    torch.nn.ModuleList(family.parts().values()).eval()
    sample(family, PROMPTS[:1], [0], steps=2)
    torch.testing.assert_close(gradients(), before)


# previews


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "zero_snr", "sdxl"])
def test_previews_are_those_of_the_pipeline(random_base: Path, tmp_path: Path, kind: str):
    if kind == "sdxl":
        family = sdxl(str(random_base))
    else:
        settings = {} if kind == "epsilon" else {"prediction_type": "v_prediction", "zero_terminal_snr": kind[0] == "z"}
        family = load(str(random_base), resolution=64, **settings)
    seeds = [3, 4]
    before = torch.get_rng_state()
    ours = sample(family, PROMPTS, seeds, negative="bad", steps=5, guidance=4.0)
    assert torch.equal(torch.get_rng_state(), before)

    pipeline = pipeline_of(family)
    pipeline.set_progress_bar_config(disable=True)
    noise = start_noise(seeds, (4, 8, 8))
    size = {"height": 64, "width": 64, "num_inference_steps": 5, "guidance_scale": 4.0}
    theirs = pipeline(PROMPTS, negative_prompt=["bad"] * 2, latents=noise, output_type="pt", **size).images
    torch.testing.assert_close(ours / 2 + 0.5, theirs, rtol=1e-4, atol=1e-4)


def test_a_preview_depends_on_its_own_seed_alone(random_family):
    both = sample(random_family, PROMPTS, [1, 2], steps=3)
    alone = sample(random_family, PROMPTS[1:], [2], steps=3)
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both[1:], sample(random_family, PROMPTS[1:], [3], steps=3), atol=1e-2)


def test_previews_follow_width_and_height(random_family):
    assert sample(random_family, ["x"], [0], width=96, height=64, steps=2).shape == (1, 3, 64, 96)


def test_the_miniature_is_drawn_from_its_seed_alone(random_base: Path):
    before = torch.get_rng_state()
    first, again, other = (sdxl(str(random_base), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first.denoiser, again.denoiser)
    assert not same(first.denoiser, other.denoiser)
    assert isinstance(first.encode_text(PROMPTS), Conditioning)


# full size


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_original_names_are_those_that_diffusers_converts(name: str):
    """Every tensor of the full-size models, by name and shape, through the original layout and back."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
        return {key.removeprefix("text_model."): tensor.shape for key, tensor in state.items()}

    architecture = ARCHITECTURES[name]
    encoders = modules(name)
    unet = encoders.pop("unet")
    unet.register_to_config(**architecture["unet"])
    with torch.device("meta"):
        vae = AutoencoderKL(**architecture["vae"])
    family = SimpleNamespace(name=name, denoiser=unet, vae=vae, text_encoders=encoders)
    original = dict(original_state(family))
    assert shapes(convert_ldm_unet_checkpoint(original, architecture["unet"])) == shapes(unet.state_dict())
    first_stage = tensors_of(FAMILIES[name], "vae", original, architecture["vae"])
    assert shapes(diffusers_vae(first_stage, architecture["vae"])) == shapes(vae.state_dict())
    for part, text in family.text_encoders.items():
        converted = shapes(tensors_of(FAMILIES[name], part, original, architecture[part]))
        assert converted == shapes(text.state_dict())


def test_a_picture_is_decoded_in_tiles_where_memory_is_short(random_family, monkeypatch) -> None:
    def without_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    latents = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = random_family.decode(latents)
        monkeypatch.setattr(random_family.vae, "decode", without_memory)
        torch.testing.assert_close(random_family.decode(latents), whole)
        assert random_family.decode(torch.zeros(1, 4, 80, 72)).shape == (1, 3, 640, 576)
