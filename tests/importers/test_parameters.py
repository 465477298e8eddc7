"""Every parameter of the table at work, each asked for by its old name in an old settings file.

A row says what it changes in the file and which settings that may touch (all others must stay), and shows the effect:
by a training of two steps on the smallest model, or by the smallest real piece of one. Trainings are shared between
rows. The real command is started three times, by the row that is about processes; others start it in this process.

Time: 60 s on one core, a quarter of it for the row about processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from loralab import run
from loralab.diffusion.process import Epsilon
from loralab.importers.expand import expand
from loralab.schema.catalogue import PARAMETERS
from tests import ROOT
from tests.support.base_models import write_base
from tests.support.lab import Change, Lab, close, write_images


@pytest.fixture(scope="module")
def lab(random_base: Path, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("lab")
    write_images(root)
    lab = Lab(root, random_base)
    (root / "first.json").write_text(json.dumps({**lab.usual, "net_dim": 2, "alpha": 1}))
    before = Path.cwd()
    os.chdir(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        patch.setenv("LORALAB_CACHE", str(root / "cache"))
        yield lab
    os.chdir(before)


@dataclass(frozen=True)
class Row:
    change: Change
    """What the row changes in the old file; {root} is the folder of the tests."""
    touches: tuple[str, ...]
    """The settings that may differ then, with all below them."""
    show: Callable[[Lab, Change], None]
    """Shows the effect."""


ROWS: dict[int, Row] = {}


def row(number: int, *touches: str, **change: Any):
    """The test of a row of the table."""

    def register(show: Callable[[Lab, Change], None]) -> Callable[[Lab, Change], None]:
        assert number not in ROWS
        ROWS[number] = Row(change, touches, show)
        return show

    return register


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {key: value for name, part in tree.items() for key, value in flat(part, f"{prefix}{name}.").items()}
    return {prefix[:-1]: tree}


@pytest.mark.parametrize("option", PARAMETERS, ids=lambda option: f"{option.number}-{option.old}")
def test_a_parameter_does_what_the_table_says(lab: Lab, option) -> None:
    """A row of the table without a test here is a failure."""
    row = ROWS[option.number]
    assert option.old in row.change
    change = json.loads(json.dumps(row.change).replace("{root}", str(lab.root)))
    touches = row.touches or (option.key,)
    without, with_it = flat(lab.tree({})), flat(lab.tree(change))
    differing = {key for key in without.keys() | with_it.keys() if without.get(key, ...) != with_it.get(key, ...)}
    differing -= {"settings.load"}
    assert differing, "nothing differs"
    strangers = {key for key in differing if not any(key == t or key.startswith(f"{t}.") for t in touches)}
    assert not strangers, "what has nothing to do with it differs"
    row.show(lab, change)


# where things are


@row(1, base_model="{root}/other")
def _base_model(lab: Lab, change: Change) -> None:
    write_base(lab.root / "other", seed=1)
    with_it, without = lab.run(change), lab.run({})
    assert with_it.bytes != without.bytes
    assert with_it.tensors.keys() == without.tensors.keys()
    told = lab.refused({"base_model": str(lab.root / "nowhere.safetensors")})
    assert "model.base" in told
    assert "not found" in told


@row(2, img_folder="{root}/others")
def _img_folder(lab: Lab, change: Change) -> None:
    (samples,) = lab.samples({})
    counts = {name: sum(s.item.path.endswith(name) for s in samples) for name in ("a.png", "b.png", "c.png", "d.png")}
    assert counts == {"a.png": 2, "b.png": 2, "c.png": 2, "d.png": 1}
    assert {s.caption for s in samples if s.item.path.endswith("c.png")} == {"star"}
    assert [s.caption for s in lab.samples(change)[0]] == ["dot"] * 5
    assert "data.folder" in lab.refused({"img_folder": str(lab.root / "nowhere")})


@row(3, output_folder="{root}/out/of/here")
def _output_folder(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    assert without.file.parent == without.folder
    assert with_it.file == lab.root / "out" / "of" / "here" / "it.safetensors"
    assert with_it.bytes == without.bytes
    assert not list(with_it.folder.glob("*.safetensors"))
    (lab.root / "file").write_text("")
    assert "output.folder" in lab.refused({"output_folder": str(lab.root / "file")})


@row(4, change_output_name="mira")
def _change_output_name(lab: Lab, change: Change) -> None:
    found = lab.run({**change, **CHECKPOINTS})
    assert sorted(path.name for path in found.output.glob("*.safetensors")) == [
        "mira-000001.safetensors",
        "mira-000002.safetensors",
        "mira.safetensors",
    ]
    assert found.metadata["ss_output_name"] == "mira"
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in lab.run(CHECKPOINTS).tensors.items())
    assert lab.tree({"change_output_name": None})["output"]["name"] == "last"  # as sd-scripts calls it


CHECKPOINTS = {"save_every_n_epochs": 1, "max_steps": None, "num_epochs": 2, "batch_size": 4}


@row(5, save_json_folder="{root}/saved")
def _save_json_folder(lab: Lab, change: Change) -> None:
    code, _, said = lab.command(lab.load({**change, "save_json_only": True}))
    saved = lab.root / "saved" / "it.json"
    assert code == 0
    assert str(saved) in said
    assert json.loads(saved.read_text())["net_dim"] == 4
    assert lab.composed(f"settings.load={saved}") | {"settings": {}} == lab.tree({}) | {"settings": {}}


@row(6, "adapter", load_json_path="{root}/first.json", net_dim=None, alpha=None)
def _load_json_path(lab: Lab, change: Change) -> None:
    adapters = [lab.tree(change, *more)["adapter"] for more in ([], ["adapter.rank=3"])]
    assert [(adapter["rank"], adapter["alpha"]) for adapter in adapters] == [(2, 1), (3, 1)]
    assert lab.composed()["adapter"]["rank"] == 16
    lines = expand([lab.load({})]).overrides
    code, folder, _ = lab.command(*(line for line in lines if not line.startswith("settings.")))
    assert code == 0
    assert (folder / "it.safetensors").read_bytes() == lab.run({}).bytes  # by the command, and pasted


@row(
    7, "settings.skip", "adapter",
    json_load_skip_list=["net_dim"], load_json_path="{root}/first.json", net_dim=None, alpha=None,
)  # fmt: skip
def _json_load_skip_list(lab: Lab, change: Change) -> None:
    adapter = lab.tree(change)["adapter"]
    assert (adapter["rank"], adapter["alpha"]) == (16, 1)
    overrides, told, *_ = expand([lab.load({}), "settings.skip=[net_dim,nothing]"])
    assert not any(line.startswith("adapter.rank") for line in overrides)
    assert "adapter.alpha=4.0" in overrides
    assert any("does not contain 'nothing'" in line for line in told)


@row(8, multi_run_folder="{root}/many")
def _multi_run_folder(lab: Lab, change: Change) -> None:
    """The real command: a process for the folder, and one for each of two files, of which one is sound."""
    folder = lab.root / "many"
    folder.mkdir()
    (folder / "a.json").write_text('{"net_dim": ')
    (folder / "b.json").write_text(json.dumps({**lab.usual, "max_steps": 1}))
    words = [f"settings.run_folder={folder}", "callbacks.samples.enabled=false"]
    train = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(train, capture_output=True, text=True, cwd=lab.root)
    assert done.returncode == 1
    assert "a.json: failed (run1)" in done.stderr
    assert "b.json: finished (run2)" in done.stderr
    written = lab.root / "multirun" / "many" / "run2" / "it.safetensors"
    before = written.read_bytes()
    (folder / "a.json").unlink()
    code, said = lab.main(*words)
    assert code == 0
    assert "b.json: finished earlier (run2)" in said
    assert written.read_bytes() == before
    assert not (lab.root / "multirun" / "many" / "run3").exists()


@row(9, save_json_only=True)
def _save_json_only(lab: Lab, change: Change) -> None:
    code, folder, _ = lab.command(lab.load({**change, "save_json_folder": str(lab.root / "only")}))
    assert code == 0
    assert (lab.root / "only" / "it.json").is_file()
    assert not (folder / "it.safetensors").exists()
    assert not (folder / "run.json").exists()
    assert OmegaConf.load(folder / "config" / "config.yaml").adapter.rank == 4  # the file's, not conf's


@row(61, log_dir="{root}/logs")
def _log_dir(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    events = {path: path.read_bytes() for path in (lab.root / "logs").rglob("events*")}
    assert events
    assert not list(with_it.folder.rglob("events*"))
    assert list(without.folder.rglob("events*"))
    assert with_it.bytes == without.bytes
    lab.run(change, again=True)
    later = set((lab.root / "logs").rglob("events*")) - events.keys()
    assert later, "the second run logs too"
    assert {path.parent for path in later}.isdisjoint(path.parent for path in events), "in a place of its own"
    assert all(path.read_bytes() == content for path, content in events.items())


# captions


@row(50, caption_extension="tags")
def _caption_extension(lab: Lab, change: Change) -> None:
    assert set(lab.captions(change)[0]) == {"from another file"}
    assert lab.captions({"caption_extension": ".tags"}) == lab.captions(change)
    assert all(caption.startswith("sks") for caption in lab.captions({})[0])


@row(10, caption_dropout_rate=0.5)
def _caption_dropout_rate(lab: Lab, change: Change) -> None:
    dropped = [not caption for epoch in lab.captions(change, 20) for caption in epoch]
    assert 0.3 < sum(dropped) / len(dropped) < 0.7
    assert set(lab.captions({"caption_dropout_rate": 1.0})[0]) == {""}
    assert all(lab.captions({})[0])


@row(11, caption_dropout_every_n_epochs=2)
def _caption_dropout_every_n_epochs(lab: Lab, change: Change) -> None:
    captions = lab.captions(change, 4)
    assert [set(epoch) == {""} for epoch in captions] == [False, True, False, True]
    assert captions[0] == lab.captions({})[0]


@row(12, caption_tag_dropout_rate=0.5)
def _caption_tag_dropout_rate(lab: Lab, change: Change) -> None:
    captions = lab.captions(change, 20)
    kept = [len(caption.split(", ")) for epoch in captions for caption in epoch]
    assert 2 < sum(kept) / len(kept) < 4
    whole = {tag for caption in lab.captions({})[0] for tag in caption.split(", ")}
    assert {tag for caption in captions[0] for tag in caption.split(", ")} <= {*whole, ""}


@row(27, shuffle_captions=True)
def _shuffle_captions(lab: Lab, change: Change) -> None:
    (plain,), (first, second) = lab.captions({}), lab.captions(change, 2)
    assert first != plain
    assert first != second
    for one, other in zip(plain, first, strict=True):
        assert sorted(one.split(", ")) == sorted(other.split(", "))


@row(28, keep_tokens=2)
def _keep_tokens(lab: Lab, change: Change) -> None:
    def heads(change: Change) -> list[list[str]]:
        return [caption.split(", ")[:2] for caption in lab.captions(change)[0]]

    shuffled = {"shuffle_captions": True, "caption_tag_dropout_rate": 0.9}
    assert heads({**change, **shuffled}) == heads({})
    assert heads(shuffled) != heads({})


@row(30, tag_occurrence_txt_file=True)
def _tag_occurrence_txt_file(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    lines = (with_it.output / "it-tags.txt").read_text().splitlines()
    assert lines[0] == "5\tsks"  # two pictures twice, one once
    assert "2\tred" in lines
    assert with_it.bytes == without.bytes
    assert not (without.output / "it-tags.txt").exists()


@row(31, sort_tag_occurrence_alphabetically=True)
def _sort_tag_occurrence_alphabetically(lab: Lab, change: Change) -> None:
    counted = {"tag_occurrence_txt_file": True}
    by_count, by_name = (
        (lab.run(c).output / "it-tags.txt").read_text().splitlines() for c in (counted, {**counted, **change})
    )
    tags = [line.split("\t")[1] for line in by_name]
    assert tags == sorted(tags)
    assert sorted(by_name) == sorted(by_count)
    assert by_name != by_count


@row(51, max_clip_token_length=150)
def _max_clip_token_length(lab: Lab, change: Change) -> None:
    captions = [" ".join(["sks"] * 80 + [word]) for word in ("sks", "star")]  # a token each
    with torch.no_grad():
        short, long = ([lab.family(c).encode_text([caption]).hidden for caption in captions] for c in ({}, change))
    assert short[0].shape[1] == 77
    assert long[0].shape[1] == 2 * 75 + 2
    assert torch.equal(*short), "what stands behind 75 tokens is cut"
    assert not torch.equal(*long)


# images, buckets, caches


@row(32, train_resolution=128)
def _train_resolution(lab: Lab, change: Change) -> None:
    assert lab.buckets({}) == {(64, 64), (128, 32)}
    assert lab.buckets(change) == {(128, 128), (128, 32), (96, 128)}
    assert lab.buckets({"train_resolution": "128,64", "buckets": False}) == {(128, 64)}


@row(52, "data.buckets", buckets=False)
def _buckets(lab: Lab, change: Change) -> None:
    assert lab.buckets(change) == {(64, 64)}
    assert len(lab.buckets({})) > 1


@row(33, min_bucket_resolution=64)
def _min_bucket_resolution(lab: Lab, change: Change) -> None:
    assert min(min(bucket) for bucket in lab.buckets({})) == 32
    assert min(min(bucket) for bucket in lab.buckets(change)) == 64


@row(34, max_bucket_resolution=96)
def _max_bucket_resolution(lab: Lab, change: Change) -> None:
    assert max(max(bucket) for bucket in lab.buckets({})) == 128
    assert max(max(bucket) for bucket in lab.buckets(change)) == 96


@row(62, bucket_reso_steps=16)
def _bucket_reso_steps(lab: Lab, change: Change) -> None:
    assert lab.buckets(change) == {(64, 64), (128, 32), (48, 80)}
    assert "data.buckets.step" in lab.refused({"bucket_reso_steps": 12})


@row(63, bucket_no_upscale=True)
def _bucket_no_upscale(lab: Lab, change: Change) -> None:
    large = {"train_resolution": 256, "max_bucket_resolution": 512}
    assert (256, 256) in lab.buckets(large)
    assert lab.buckets({**large, **change}) == {(64, 64), (256, 64)}


@row(41, reg_img_folder="{root}/reg")
def _reg_img_folder(lab: Lab, change: Change) -> None:
    (samples,) = lab.samples(change)
    reg = [sample for sample in samples if sample.item.is_reg]
    assert len(reg) == len(samples) - len(reg) == len(lab.samples({})[0]) == 7
    assert {sample.caption for sample in reg} == {"shape, black"}


@row(56, color_aug=True)
def _color_aug(lab: Lab, change: Change) -> None:
    (plain,), (first, second) = lab.samples({}), lab.samples(change, 2)
    assert not torch.equal(first[0].pixels, plain[0].pixels)
    assert not torch.equal(first[0].pixels, second[0].pixels)
    assert first[0].caption == plain[0].caption
    assert "data.augment.color" in lab.refused({**change, "cache_latents": True})


@row(57, flip_aug=True)
def _flip_aug(lab: Lab, change: Change) -> None:
    pairs = zip(lab.samples({}, 6), lab.samples(change, 6), strict=True)
    pixels = [(one.pixels, other.pixels) for epochs in pairs for one, other in zip(*epochs, strict=True)]
    mirrored = [torch.equal(other, one.flip(-1)) for one, other in pixels]
    assert all(m != torch.equal(*both) for m, both in zip(mirrored, pixels, strict=True))
    assert 0.25 < sum(mirrored) / len(mirrored) < 0.75
    cached = lab.samples({**change, "cache_latents": True}, 6, of="a.png")
    assert len({sample.latent_mean.numpy().tobytes() for epoch in cached for sample in epoch}) == 2, "both sides"


@row(58, random_crop=True)
def _random_crop(lab: Lab, change: Change) -> None:
    def corners(change: Change) -> set[tuple[int, int]]:
        return {sample.crop for epoch in lab.samples(change, 4, "b.png") for sample in epoch}

    assert len(corners({"buckets": False})) == 1
    assert len(corners({"buckets": False, **change})) > 2
    assert "data.augment.random_crop" in lab.refused({**change, "cache_latents": True})


@row(55, cache_latents=True)
def _cache_latents(lab: Lab, change: Change) -> None:
    (plain,), (cached,) = lab.samples({}), lab.samples(change)
    assert all(sample.latent_mean is None and sample.pixels is not None for sample in plain)
    assert all(sample.latent_mean is not None and sample.pixels is None for sample in cached)
    with torch.no_grad():
        mean, _ = lab.family({}).encode_image(plain[0].pixels[None])
    assert torch.allclose(cached[0].latent_mean, mean[0], atol=1e-4)
    close(lab.run(change), lab.run({}), atol=2e-4)


@row(22, num_workers=2)
def _num_workers(lab: Lab, change: Change) -> None:
    assert lab.data({}).train_dataloader().num_workers == 0
    assert lab.data(change).train_dataloader().num_workers == 2
    assert lab.run({**change, "persistent_workers": True}).bytes == lab.run({}).bytes


@row(23, persistent_workers=True)
def _persistent_workers(lab: Lab, change: Change) -> None:
    workers = {"num_workers": 2}
    assert lab.data({**change, **workers}).train_dataloader().persistent_workers
    assert not lab.data(workers).train_dataloader().persistent_workers
    assert lab.run({**change, **workers}).bytes == lab.run({}).bytes


@row(24, batch_size=1)
def _batch_size(lab: Lab, change: Change) -> None:
    assert max(len(batch) for batch in lab.data({}).train_dataloader()) == 2
    assert [len(batch) for batch in lab.data(change).train_dataloader()] == [1] * 7
    assert lab.run(change).facts["images"] == 2


# the network


@row(13, net_dim=2)
def _net_dim(lab: Lab, change: Change) -> None:
    for found, rank in ((lab.run({}), 4), (lab.run(change), 2)):
        downs = {**found.of("unet", "lora_down.weight"), **found.of("te", "lora_down.weight")}
        assert {down.shape[0] for down in downs.values()} == {rank}
        assert found.metadata["ss_network_dim"] == str(rank)
    assert lab.run(change).tensors.keys() == lab.run({}).tensors.keys()


@row(14, alpha=2)
def _alpha(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    for found, alpha in ((without, 4), (with_it, 2)):
        assert {float(tensor) for tensor in found.of("unet", ".alpha").values()} == {alpha}
    step = {"optimizer_type": "SGD", "max_grad_norm": 0, "max_steps": 1}  # from zero, by the gradient
    half, whole = (lab.run({**c, **step}).of("unet", "lora_up.weight") for c in (change, {}))
    assert all(torch.allclose(2 * half[name], tensor, rtol=1e-4) for name, tensor in whole.items())
    assert any(bool(tensor.any()) for tensor in whole.values())


@row(35, lora_model_for_resume="{root}/before.safetensors")
def _lora_model_for_resume(lab: Lab, change: Change) -> None:
    before = lab.run({"net_dim": 2})
    shutil.copy(before.file, lab.root / "before.safetensors")
    after = lab.run({**change, "learning_rate": 1e-9})
    close(after, before, atol=1e-6)  # its rank of 2 counts, not the 4 of the settings


@row(39, "targets.unet", "targets.text_encoder", unet_only=True)
def _unet_only(lab: Lab, change: Change) -> None:
    assert set(lab.run(change).tensors) == set(lab.run({}).of("unet"))
    assert lab.run({}).of("te")


@row(40, "targets.unet", "targets.text_encoder", text_only=True)
def _text_only(lab: Lab, change: Change) -> None:
    assert set(lab.run(change).tensors) == set(lab.run({}).of("te"))
    assert "text_only" in lab.refused({**change, "unet_only": True})


@row(42, clip_skip=2)
def _clip_skip(lab: Lab, change: Change) -> None:
    with torch.no_grad():
        last, second = (lab.family(c).encode_text(["red"]).hidden for c in ({}, change))
    assert last.shape == second.shape
    assert not torch.allclose(last, second)
    assert lab.run(change).bytes != lab.run({}).bytes
    assert lab.run(change).tensors.keys() == lab.run({}).tensors.keys()  # the skipped layer's are there, too


@row(59, vae="{root}/other/vae")
def _vae(lab: Lab, change: Change) -> None:
    if not (lab.root / "other").exists():
        write_base(lab.root / "other", seed=1)
    plain, changed = lab.family({}), lab.family(change)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert not torch.allclose(plain.encode_image(pixels)[0], changed.encode_image(pixels)[0])
    assert torch.equal(plain.denoiser.conv_in.weight, changed.denoiser.conv_in.weight)
    assert plain.vae_id != changed.vae_id


@row(64, "model", v2=True)
def _v2(lab: Lab, change: Change) -> None:
    assert lab.tree({})["model"]["family"] == "sd1"
    told = lab.refused(change)  # the base is a Stable Diffusion 1.x
    assert "Stable Diffusion 2.x" in told
    assert "model.base" in told


@row(65, v_parametrization=True)
def _v_parametrization(lab: Lab, change: Change) -> None:
    assert lab.family({}).process.prediction == "epsilon"
    assert lab.family(change).process.prediction == "v_prediction"
    assert lab.run(change).bytes != lab.run({}).bytes
    assert lab.run(change).metadata["modelspec.prediction_type"] == "v"


# optimisation


@row(19, learning_rate=0.02)
def _learning_rate(lab: Lab, change: Change) -> None:
    assert [lab.optimizer(c).param_groups[0]["lr"] for c in ({}, change)] == [0.01, 0.02]
    assert lab.run(change).bytes != lab.run({}).bytes


@row(21, unet_lr=1e-9)
def _unet_lr(lab: Lab, change: Change) -> None:
    slow, frozen, without = lab.run(change), lab.run({}, "targets.unet_lr=0.0"), lab.run({})
    assert all(tensor.abs().max() < 1e-7 for tensor in slow.of("unet", "lora_up.weight").values())
    assert [found.moved("te") for found in (slow, frozen, without)] == [True, True, True]
    assert [found.moved("unet") for found in (frozen, without)] == [False, True]
    assert set(frozen.tensors) == set(without.tensors)
    assert lab.tree({"unet_lr": 0})["targets"]["unet_lr"] is None  # not set, for those scripts


@row(20, text_encoder_lr=1e-9)
def _text_encoder_lr(lab: Lab, change: Change) -> None:
    slow, frozen, without = lab.run(change), lab.run({}, "targets.text_encoder_lr=0.0"), lab.run({})
    assert all(tensor.abs().max() < 1e-7 for tensor in slow.of("te", "lora_up.weight").values())
    assert [found.moved("unet") for found in (slow, frozen, without)] == [True, True, True]
    assert [found.moved("te") for found in (frozen, without)] == [False, True]
    assert set(frozen.tensors) == set(without.tensors)


@row(54, "optimizer", use_8bit_adam=True)
def _use_8bit_adam(lab: Lab, change: Change) -> None:
    for c, dtype in (({}, torch.float32), (change, torch.uint8)):
        parameter = torch.nn.Parameter(torch.ones(64, 64))  # 4096 elements: the fewest that are kept in 8 bits
        optimizer = lab.optimizer(c, parameter)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        large = [t for t in optimizer.state[parameter].values() if isinstance(t, torch.Tensor) and t.numel() == 4096]
        assert {tensor.dtype for tensor in large} == {dtype}
        assert not torch.equal(parameter, torch.ones(64, 64))
    wide = {"net_dim": 128, "alpha": 128}
    assert lab.run({**change, **wide}).facts["eight_bit"][0] > 0
    assert lab.run(wide).facts["eight_bit"] is None


@row(15, "scheduler", scheduler="linear")
def _scheduler(lab: Lab, change: Change) -> None:
    assert lab.curve({}) == [0.01] * 100
    assert lab.curve(change) == pytest.approx([0.01 * (1 - step / 100) for step in range(100)])
    for name in ("constant_with_warmup", "cosine", "cosine_with_restarts", "polynomial", "step"):
        assert max(lab.curve({"scheduler": name})) == pytest.approx(0.01)
    assert "validation" in lab.refused({"scheduler": "plateau"})
    assert lab.run(change).bytes != lab.run({}).bytes


@row(16, "scheduler", scheduler="cosine_with_restarts", cosine_restarts=4)
def _cosine_restarts(lab: Lab, change: Change) -> None:
    def peaks(curve: list[float]) -> int:
        return sum(rate > 0.99e-2 and rate > before for before, rate in zip([0.0, *curve], curve, strict=False))

    assert peaks(lab.curve(change)) == 4
    assert peaks(lab.curve({**change, "cosine_restarts": 1})) == 1


@row(17, "scheduler", scheduler="polynomial", scheduler_power=3)
def _scheduler_power(lab: Lab, change: Change) -> None:
    last = 1e-7  # where sd-scripts' polynomial ends
    assert lab.curve(change)[50] == pytest.approx(last + (0.01 - last) * 0.5**3)
    assert lab.curve({**change, "scheduler_power": 1})[50] == pytest.approx(last + (0.01 - last) * 0.5)


@row(18, warmup_lr_ratio=0.2)
def _warmup_lr_ratio(lab: Lab, change: Change) -> None:
    curve = lab.curve(change)
    assert curve[:21] == pytest.approx([0.01 * step / 20 for step in range(21)])
    assert curve[20:] == pytest.approx([0.01] * 80)
    assert lab.curve({}) == [0.01] * 100


@row(25, "trainer.max_epochs", "trainer.max_steps", max_steps=None, num_epochs=2)
def _num_epochs(lab: Lab, change: Change) -> None:
    found = lab.run({**change, **CHECKPOINTS})
    assert found.facts["epochs"] == 2
    assert found.facts["steps"] == 2 * found.facts["data"]["batches"]


@row(29, max_steps=3)
def _max_steps(lab: Lab, change: Change) -> None:
    assert lab.run(change).facts["steps"] == 3
    assert lab.run({}).facts["steps"] == 2
    assert lab.tree({**change, "num_epochs": 9})["trainer"]["max_steps"] == 3  # it decides
    assert "trainer.max_epochs=2" in lab.prepared(change, "trainer.max_epochs=2")
    assert "trainer.max_steps=3" not in lab.prepared(change, "trainer.max_epochs=2")


@row(46, gradient_acc_steps=2)
def _gradient_acc_steps(lab: Lab, change: Change) -> None:
    twice, once = lab.run({**change, "batch_size": 1}), lab.run({"batch_size": 1})
    assert twice.facts["steps"] == once.facts["steps"] == 2
    assert twice.facts["images"] == 2 * once.facts["images"]
    assert twice.bytes != once.bytes


@row(45, gradient_checkpointing=True)
def _gradient_checkpointing(lab: Lab, change: Change) -> None:
    assert lab.family(change).denoiser.is_gradient_checkpointing
    assert not lab.family({}).denoiser.is_gradient_checkpointing
    close(lab.run(change), lab.run({}), atol=1e-6)


@row(47, "trainer.precision", "model.dtype", mixed_precision="bf16")
def _mixed_precision(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    assert "bf16-mixed" in with_it.said
    assert "32-true" in without.said
    assert with_it.bytes != without.bytes
    assert {tensor.dtype for tensor in with_it.tensors.values()} == {torch.float32}  # the adapter's own weights
    told = lab.refused({"mixed_precision": "fp16"}, "trainer.accelerator=cpu")
    assert "trainer.precision" in told
    assert "bf16-mixed" in told


@row(53, xformers=True)
def _xformers(lab: Lab, change: Change) -> None:
    def processors(*overrides: str) -> set[str]:
        family = run.instantiate(lab.config({}, *overrides).model)
        return {type(processor).__name__ for processor in family.denoiser.attn_processors.values()}

    overrides, told, *_ = expand([lab.load(change)])
    if not torch.cuda.is_available():  # it cannot run here
        assert "model.attention=sdpa" in overrides
        assert any("xformers" in line and "sdpa" in line for line in told)
        assert "model.attention" in lab.refused({}, "model.attention=xformers")
    assert processors() == {"MeasuredAttention"}
    assert processors("model.attention=sdpa") == {"AttnProcessor2_0"}
    assert processors("model.attention=eager") == {"AttnProcessor"}


@row(44, prior_loss_weight=0.25)
def _prior_loss_weight(lab: Lab, change: Change) -> None:
    latents = torch.randn(1, 4, 8, 8)

    def loss(change: Change, batch) -> torch.Tensor:
        objective = run.instantiate(lab.config(change).objective)
        return objective(lambda noisy, timesteps: 0 * noisy, latents, Epsilon(), batch, 0).loss

    batches = list(lab.data({"reg_img_folder": str(lab.root / "reg"), "batch_size": 1}).train_dataloader())
    assert {bool(batch.is_reg) for batch in batches} == {True, False}
    for batch in batches:
        assert torch.allclose(loss(change, batch), (0.25 if bool(batch.is_reg) else 1.0) * loss({}, batch))


@row(43, test_seed=5)
def _test_seed(lab: Lab, change: Change) -> None:
    first = lab.run({}).bytes
    assert lab.run({}, again=True).bytes == first
    assert lab.run(change).bytes != first


# saving


@row(26, save_every_n_epochs=1)
def _save_every_n_epochs(lab: Lab, change: Change) -> None:
    names = sorted(path.name for path in lab.run({**CHECKPOINTS, **change}).output.glob("*.safetensors"))
    assert names == ["it-000001.safetensors", "it-000002.safetensors", "it.safetensors"]
    assert [path.name for path in lab.run({}).output.glob("*.safetensors")] == ["it.safetensors"]


@row(49, save_as="ckpt")
def _save_as(lab: Lab, change: Change) -> None:
    found, tensors = lab.run(change), lab.run({}).tensors
    loaded = torch.load(found.output / "it.ckpt", weights_only=True)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert not found.file.exists()


@row(48, save_precision="bf16")
def _save_precision(lab: Lab, change: Change) -> None:
    found = lab.run(change).tensors
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[name], tensor.bfloat16()) for name, tensor in lab.run({}).tensors.items())


@row(60, "output.metadata", no_meta=True)
def _no_meta(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    assert {"ss_network_dim", "modelspec.architecture"} <= set(without.metadata)
    assert not any(name.startswith(("ss_", "modelspec.")) for name in with_it.metadata)
    assert all(torch.equal(with_it.tensors[name], tensor) for name, tensor in without.tensors.items())


@row(38, training_comment='says "sks", it\'s ours: {a, b}')
def _training_comment(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    assert with_it.metadata["ss_training_comment"] == change["training_comment"]
    assert without.metadata.get("ss_training_comment") in (None, "None")
    assert all(torch.equal(with_it.tensors[name], tensor) for name, tensor in without.tensors.items())


@row(36, save_state=True)
def _save_state(lab: Lab, change: Change) -> None:
    with_it, without = lab.run(change), lab.run({})
    assert list((with_it.folder / "states").glob("*/state.json"))
    assert not list(without.folder.glob("states/*"))
    assert with_it.bytes == without.bytes


@row(37, load_previous_save_state="{root}/state")
def _load_previous_save_state(lab: Lab, change: Change) -> None:
    state = next(marker.parent for marker in (lab.run({"save_state": True}).folder / "states").glob("*/state.json"))
    shutil.copytree(state, lab.root / "state")
    whole, resumed = (lab.run({"max_steps": 4, "save_state": True, **c}) for c in ({}, change))
    assert resumed.facts["resumed"] == str(lab.root / "state")
    assert resumed.bytes == whole.bytes
    assert "resume" in lab.refused({"load_previous_save_state": str(lab.root / "no-state")})
