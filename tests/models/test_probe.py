"""What a base model's path is told to be, without reading it: whole files, damaged ones, and those that are none."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from loralab.errors import UserError
from loralab.models import hub
from loralab.models.probe import Found, check, identify
from loralab.models.registry import USUAL

KEYS = {
    "sd1": ["cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"],
    "sd2": ["cond_stage_model.model.positional_embedding"],
    "sdxl": [
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
        "conditioner.embedders.1.model.positional_embedding",
    ],
}
COMMON = ["model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"]
SD, SDXL = "loralab.models.families.sd.load", "loralab.models.families.sdxl.load"


def header_only(path: Path, shapes: dict[str, list[int]], size: int | None = None) -> Path:
    """A .safetensors file of the right length with holes in place of tensors."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        length = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + length]}
        offset += length
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(size or 8 + len(encoded) + offset)
    return path


def single(folder: Path, *names: str, kind: str = "safetensors") -> Path:
    path = folder / f"base.{kind}"
    tensors = {name: torch.zeros(1) for name in (*COMMON, *names)}
    save_file(tensors, path) if kind == "safetensors" else torch.save({"state_dict": tensors}, path)
    return path


def found(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
@pytest.mark.parametrize("family", KEYS)
def test_the_family_is_told_by_the_keys(tmp_path: Path, family: str, kind: str):
    path = single(tmp_path, *KEYS[family], kind=kind)
    assert identify(str(path), family) == Found(family)
    for other in set(KEYS) - {family}:
        text = found(identify, str(path), other)
        assert "model.base" in text
        assert "model=sd" in text


def test_the_old_format_of_pickles_is_read_too(tmp_path: Path):
    path = tmp_path / "old.ckpt"
    tensors = {name: torch.zeros(1) for name in (*COMMON, *KEYS["sd1"])}
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)
    assert identify(str(path), "sd1") == Found("sd1")


def test_marks_of_prediction_type_and_zero_snr(tmp_path: Path):
    path = single(tmp_path, *KEYS["sdxl"], "v_pred", "ztsnr")
    assert identify(str(path), "sdxl") == Found("sdxl", "v_prediction", True)


def test_twenty_gigabytes_are_not_read(tmp_path: Path):
    """The file is a hole of that size: reading it whole would take longer than this test may."""
    half = 5 * 2**30 // 2
    shapes = {name: [half] for name in (*COMMON[:1], KEYS["sd1"][0])}
    path = header_only(tmp_path / "large.safetensors", {**shapes, COMMON[1]: [1]})
    assert path.stat().st_size > 20e9
    assert identify(str(path), "sd1").family == "sd1"


def test_a_folder_is_what_its_configs_say(random_base: Path, tmp_path: Path):
    assert identify(str(random_base), "sd1") == Found("sd1", "epsilon", False, 4)
    assert "model=sd15" in found(identify, str(random_base), "sdxl")
    copy = tmp_path / "copy"
    shutil.copytree(random_base, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    assert "truncated" in found(identify, str(copy), "sd1")
    weights.unlink()
    assert "no weights" in found(identify, str(copy), "sd1")
    assert "not a diffusers folder" in found(identify, str(tmp_path), "sd1")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_would_run_code_does_not(tmp_path: Path, new: bool):
    from loralab.models.weights import read

    path, sprung = tmp_path / "trap.ckpt", tmp_path / "sprung"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Trap(sprung)}, path, _use_new_zipfile_serialization=new)
    for text in (found(identify, str(path), "sd1"), found(read, path, "model.base")):
        assert "contains code that loading it would run" in text
        assert "not run" in text
    assert not sprung.exists()
    assert "posix.mkdir" in found(identify, str(path), "sd1") or "nt.mkdir" in found(identify, str(path), "sd1")


@pytest.mark.parametrize("new", [True, False])
def test_what_a_trainer_left_in_a_pickle_is_passed_over(tmp_path: Path, new: bool, monkeypatch: pytest.MonkeyPatch):
    """A Lightning callback and numpy's numbers, as in the first checkpoints of SD 1.x; their code is not called."""
    import numpy

    from loralab.models.weights import read

    module = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": module})
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(ModelCheckpoint=callback))
    path = tmp_path / "base.ckpt"
    tensors = {name: torch.full((2,), 3.0) for name in (*COMMON, *KEYS["sd1"])}
    left = {"callbacks": {callback: {"best": numpy.float64(0.1)}}, "global_step": numpy.int64(7)}
    torch.save({"state_dict": tensors, **left}, path, _use_new_zipfile_serialization=new)
    monkeypatch.setitem(sys.modules, module, None)  # not to be imported
    assert identify(str(path), "sd1") == Found("sd1")
    found_tensors = read(path, "model.base")
    assert found_tensors.keys() == tensors.keys()
    assert all(torch.equal(found_tensors[name], tensor) for name, tensor in tensors.items())


