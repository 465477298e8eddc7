"""The VAE of Qwen-Image, which is one of videos, with images as single frames: equal to what diffusers does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loralab.diffusion.process import Flow
from loralab.errors import UserError
from loralab.models.load import load_part, random_base
from loralab.models.probe import check, look_at_base, look_at_vae
from loralab.models.scaling import rescale, scaling_of
from loralab.models.vae import decode, decode_in_tiles, diffusers_vae
from loralab.types import Batch, Draw
from tests.support import own_flow
from tests.support.own_flow.family import OwnFlow
from tests.support.wan_vae import wan_name

QWEN = {"_class_name": "AutoencoderKLQwenImage", "base_dim": 8}
ROW = replace(own_flow.ROW, architecture={**own_flow.ARCHITECTURE, "vae": QWEN})


@pytest.fixture(scope="module")
def family() -> OwnFlow:
    return OwnFlow(random_base(ROW, "tiny", 0, ROW.architecture, Flow(), "fp32"), {}, 64)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_images_are_encoded_and_decoded_as_diffusers_does(family: OwnFlow) -> None:
    from diffusers.modular_pipelines.anima.encoders import encode_vae_image

    pixels, nothing = drawn(2, 3, 64, 48).clamp(-1, 1), torch.zeros(2, 16, 8, 6)
    mean, std = family.encode_image(pixels)
    posterior = family.vae.encode(pixels[:, :, None]).latent_dist
    torch.testing.assert_close(mean, posterior.mean.detach()[:, :, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(std, posterior.std.detach()[:, :, 0], rtol=1e-5, atol=1e-5)
    assert mean.shape[1:] == family.latent_shape(64, 48)

    draws, one = [Draw(0, 0), Draw(0, 1)], torch.ones(2)
    given = {"latent_mean": None, "latent_std": None, "mask": None, "weight": one, "is_reg": one.bool()}
    sizes = {"original_size": one, "crop": one, "target_size": one}
    latents = family.latents(Batch(draws, [], ["", ""], pixels, **given, **sizes), nothing)
    generator = torch.Generator()
    scaled = encode_vae_image(pixels, family.vae, generator, torch.device("cpu"), torch.float32).detach()
    torch.testing.assert_close(latents, scaled[:, :, 0], rtol=1e-5, atol=1e-5)

    images = family.decode(latents)
    expected = family.vae.decode(posterior.mean.detach()).sample[:, :, 0]
    torch.testing.assert_close(images, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaling_of(family.vae).unscaled(latents), mean, rtol=1e-5, atol=1e-5)


def test_tiles_are_those_of_diffusers(family: OwnFlow) -> None:
    latents = drawn(1, 16, 72, 8)
    with torch.no_grad():
        ours = decode_in_tiles(family.vae, latents)
        whole = decode(family.vae, latents)
        family.vae.enable_tiling(512, 512, 384, 384)
        expected = family.vae.decode(latents[:, :, None]).sample[:, :, 0]
        family.vae.disable_tiling()
    torch.testing.assert_close(ours.clamp(-1, 1), expected)
    assert whole.shape == ours.shape == (1, 3, 576, 64)


def test_a_file_of_the_original_layout_is_the_folder(family: OwnFlow, tmp_path: Path) -> None:
    """It says how many channels it has, and is told from a base model."""
    family.vae.save_pretrained(tmp_path / "vae")
    state = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    file = tmp_path / "qwen_image_vae.safetensors"
    save_file({wan_name(name): tensor for name, tensor in state.items()}, file)
    for path in (file, tmp_path):
        look_at_vae(path)
        found = load_part(path, ROW, "vae")
        assert type(found) is type(family.vae)
        assert found.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())
    with pytest.raises(UserError, match="is a VAE"):
        look_at_base(file)


def test_one_of_other_channels_is_refused(family: OwnFlow, random_base: Path, tmp_path: Path) -> None:
    family.vae.save_pretrained(tmp_path / "vae")
    save_file({"decoder.conv1.weight": torch.zeros(8, 16, 3, 3, 3)}, tmp_path / "vae.safetensors")
    for vae in (tmp_path, tmp_path / "vae.safetensors"):
        node = {"_target_": "loralab.models.families.sd.load", "family": "sd1", "base": str(random_base)}
        (problem,) = check({**node, "vae": str(vae)})
        assert "has 16 latent channels" in str(problem)


def test_the_scale_can_be_set(family: OwnFlow) -> None:
    with pytest.raises(UserError, match=r"set model\.latent_scale too"):
        rescale(family.vae, None, 1.0)


def test_every_tensor_at_full_size() -> None:
    """194 tensors, of which the file has those of both directions, under names of its own."""
    from diffusers import AutoencoderKLQwenImage

    with torch.device("meta"):
        vae = AutoencoderKLQwenImage()
    state = vae.state_dict()
    layout = {wan_name(name): tensor for name, tensor in state.items()}
    assert len(layout) == len(state) == 194
    shapes = {
        "conv1.weight": (32, 32, 1, 1, 1),
        "conv2.weight": (16, 16, 1, 1, 1),
        "encoder.conv1.weight": (96, 3, 3, 3, 3),
        "encoder.downsamples.5.time_conv.weight": (192, 192, 3, 1, 1),
        "encoder.head.2.weight": (32, 384, 3, 3, 3),
        "decoder.conv1.weight": (384, 16, 3, 3, 3),
        "decoder.middle.1.to_qkv.weight": (1152, 384, 1, 1),
        "decoder.upsamples.3.time_conv.weight": (768, 384, 3, 1, 1),
        "decoder.upsamples.4.residual.0.gamma": (192, 1, 1, 1),
        "decoder.upsamples.4.shortcut.weight": (384, 192, 1, 1, 1),
        "decoder.upsamples.11.resample.1.weight": (96, 192, 3, 3),
        "decoder.upsamples.14.residual.6.weight": (96, 96, 3, 3, 3),
        "decoder.head.0.gamma": (96, 1, 1, 1),
    }
    assert {name: tuple(layout[name].shape) for name in shapes} == shapes
    found = diffusers_vae(dict(layout), QWEN)
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in state.items()}
