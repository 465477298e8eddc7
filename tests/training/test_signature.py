"""What counts as the same run: each setting, each weight and config value of the base, each file of the data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from loralab.data.folders import Folder
from loralab.data.index.index import Index, scan
from loralab.data.module import DataModule
from loralab.errors import UserError
from loralab.models.families.sd import load
from loralab.models.family import Family
from loralab.schema.compose import compose, values, without_hydra
from loralab.schema.tree import leaves
from loralab.training.signature import HARMLESS, differences, is_harmless, of_settings
from tests.support.base_models import write_base
from tests.support.images import picture

COMPOSED = [
    ["data=folder"],
    ["model=sdxl", "data=folder", "optimizer=prodigy", "scheduler=cosine", "adapter=lokr", "logger=many"],
    [
        "model=tiny_sdxl",
        "logger=wandb",
        "optimizer=schedulefree",
        "adapter=dora",
        "trainer=ddp",
        "objective/loss=huber",
    ],
]
DECIDE = {
    *("seed", "health.on_nan", "ema.decay", "model.clip_skip", "model.dtype", "model.quantize"),
    *("adapter.rank", "adapter.dropout", "targets.unet_lr", "optimizer.lr", "optimizer._target_"),
    *("objective.timesteps.low", "data.resolution", "data.cache.latents", "data.validation.split"),
    *("data.captions.shuffle", "data.augment.flip", "scheduler.warmup_steps", "trainer.limit_train_batches"),
    *("trainer.precision", "trainer.gradient_clip_val", "trainer.accumulate_grad_batches"),
}


def settings(overrides: list[str]) -> dict[str, Any]:
    cfg = without_hydra(compose(overrides).cfg)
    assert isinstance(cfg, DictConfig)
    return values(cfg)


def changed(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """The tree with another value at a key."""
    head, _, rest = key.partition(".")
    value = changed(tree[head], rest) if rest else "none" if tree[head] == "memory" else f"not {tree[head]!r}"
    return {**tree, head: value}


@pytest.mark.parametrize("overrides", COMPOSED, ids=lambda overrides: overrides[0])
def test_every_setting_counts_or_is_listed_as_harmless(overrides: list[str]) -> None:
    tree = settings(overrides)
    before = of_settings(tree)
    for key, _ in leaves(tree):
        if not key.endswith("_partial_"):
            assert (of_settings(changed(tree, key)) != before) != is_harmless(key), key


def test_what_decides_is_not_on_the_list_and_the_list_holds_nothing_dead() -> None:
    keys = {key for overrides in COMPOSED for key, _ in leaves(settings(overrides))}
    assert keys >= DECIDE
    assert not [key for key in DECIDE if is_harmless(key)]
    listed = [harmless for group in HARMLESS.values() for harmless in group]
    assert not [harmless for harmless in listed if not any(f"{key}.".startswith(f"{harmless}.") for key in keys)]


def test_callbacks_that_train_along_count() -> None:
    averaging = ["+callbacks.swa._target_=lightning.pytorch.callbacks.StochasticWeightAveraging"]
    plain, plateau = ["data=folder"], ["data=folder", "scheduler=plateau"]
    often = ["callbacks.validation.every_n_steps=1"]
    assert of_settings(settings([*plain, *averaging])) != of_settings(settings(plain))
    off = ["+callbacks.swa.enabled=false", *averaging]
    assert of_settings(settings([*plain, *off])) == of_settings(settings(plain))
    assert of_settings(settings([*plain, *often])) == of_settings(settings(plain))
    assert of_settings(settings([*plateau, *often])) != of_settings(settings(plateau)), (
        "its rate follows the validation"
    )


def test_a_setting_younger_than_the_state_counts_unless_it_has_its_default() -> None:
    old = of_settings(settings(["data=folder"]))
    assert old.pop("objective.timesteps.shift") == old.pop("model.clip_skip") == 1
    assert differences(old, of_settings(settings(["data=folder"]))) == []
    changed = of_settings(settings(["data=folder", "objective.timesteps.shift=3", "model.clip_skip=2"]))
    named = [("model.clip_skip", "None", "2"), ("objective.timesteps.shift", "None", "3")]
    assert differences(old, changed) == named
    assert [key for key, _, _ in differences(changed, old)] == [key for key, _, _ in named], "the state has more"


# the base model


def set_config(base: Path, file: str, **changes: Any) -> None:
    path = base / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def set_weight(base: Path, file: str, name: str) -> None:
    state = load_file(base / file)
    (name,) = (key for key in state if key.endswith(name))
    state[name].view(-1)[-1] += 1e-3  # one number, and none that a sample of some would meet
    save_file(state, base / file, metadata={"format": "pt"})


WEIGHTS = "diffusion_pytorch_model.safetensors"
EDITS = {
    "a weight of the UNet": lambda b: set_weight(b, f"unet/{WEIGHTS}", "conv_in.weight"),
    "a weight of the VAE": lambda b: set_weight(b, f"vae/{WEIGHTS}", "encoder.conv_in.weight"),
    "a weight of the text encoder": lambda b: set_weight(
        b, "text_encoder/model.safetensors", "embeddings.token_embedding.weight"
    ),
    "prediction type": lambda b: set_config(b, "scheduler/scheduler_config.json", prediction_type="v_prediction"),
    "zero terminal SNR": lambda b: set_config(b, "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
    "beta": lambda b: set_config(b, "scheduler/scheduler_config.json", beta_end=0.02),
    "scaling factor": lambda b: set_config(b, "vae/config.json", scaling_factor=0.13),
    "hidden_act": lambda b: set_config(b, "text_encoder/config.json", hidden_act="gelu"),
    "layer norm eps": lambda b: set_config(b, "text_encoder/config.json", layer_norm_eps=1e-6),
    "norm eps": lambda b: set_config(b, "unet/config.json", norm_eps=1e-6),
    "time shift": lambda b: set_config(b, "unet/config.json", freq_shift=1),
    "merges": lambda b: (b / "tokenizer/merges.txt").write_text("#version: 0.2\ns k\nsk s</w>\n"),
}


@pytest.fixture
def base(random_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_base, tmp_path / "base"))


def family(base: Path, **given: Any) -> Family:
    return load(str(base), resolution=64, **given)


@pytest.mark.parametrize("edit", EDITS)
def test_the_base_model_counts_whole(base: Path, random_family: Family, edit: str) -> None:
    EDITS[edit](base)
    other = family(base)
    assert other.identity != random_family.identity
    of_vae, of_text = ("VAE" in edit or "scaling" in edit), ("text" in edit or edit in TEXT)
    assert (other.vae_id != random_family.vae_id) == of_vae, "what is cached is made anew"
    assert (other.text_id != random_family.text_id) == of_text


TEXT = ("hidden_act", "layer norm eps", "merges")


def test_where_and_how_the_base_is_stored_does_not_count(base: Path, random_family: Family, tmp_path: Path) -> None:
    state = load_file(base / "unet" / WEIGHTS)
    (base / "unet" / WEIGHTS).unlink()
    torch.save(dict(reversed(state.items())), base / "unet" / "diffusion_pytorch_model.bin")
    set_config(base, "vae/config.json", _name_or_path="elsewhere", _diffusers_version="0.1")
    assert family(base).identity == random_family.identity
    other = write_base(tmp_path / "other", seed=1)
    assert family(base, vae=str(other / "vae")).identity != random_family.identity


# the data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, colour in (("a", "red"), ("b", "blue")):
        picture(tmp_path / "data" / f"{name}.png", colour=colour, caption=name)
        picture(tmp_path / "masks" / f"{name}.png", colour=colour)
    return tmp_path / "data"


def digest(data: Path) -> str:
    folder = Folder(str(data), mask_folder=str(data.with_name("masks")))
    cache = str(data.with_name("cache"))
    return scan([folder], cache).hashed(cache).digest()


def edit_in_place(path: Path) -> None:
    """Another byte in the middle, same size, same time of modification."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap(one: Path, other: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare), other.rename(one), spare.rename(other)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda data: edit_in_place(data / "a.png"), id="an image edited in place"),
        pytest.param(lambda data: edit_in_place(data.with_name("masks") / "a.png"), id="a mask edited in place"),
        pytest.param(lambda data: swap(data / "a.png", data / "b.png"), id="images that swap names"),
        pytest.param(
            lambda data: swap(data.with_name("masks") / "a.png", data.with_name("masks") / "b.png"), id="masks that do"
        ),
        pytest.param(lambda data: swap(data / "a.txt", data / "b.txt"), id="captions that do"),
        pytest.param(lambda data: (data / "a.txt").write_text("c"), id="a caption"),
        pytest.param(lambda data: (data.with_name("masks") / "a.png").unlink(), id="a mask removed"),
        pytest.param(lambda data: (data / "2_x").mkdir() or (data / "a.png").rename(data / "2_x/a.png"), id="repeats"),
    ],
)
def test_the_data_counts_by_its_content(data: Path, edit: Any) -> None:
    before = digest(data)
    assert digest(data) == before
    edit(data)
    assert digest(data) != before