def test_what_is_no_base_model(tmp_path: Path):
    def told(content: bytes | dict[str, list[int]], name: str = "x.safetensors") -> str:
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else header_only(path, content)
        return found(identify, str(path), "sd1")

    assert "is empty" in told(b"")
    assert "only zeros" in told(bytes(10_000))
    assert "is not a checkpoint" in told(b"GIF89a" * 100)
    assert "git lfs pull" in told(b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\n")
    assert "web page" in told(b"<!DOCTYPE html><html></html>")
    assert "truncated" in told(struct.pack("<Q", 5000) + b'{"a": {"dtype"')
    assert "truncated" in told(b"PK\x03\x04" + bytes(100), "x.ckpt")
    assert "truncated" in told(b"\x80\x02}q\x00(X\x0a\x00", "x.ckpt")
    assert "adapter.weights" in told({"lora_unet_x.lora_down.weight": [4, 4]})
    assert "is a VAE" in told({"decoder.conv_in.weight": [4]})
    assert "not an SD 1.x" in told({"double_blocks.0.img_attn.proj.weight": [4]})
    assert "inpainting" in told({"model.diffusion_model.input_blocks.0.0.weight": [320, 9, 3, 3]})
    assert "has no VAE" in told({COMMON[0]: [1], KEYS["sd1"][0]: [1]})


def test_a_truncated_file_says_how_much_is_there(tmp_path: Path):
    shapes = {name: [1000] for name in (*COMMON, *KEYS["sd1"])}
    path = header_only(tmp_path / "cut.safetensors", shapes, size=9000)
    assert "truncated: 9,000 of" in found(identify, str(path), "sd1")
    whole = single(tmp_path, *KEYS["sd1"], kind="ckpt")
    os.truncate(whole, whole.stat().st_size // 2)
    assert "truncated" in found(identify, str(whole), "sd1")


def test_the_check_names_each_setting(tmp_path: Path, random_base: Path):
    problems = check(
        {"_target_": SD, "base": "/not/there.safetensors", "vae": str(tmp_path), "tokenizer": str(tmp_path)}
    )
    assert [problem.setting for problem in problems] == ["model.base", "model.vae", "model.tokenizer"]
    assert check({"base": str(random_base), "vae": str(random_base), "tokenizer": str(random_base)}) == []
    wrong = check({"_target_": SDXL, "base": str(random_base)})
    assert "not SDXL" in wrong[0].found


def test_a_hub_id_is_taken_from_the_cache(tmp_path: Path, random_base: Path, monkeypatch: pytest.MonkeyPatch):
    """Not cached: no problem while online, since it will be fetched, and one while offline."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert check({"_target_": SD, "base": "someone/model"}) == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "cache" in check({"_target_": SD, "base": "someone/model"})[0].found
    repository = tmp_path / "models--someone--model"
    shutil.copytree(random_base, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert check({"_target_": SD, "base": "someone/model"}) == []
    assert "not SDXL" in check({"_target_": SDXL, "base": "someone/model"})[0].found


def test_of_a_repository_only_what_is_needed_is_fetched():
    """One set of weights a component, neither variants nor single files nor what is not used."""
    config = [f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "safety_checker")]
    text = [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json")]
    extra = ["README.md", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "safety_checker/model.safetensors"]
    weights = [f"{part}/diffusion_pytorch_model" for part in ("unet", "vae")]
    variants = [f"{name}{kind}" for name in weights for kind in (".bin", ".fp16.safetensors", ".fp16.bin")]
    shards = ["text_encoder/model-00001-of-00002.safetensors", "text_encoder/model-00002-of-00002.safetensors"]
    index = ["text_encoder/model.safetensors.index.json", "model_index.json", "scheduler/scheduler_config.json"]
    first = [f"{name}.safetensors" for name in weights]
    folders = hub.folders(USUAL, [*USUAL.parts, "vae"])
    found = hub.needed([*config, *text, *extra, *variants, *shards, *index, *first], folders, weights=True)
    assert found == sorted([*config[:3], *text, *shards, *index, *first])
    root = ["config.json", "model.safetensors", "vocab.json", "merges.txt"]
    assert hub.needed(root, hub.TOKENIZER, weights=False) == ["config.json", "merges.txt", "vocab.json"]


def test_a_check_does_not_import_torch():
    code = "import sys; import loralab.models.probe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
