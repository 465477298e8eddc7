"""SDXL that predicts a rectified flow, with 4, 16 and 32 latent channels: equal to diffusers' parts put together."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from loralab import cli
from loralab.adapters import file
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.diffusion.loss import L2
from loralab.diffusion.noise import normal
from loralab.diffusion.objective import Objective
from loralab.diffusion.timesteps import Uniform
from loralab.errors import UserError
from loralab.models import probe
from loralab.models.families import sdxl
from loralab.models.families.sd.original import LATENTS
from loralab.models.families.sdxl.architecture import MINIATURE, with_channels
from loralab.models.load import empty, load_part, read_single_file
from loralab.models.preview import sample, start_noise
from loralab.models.registry import FAMILIES
from loralab.models.scaling import scaling_of
from loralab.rng import generator
from loralab.types import Batch, Draw
from tests.support.single_files import original_state

ROW = FAMILIES["sdxl"]
OUT = "model.diffusion_model.out.2.weight"


@pytest.fixture
def tokenizer(random_base: Path) -> str:
    return str(random_base / "tokenizer")


def made(tokenizer: str, channels: int = 32, **settings):
    return sdxl.miniature(tokenizer, prediction_type="flow", latent_channels=channels, **settings)


def batch(count: int = 2, pixels: Tensor | None = None) -> Batch:
    side = torch.tensor([[64, 64]] * count)
    return Batch(
        draws=[Draw(0, i) for i in range(count)],
        items=[],
        captions=["sks star", "a hill"][:count],
        pixels=pixels,
        latent_mean=None,
        latent_std=None,
        mask=None,
        weight=torch.ones(count),
        is_reg=torch.zeros(count, dtype=torch.bool),
        original_size=side * 3,
        crop=side // 8,
        target_size=side,
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scaled_by_diffusers(vae, latents: Tensor) -> Tensor:
    """As Flux2Pipeline, StableDiffusion3Pipeline and StableDiffusionXLPipeline do."""
    from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline

    if vae.config.latent_channels < 32:
        return (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    packed = Flux2Pipeline._patchify_latents(latents)
    mean, var = vae.bn.running_mean.view(1, -1, 1, 1), vae.bn.running_var.view(1, -1, 1, 1)
    return Flux2Pipeline._unpatchify_latents((packed - mean) / (var + vae.config.batch_norm_eps).sqrt())


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_latents_are_scaled_as_diffusers_does(channels: int, tokenizer: str) -> None:
    """By numbers, or by statistics of each channel and place in cells of 2 × 2; and back."""
    family = made(tokenizer, channels)
    latents = draw(2, channels, 6, 10)
    scaled = scaling_of(family.vae).scaled(latents)
    torch.testing.assert_close(scaled, scaled_by_diffusers(family.vae, latents), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaling_of(family.vae).unscaled(scaled), latents, rtol=1e-5, atol=1e-5)
    assert scaling_of(family.vae).unscaled(draw(1, channels, 5, 3)).shape == (1, channels, 5, 3)
    with torch.no_grad():
        pixels = family.vae.decode(latents).sample.clamp(-1, 1)
    torch.testing.assert_close(family.decode(scaled), pixels, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_the_objective_is_a_closed_form_of_diffusers_unet(channels: int, tokenizer: str) -> None:
    """|UNet((1 − σ)x + σn, 1000σ) − (n − x)|², x the image's scaled latents."""
    family = made(tokenizer, channels)
    samples = batch(pixels=draw(2, 3, 64, 64).clamp(-1, 1))
    latents = family.latents(samples, normal(7, "vae", samples.draws, (channels, 8, 8), family.device))
    with torch.no_grad():
        posteriors = [family.vae.encode(image[None]).latent_dist for image in samples.pixels]
        noises = normal(7, "vae", samples.draws, (channels, 8, 8), family.device)
        x = torch.cat([p.mean for p in posteriors]) + torch.cat([p.std for p in posteriors]) * noises
        x = scaled_by_diffusers(family.vae, x)
    torch.testing.assert_close(latents, x, rtol=1e-4, atol=1e-4)

    conditioning = family.encode_text(samples.captions, samples)
    with torch.no_grad():
        found = Objective({}, Uniform(shift=2.5), L2(), {})(
            lambda noisy, steps: family.predict(noisy, steps, conditioning), latents, family.process, samples, 7
        )
    n = torch.stack([torch.randn(channels, 8, 8, generator=generator(7, "noise", *d)) for d in samples.draws])
    shares = [torch.rand((), generator=generator(7, "timestep", *d), dtype=torch.float64) for d in samples.draws]
    u = torch.stack(shares)
    sigma = (2.5 * u / (1 + 1.5 * u)).float().view(-1, 1, 1, 1)
    added = {"time_ids": conditioning.added["time_ids"], "text_embeds": conditioning.pooled}
    with torch.no_grad():
        given = ((1 - sigma) * x + sigma * n, 1000 * sigma.flatten(), conditioning.hidden)
        v = family.denoiser(*given, added_cond_kwargs=added).sample
    torch.testing.assert_close(found.loss, ((v - (n - x)) ** 2).mean((1, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.timesteps, 1000 * sigma.flatten())


@pytest.mark.parametrize(("channels", "shift"), [(4, None), (32, 6.0)])
def test_pictures_follow_the_flow(channels: int, shift: float | None, tokenizer: str) -> None:
    """Euler's method along shifted sigmas, from noise to image, with guidance."""
    family = made(tokenizer, channels, flow_shift=shift)
    ours = sample(family, ["star"], [3], steps=4, guidance=2.0, negative="bad")
    x, shift = start_noise([3], (channels, 8, 8)), shift or 3.0
    smallest = shift / 1000 / (1 + (shift - 1) / 1000)  # the last of the 1000 that diffusers spreads steps over
    even = torch.linspace(1, smallest, 4)
    sigmas = [*(shift * even / (1 + (shift - 1) * even)).tolist(), 0.0]
    with torch.no_grad():
        for sigma, after in pairwise(sigmas):
            at = torch.tensor([1000 * sigma])
            without, towards = (family.predict(x, at, family.encode_text([caption])) for caption in ("bad", "star"))
            x = x + (after - sigma) * (without + 2 * (towards - without))
    torch.testing.assert_close(ours, family.decode(x), rtol=1e-3, atol=1e-3)


def test_an_adapter_is_the_one_of_diffusers_and_peft(tokenizer: str) -> None:
    """Convolutions of 32 channels at the ends included."""
    family, plain = made(tokenizer), made(tokenizer)
    adapters = inject(family, LoRA(rank=2, conv_rank=2), Targets(conv=True, in_out=True, text_encoder=False))
    for tensor in adapters.parameters():
        nn.init.normal_(tensor, std=0.2, generator=torch.Generator().manual_seed(0))
    noisy, at = draw(1, 32, 8, 8), torch.tensor([512.3])
    conditioning = plain.encode_text(["star"])
    before = plain.predict(noisy, at, conditioning)
    state = {key: t for key, t in adapters.state("diffusers").items() if key.startswith("unet.")}
    assert any("conv_in" in key and 32 in t.shape for key, t in state.items())
    plain.denoiser.load_lora_adapter(state, prefix="unet")
    theirs = plain.predict(noisy, at, conditioning)
    torch.testing.assert_close(family.predict(noisy, at, conditioning), theirs, rtol=1e-4, atol=1e-4)
    assert (before - theirs).abs().max() > 0.1


def test_one_batch_is_learned_by_heart(tokenizer: str) -> None:
    family = made(tokenizer, 16)
    adapters = inject(family, LoRA(rank=32, conv_rank=32), Targets(conv=True, in_out=True, text_encoder=False))
    samples, latents = batch(1), draw(1, 16, 8, 8)
    conditioning = family.encode_text(samples.captions, samples)
    objective = Objective({}, Uniform(), L2(), {})
    optimizer = torch.optim.Adam(adapters.parameters(), lr=1e-2)

    def loss() -> Tensor:
        at = torch.tensor([600.0])
        predict = lambda noisy, steps: family.predict(noisy, steps, conditioning)  # noqa: E731
        return objective(predict, latents, family.process, samples, 0, timesteps=at).loss.mean()

    first = loss().item()
    for _ in range(250):
        optimizer.zero_grad()
        (now := loss()).backward()
        optimizer.step()
        if now.item() < 0.01 * first:
            break
    assert now.item() < 0.01 * first


def test_a_resumed_run_gives_the_file_of_one_that_was_not_stopped(train, capsys: pytest.CaptureFixture) -> None:
    words = ("model=tiny_sdxl_flow", "objective/timesteps=logit_normal", "objective.timesteps.shift_side=64")
    words += ("objective/weighting=cosmap", "adapter.dropout=0.1", "data/validation=split", "data.cache.latents=memory")
    words += ("callbacks.state.every_n_steps=2", "callbacks.state.enabled=true", "trainer.max_steps=4")
    whole = train(*words, "callbacks.samples.enabled=true", "callbacks.samples.steps=2", name="whole")
    assert "predicts flow" in capsys.readouterr().out
    assert (whole / "samples" / "grid.png").is_file()
    resumed = train(*words, f"resume={next((whole / 'states').glob('*2'))}", name="resumed")
    assert (resumed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()

    capsys.readouterr()
    told = file.read_metadata(whole / "adapter.safetensors")
    assert told["ss_base_model_version"] == "sdxl_base_v1-0"
    assert told["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert (told["ss_timestep_sampling"], told["ss_discrete_flow_shift"]) == ("shift", "2.5")
    assert (told["ss_weighting_scheme"], told["ss_model_prediction_type"]) == ("cosmap", "raw")
    assert "modelspec.prediction_type" not in told, "the specification has no word for a flow"
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(whole / "adapter.safetensors"), "--json"])
    assert not stop.value.code
    assert "SDXL" in json.loads(capsys.readouterr().out)["summary"]


# a base says what it predicts


def write_folder(folder: Path, family, tokenizer: Path) -> Path:
    """As diffusers and transformers save it."""
    import shutil

    for part, module in {**family.parts(), "vae": family.vae}.items():
        module.save_pretrained(folder / part)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(tokenizer, folder / name)
    family.scheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize("channels", [4, 32])
def test_a_folder_is_trained_and_merged(channels: int, train, random_base: Path, tmp_path: Path, capsys) -> None:
    """Its scheduler says that it is a flow, and how its sigmas are shifted; merged equals adapted."""
    family = made(str(random_base / "tokenizer"), channels, flow_shift=5.0)
    base = write_folder(tmp_path / "base", family, random_base / "tokenizer")
    words = ("model=sdxl", f"model.base={base}", "data.resolution=64", "data.buckets.step=32", "optimizer.lr=0.01")
    run = train(*words, "targets.in_out=true")
    assert "predicts flow" in capsys.readouterr().out
    path = run / "adapter.safetensors"
    with pytest.raises(SystemExit) as stop:
        cli.main(["merge", str(path), "--base", str(base), "-o", str(tmp_path / "merged")])
    assert not stop.value.code, capsys.readouterr().err

    adapted, merged = sdxl.load(str(base)), sdxl.load(str(tmp_path / "merged"))
    assert (adapted.process.prediction, adapted.scheduler().config.shift) == ("flow", 5.0)
    assert (
        scaling_of(adapted.vae)
        .scaled(draw(1, channels, 4, 4))
        .equal(scaling_of(family.vae).scaled(draw(1, channels, 4, 4)))
    )
    noisy, at = draw(1, channels, 8, 8), torch.tensor([500.0])
    before = adapted.predict(noisy, at, adapted.encode_text(["star"]))
    inject(adapted, LoRA(rank=4, weights=str(path)), Targets())
    ours, theirs = (model.predict(noisy, at, model.encode_text(["star"])) for model in (adapted, merged))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - before).abs().max() > 1e-3


@pytest.mark.parametrize("start", ["first_stage_model.", "vae."])
@pytest.mark.parametrize("channels", [16, 32])
def test_a_single_file_is_read(channels: int, start: str, tokenizer: str, tmp_path: Path) -> None:
    """In the original layout, FLUX.2's inner convolutions and statistics included; every tensor is used."""
    family = made(tokenizer, channels)
    layout = {name.replace("first_stage_model.", start): t for name, t in vae_layout(dict(original_state(family)))}
    save_file({name: t.detach().contiguous().clone() for name, t in layout.items()}, tmp_path / "a.safetensors")
    configs = {**MINIATURE, **{part: dict(family.parts()[part].config.to_dict()) for part in family.encoders}}
    small = replace(ROW, architecture=configs)
    parts = read_single_file(tmp_path / "a.safetensors", small, [*ROW.parts, "vae"], torch.float32)
    for part, module in {**family.parts(), "vae": family.vae}.items():
        ours, theirs = module.state_dict(), parts[part].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    alone = {name.removeprefix(start): t for name, t in layout.items() if name.startswith(start)}
    save_file({name: t.detach().contiguous().clone() for name, t in alone.items()}, tmp_path / "vae.safetensors")
    vae = load_part(tmp_path / "vae.safetensors", small, "vae")
    assert type(vae) is type(family.vae)
    assert all(torch.equal(tensor, vae.state_dict()[name]) for name, tensor in family.vae.state_dict().items())


def vae_layout(state: dict[str, Tensor]):
    """The original names of FLUX.2's VAE, which has its 1 × 1 convolutions inside encoder and decoder."""
    is_flux2 = "first_stage_model.bn.running_mean" in state
    for name, tensor in state.items():
        inside = name.replace(".quant_conv", ".encoder.quant_conv").replace(".post_encoder.", ".post_")
        inside = inside.replace(".post_quant_conv", ".decoder.post_quant_conv")
        if not name.endswith("num_batches_tracked"):
            yield (inside if is_flux2 else name), tensor


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_every_tensor_at_full_size(channels: int) -> None:
    """Names and shapes, through the original layout and back, without weights."""
    from types import SimpleNamespace

    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from loralab.models.vae import diffusers_vae

    configs = with_channels(channels, ROW.architecture)
    with torch.device("meta"):
        parts = {part: empty(ROW, part, config) for part, config in configs.items()}
    parts["unet"].register_to_config(**configs["unet"])
    unet, vae = parts.pop("unet"), parts.pop("vae")
    family = SimpleNamespace(name="sdxl", denoiser=unet, vae=vae, text_encoders=parts)
    layout = dict(vae_layout(dict(original_state(family))))
    assert layout[LATENTS].shape[1] == layout[OUT].shape[0] == channels
    shapes = {name: tensor.shape for name, tensor in layout.items()}
    assert ROW.file_config(ROW, "unet", shapes) == configs["unet"]
    assert ROW.file_config(ROW, "vae", shapes) == configs["vae"]

    def known(state: dict[str, Tensor]) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in state.items()}

    assert known(convert_ldm_unet_checkpoint(layout, configs["unet"])) == known(unet.state_dict())
    found = diffusers_vae(ROW.file_tensors(ROW, "vae", layout, configs["vae"]), configs["vae"])
    assert known(found) == known(vae.state_dict())


