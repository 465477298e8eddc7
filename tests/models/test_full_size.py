"""The public architectures at full size, their weights drawn at random: what trains on the miniature trains on these.

Minutes, and gigabytes of disk and memory; the weights are bf16.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loralab.models.load import empty, load_part
from loralab.models.probe import look_at_vae
from loralab.models.registry import FAMILIES, Row
from tests.support.names import golden
from tests.support.single_files import original_state, save_single_file, vae_name

pytestmark = pytest.mark.slow

MODELS = {"sd15": "sd1", "sd2_v": "sd2", "sdxl": "sdxl"}
TOLD = {"sdxl": {"prediction_type": "v_prediction", "zero_terminal_snr": True}}
"""What the user says of a folder, and a single file says of itself."""


def write_part(folder: Path, module: torch.nn.Module, config: dict, weights: str, draw: torch.Generator) -> None:
    """A component of a diffusers folder: matrices of small random values, norms near one."""
    state = {}
    for name, tensor in module.state_dict().items():
        values = torch.empty(tensor.shape, dtype=torch.bfloat16).uniform_(-0.03, 0.03, generator=draw)
        state[name] = values + 1 if "norm" in name and name.endswith("weight") else values
    folder.mkdir(parents=True)
    save_file(state, folder / f"{weights}.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def write_folder(folder: Path, row: Row, tokenizer: Path) -> Path:
    """A diffusers folder of a family's architecture."""
    draw = torch.Generator().manual_seed(0)
    for part, config in row.architecture.items():
        with torch.device("meta"):
            module = empty(row, part, config)
        is_text = part in row.text_encoders
        write_part(folder / part, module, config, "model" if is_text else "diffusion_pytorch_model", draw)
        if is_text:
            shutil.copytree(tokenizer, folder / part.replace("text_encoder", "tokenizer"))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(row.scheduler))
    return folder


def test_a_vae_of_one_file(tmp_path: Path):
    """Under diffusers' names and under the original ones, alone and in a whole model, it is the VAE of the folder."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = FAMILIES["sd1"].architecture["vae"]
    with torch.device("meta"):
        empty = AutoencoderKL(**config)
    write_part(tmp_path / "vae", empty, config, "diffusion_pytorch_model", torch.Generator().manual_seed(0))
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    original = {}
    for name, tensor in load_file(path).items():
        pointwise = ".attentions." in name and tensor.dim() == 2
        original[vae_name(name, 4)] = tensor[:, :, None, None] if pointwise else tensor
    torch.save({"state_dict": original}, tmp_path / "original.ckpt")
    save_file({f"first_stage_model.{name}": t for name, t in original.items()}, tmp_path / "whole.safetensors")
    expected = load_part(tmp_path, FAMILIES["sd1"], "vae").state_dict()
    for file in (path, tmp_path / "original.ckpt", tmp_path / "whole.safetensors"):
        look_at_vae(file)
        found = load_part(file, FAMILIES["sd1"], "vae").state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def tokenizer(random_base: Path, tmp_path_factory) -> Path:
    """The small tokenizer, its ends where CLIP has them."""
    folder = tmp_path_factory.mktemp("tokenizer") / "clip"
    shutil.copytree(random_base / "tokenizer", folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


@pytest.fixture(scope="module", params=MODELS)
def base(request, tokenizer: Path, tmp_path_factory):
    """(option of `model`, diffusers folder of that family), removed afterwards."""
    folder = tmp_path_factory.mktemp("full") / request.param
    yield request.param, write_folder(folder, FAMILIES[MODELS[request.param]], tokenizer)
    shutil.rmtree(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two pictures of different shape, larger than they are trained at."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("square", (300, 300)), ("wide", (480, 320))):
        Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert("RGB").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("sks star")
    return folder


def convert(folder: Path, model: str, path: Path) -> Path:
    """The model of a folder as one file in the original layout."""
    from loralab.models.families import sd, sdxl

    family = MODELS[model]
    load = sdxl.load if family == "sdxl" else sd.load
    loaded = load(str(folder), dtype="bf16", **TOLD.get(model, {"family": family}))
    if path.suffix == ".safetensors":
        save_single_file(loaded, path, torch.bfloat16)
    else:
        torch.save({"state_dict": {name: t.bfloat16() for name, t in original_state(loaded)}}, path)
    return path


def test_training_from_every_layout(base, train, images: Path, tokenizer: Path, tmp_path: Path):
    """A few steps by the command; the file has the keys of sd-scripts, its tensors have moved, and whether the base
    was a folder or one file, by any way of writing it, is not to be seen in a single bit."""
    model, folder = base
    settings = (
        f"model={model}",
        f"model.tokenizer={tokenizer}",
        "model.dtype=bf16",
        "model.gradient_checkpointing=true",
        "trainer.precision=bf16-mixed",
        "data=folder",
        f"data.folder={images}",
        "data.resolution=256",
        "trainer.max_steps=2",
        "optimizer.lr=1e-3",
        "output.metadata=false",
    )
    told = [f"model.{key}={value}" for key, value in TOLD.get(model, {}).items()]
    run = train(f"model.base={folder}", *settings, *told, name="folder")
    state = load_file(run / "adapter.safetensors")
    assert all(tensor.isfinite().all() for tensor in state.values())
    expected = golden("sd2" if model == "sd2_v" else model)
    shapes = {name: [list(state[f"{name}.lora_{way}.weight"].shape) for way in ("down", "up")] for name in expected}
    assert shapes == expected
    assert len(state) == 3 * len(expected)
    still = {name for name in expected if not state[f"{name}.lora_up.weight"].any()}
    skipped = "lora_te1_text_model_encoder_layers_11_"  # SDXL takes the states before it
    assert still == {name for name in expected if name.startswith(skipped)}

    for kind in ("safetensors", "ckpt") if model == "sd15" else ("safetensors",):
        path = convert(folder, model, tmp_path / f"base.{kind}")
        again = train(f"model.base={path}", *settings, name=kind)
        assert (again / "adapter.safetensors").read_bytes() == (run / "adapter.safetensors").read_bytes()
        path.unlink()