def test_where_the_data_lies_does_not_count(data: Path, tmp_path: Path) -> None:
    before = digest(data)
    shutil.copytree(data, tmp_path / "moved" / "data")
    shutil.copytree(data.with_name("masks"), tmp_path / "moved" / "masks")
    assert digest(tmp_path / "moved" / "data") == before


def test_only_files_that_changed_are_read_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest(data)
    edit_in_place(data / "a.png")
    read: list[str] = []
    monkeypatch.setattr(
        "loralab.data.index.catalog.mounts.digest", lambda path: read.append(Path(path).name) or "0" * 32
    )
    digest(data)
    assert read == ["a.png"]


# images that go away


def test_images_that_go_away_before_they_are_hashed(data: Path) -> None:
    cache = str(data.with_name("cache"))
    index = scan([Folder(str(data))], cache)
    (data / "a.png").unlink()
    left = index.hashed(cache)
    assert [Path(item.path).name for item in left] == ["b.png"]
    assert "No such file" in left.skipped[0].reason
    data.rename(data.with_name("renamed"))
    with pytest.raises(UserError, match=r"data\.folder: none of its images can be read any more"):
        index.hashed(cache)


@pytest.mark.parametrize("when", ["hashed", "attach"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_goes_away_is_one_error(
    train, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, when: str, workers: int
) -> None:
    """Renamed after the scan, or emptied once the model is loaded."""
    owner = Index if when == "hashed" else DataModule
    original = getattr(owner, when)

    def gone(self: Any, *given: Any) -> Any:
        if when == "hashed":
            data.rename(data.with_name("renamed"))
        else:
            for path in data.iterdir():
                path.unlink()
        return original(self, *given)

    monkeypatch.setattr(owner, when, gone)
    train("data=folder", f"data.folder={data}", f"data.num_workers={workers}", "data.batch_size=1", code=1)
    said = capsys.readouterr().err
    assert "can be read any more" in said or "check that the folder still exists" in said
    assert "No such file" in said or "not found" in said
    assert "Traceback" not in said


# by the command


def test_the_command_refuses_a_changed_base_image_or_rule(
    train, base: Path, data: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    words = ["data=folder", f"data.folder={data}", f"model.base={base}", "data.batch_size=1", "adapter.rank=2"]
    folder = train(*words, "callbacks.state.enabled=true", "trainer.max_steps=2", name="run")
    words += [f"resume={folder / 'states' / 'step00000002'}", "trainer.max_steps=3"]

    train(*words, "health.on_nan=skip", name="rule", code=1)
    assert "health.on_nan: 'skip' here, 'stop' in the state" in capsys.readouterr().err

    swap(data / "a.png", data / "b.png")
    train(*words, name="swapped", code=1)
    assert "images and captions: differs" in capsys.readouterr().err
    swap(data / "a.png", data / "b.png")

    copy = Path(shutil.copytree(base, tmp_path / "edited"))
    set_weight(copy, f"unet/{WEIGHTS}", "conv_in.weight")
    set_config(copy, "vae/config.json", scaling_factor=0.13)
    train(*words, f"model.base={copy}", name="base", code=1)
    said = capsys.readouterr().err
    assert "base model: unet weights: differs" in said
    assert "base model: vae.scaling_factor: 0.13 here, 0.18215 in the state" in said

    data.rename(tmp_path / "moved")
    harmless = [f"data.folder={tmp_path / 'moved'}", "data.num_workers=1", "logger=csv", "model.attention=sdpa"]
    harmless += ["output.name=other", "trainer.log_every_n_steps=1", "health.skips_in_a_row=3", "data.on_error=stop"]
    train(*words, *harmless, name="harmless")


def test_the_command_refuses_other_validation_images_or_start_weights(
    train, base: Path, data: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Edited in place: the images that a plateau schedule goes by, and the file that a run started from."""
    words = [f"model.base={base}", "data.batch_size=1", "adapter.rank=2", "trainer.max_steps=2"]
    words += ["data=folder", f"data.folder={data}"]
    start = Path(shutil.copy(train(*words, name="start") / "adapter.safetensors", tmp_path / "start.safetensors"))
    watched = tmp_path / "watched"
    picture(watched / "v.png", colour="green")
    words += [f"data.validation.folder={watched}", "callbacks.validation.every_n_steps=1", f"adapter.weights={start}"]
    words += ["scheduler=plateau", "callbacks.validation.enabled=true"]
    words.append(f"resume={train(*words, 'callbacks.state.enabled=true', name='run') / 'states' / 'step00000002'}")

    picture(watched / "v.png", colour="blue")
    train(*words, name="images", code=1)
    assert "validation images: differs" in capsys.readouterr().err
    picture(watched / "v.png", colour="green")

    weights = load_file(start)
    name = next(key for key in weights if key.endswith("lora_up.weight"))
    save_file(weights | {name: weights[name] + 0.125}, start)
    train(*words, name="weights", code=1)
    said = capsys.readouterr().err
    assert "adapter.weights: differs" in said
    assert "validation images" not in said
    save_file(weights, tmp_path / "moved.safetensors")  # what the file says of itself, or where it is, does not count
    train(*words, f"adapter.weights={tmp_path / 'moved.safetensors'}", name="moved")