def header_only(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file whose tensors are a hole."""
    index, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        index[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(index).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + at)
    return path


SDXL_NAMES = ("conditioner.embedders.1.x", "conditioner.embedders.0.transformer.text_model.x", "vae.decoder.x")


def of_channels(path: Path, reads: int, predicts: int, *names: str) -> Path:
    shapes = {LATENTS: [320, reads, 3, 3], OUT: [predicts, 320, 3, 3], **{name: [1] for name in names}}
    return header_only(path, shapes)


@pytest.mark.parametrize(("channels", "prediction"), [(4, None), (16, "flow"), (32, "flow")])
def test_a_file_is_told_by_its_channels(channels: int, prediction: str | None, tmp_path: Path) -> None:
    path = of_channels(tmp_path / "a.safetensors", channels, channels, *SDXL_NAMES)
    found = probe.identify(str(path), "sdxl")
    assert (found.prediction_type, found.latent_channels) == (prediction, channels)
    assert probe.predicted({"_target_": ROW.loader, "base": str(path)}) == (prediction or "epsilon")


@pytest.mark.parametrize(
    ("reads", "predicts", "names", "words"),
    [
        (9, 4, SDXL_NAMES, "an inpainting or editing model"),
        (64, 32, SDXL_NAMES, "an inpainting or editing model"),
        (8, 8, SDXL_NAMES, "a model of 8 latent channels, which is not supported"),
        (16, 16, ("cond_stage_model.transformer.x", "first_stage_model.x"), "a model of 16 latent channels"),
    ],
)
def test_others_are_refused(reads: int, predicts: int, names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    path = of_channels(tmp_path / "a.safetensors", reads, predicts, *names)
    with pytest.raises(UserError, match=words):
        probe.identify(str(path), "sdxl")


def test_a_vae_of_other_channels_is_refused(tmp_path: Path) -> None:
    base = of_channels(tmp_path / "a.safetensors", 32, 32, *SDXL_NAMES)
    vae = header_only(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": [512, 4, 3, 3]})
    model = {"_target_": ROW.loader, "base": str(base), "vae": str(vae)}
    [problem] = probe.check(model)
    assert (problem.setting, problem.found) == ("model.vae", f"{vae} has 4 latent channels, but {base} reads 32")
    header_only(vae, {"decoder.conv_in.weight": [512, 32, 3, 3]})
    assert not probe.check(model)


def test_settings_of_a_flow(train, capsys: pytest.CaptureFixture) -> None:
    train("model=tiny_sdxl_flow", "model.zero_terminal_snr=true", code=1)
    assert "model.zero_terminal_snr: has no effect with a model that predicts a flow" in capsys.readouterr().err
    train("model=tiny_sdxl", "model.flow_shift=3", code=1)
    assert "model.flow_shift: needs a model that predicts a flow" in capsys.readouterr().err
    train("model=tiny_sdxl_flow", "objective/noise=offset", code=1)
    assert "objective.noise.offset: needs a model that predicts epsilon or v" in capsys.readouterr().err


def test_latents_scaled_by_numbers(random_base: Path, tmp_path: Path) -> None:
    """As sd-scripts' forks have it for VAEs whose file has none: (latents − shift)·scale."""
    family = made(str(random_base / "tokenizer"), 32)
    base = write_folder(tmp_path / "base", family, random_base / "tokenizer")
    found = sdxl.load(str(base), latent_scale=0.6043, latent_shift=0.076)
    latents = draw(1, 32, 4, 4)
    torch.testing.assert_close(scaling_of(found.vae).scaled(latents), (latents - 0.076) * 0.6043)
    with pytest.raises(UserError, match=r"model\.latent_shift: cannot be set alone"):
        sdxl.load(str(base), latent_shift=0.076)
