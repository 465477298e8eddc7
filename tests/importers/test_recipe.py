"""What an adapter file says of its training, read back: by its own section, and by sd-scripts' names alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from loralab.adapters.file import read_metadata
from loralab.command.prepare import prepare
from loralab.importers import conversion
from loralab.importers.recipe import recipe
from loralab.importers.save import stored
from loralab.importers.section import is_left_out
from loralab.launch import main as run_command
from loralab.schema.tree import get

RUNS = {
    "locon": (
        *("adapter=locon", "adapter.alpha=3.0", "adapter.conv_rank=2", "adapter.rank_dropout=0.1", "seed=5"),
        *("scheduler=cosine", "scheduler.warmup_ratio=0.25", "targets.unet_lr=1e-3", "targets.text_encoder_lr=2e-4"),
        *("objective/noise=[offset,multires]", "objective.noise.multires.iterations=3", "adapter.max_norm=1.0"),
        *("data.captions.shuffle=true", "data.captions.keep_tokens=1", "data.augment.flip=true"),
    ),
    "dora": (
        *("adapter=dora", "adapter.alpha=2.0", "adapter.magnitude=input", "targets=unet_only"),
        "targets.loraplus_ratio=4",
        *("optimizer=lion", "optimizer.lr=2e-4", "scheduler=polynomial", "scheduler.end_ratio=0.125"),
        *("objective/loss=huber", "objective.loss.c=0.2", "objective/weighting=debiased"),
        *("trainer.max_steps=null", "trainer.max_epochs=1", "data.batch_size=50"),
    ),
    "lokr": (
        *("adapter=lokr", "adapter.factor=4", "adapter.alpha=1.0", "adapter.decompose_both=true", "ema.decay=0.5"),
        *("scheduler=constant_with_warmup", "scheduler.warmup_ratio=0.0", "scheduler.warmup_steps=2"),
        *("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5", "objective/noise=input_perturbation"),
        *("data.captions.dropout_rate=0.25", "data.captions.tag_dropout_rate=0.5", "model.clip_skip=2"),
    ),
}  # fmt: skip
TOLD_BY_SD_SCRIPTS = {
    "adapter._target_",
    *("adapter.rank", "adapter.alpha", "adapter.conv_rank", "adapter.rank_dropout", "adapter.max_norm"),
    *("adapter.factor", "adapter.decompose_both", "adapter.magnitude", "targets.unet_lr", "targets.text_encoder_lr"),
    *("targets.unet", "targets.text_encoder", "targets.loraplus_ratio", "targets.in_out"),
    *("optimizer._target_", "optimizer.lr", "scheduler._target_", "scheduler.warmup_ratio", "scheduler.warmup_steps"),
    *("objective.noise", "objective.loss", "objective.weighting", "trainer.accumulate_grad_batches", "seed"),
    *("trainer.gradient_clip_val", "trainer.precision", "data.captions.dropout_rate", "data.captions.tag_dropout_rate"),
    *("data.captions.shuffle", "data.captions.keep_tokens", "data.augment.flip", "data.batch_size", "model.clip_skip"),
}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, train) -> Path:
    return train(*RUNS[request.param])


def test_a_file_reads_back_as_the_configuration_that_made_it(run: Path, tmp_path: Path) -> None:
    """By its own section every setting that it may hold; without it, what sd-scripts' names can say."""
    made = OmegaConf.to_container(OmegaConf.load(run / "config" / "config.yaml"), resolve=True)
    assert isinstance(made, dict)
    adapter = run / "adapter.safetensors"
    read = prepare([f"settings.load={adapter}"]).composed.tree
    assert _held(read) == _held(made)

    bare = tmp_path / "bare.safetensors"
    metadata = {key: value for key, value in read_metadata(adapter).items() if key != "loralab"}
    save_file(load_file(adapter), bare, metadata)
    usual = [
        "model.resolution=64",
        *(f"{key}={get(made, key)}" for key in ("model.base", "data.folder")),
        "data=folder",
    ]
    read = prepare([f"settings.load={bare}", *usual]).composed.tree
    said = {key: get(made, key) for key in TOLD_BY_SD_SCRIPTS}
    assert {key: get(read, key) for key in TOLD_BY_SD_SCRIPTS} == said
    wanted = get(made, "adapter.conv_rank")
    assert bool(get(read, "adapter.conv_rank")) == bool(wanted)
    if wanted:  # the same scale, though it was left open
        rank, alpha = get(made, "adapter.rank"), get(made, "adapter.alpha")
        assert get(read, "adapter.conv_alpha") / wanted == alpha / rank


def test_every_setting_is_held_or_left_out_for_a_reason() -> None:
    """Each key of the configuration, changed, comes back from the section of a file."""
    changed = [
        *("adapter=dora", "targets=unet_only", "optimizer=lion", "scheduler=step", "objective/loss=l1", "seed=7"),
        *("objective/timesteps=logit_normal", "objective/noise=offset", "objective/weighting=none"),
        *("data/captions=tags", "data/augment=flip", "data/validation=split", "callbacks.early_stopping.patience=9"),
        *("output.name=other", "output.precision=bf16", "output.comment='a, b: {c} \"d\"'", "trainer.max_epochs=3"),
        *("data.resolution=[64,72]", "targets.patterns=[{match: attn2, rank: 2, lr: 1e-5}]", "model.emphasis=true"),
    ]
    prepared = prepare(changed)
    made = prepared.composed.tree
    section = json.loads(json.dumps(recipe(made, prepared.composed.choices)))
    assert section["values"].keys() == _held(made).keys()
    assert all(map(is_left_out, dict(stored(made)).keys() - section["values"]))


def test_nothing_of_this_machine_is_in_the_file(train, tmp_path: Path) -> None:
    adapter = train(f"output.folder={tmp_path / 'here'}", "trainer.max_steps=1", "logger=csv")
    file = next((tmp_path / "here").glob("*.safetensors"))
    assert adapter.is_dir()
    assert str(tmp_path) not in json.dumps(read_metadata(file))


REFUSED = [
    *('{"values": {"optimizer._target_": "os.system"}}', "[1", "null", '{"values": {"allow": ["os."]}}'),
    *('{"choices": {"allow": ["os."]}}', '{"choices": {"settings": "x"}}', '{"values": {"allow.0": "os."}}'),
    *('{"choices": {"hydra": "all"}}', '{"values": {"hydra.run.dir": "/tmp"}}', '{"choices": {"hydra/launcher": "x"}}'),
    *('{"values": {"settings.save_folder": "/tmp"}}', '{"values": {"settings": {"run_folder": "/tmp"}}}'),
    '{"values": {"callbacks.samples.prompts": [{"_target_": "os.system"}]}}',
    '{"values": {"output.comment": "${oc.env:HOME}"}}',
    '{"instead": {"allow": 1}}',
]


@pytest.mark.parametrize("section", REFUSED)
def test_a_foreign_section_builds_and_allows_nothing(section: str, train, tmp_path: Path, capsys) -> None:
    file = foreign(tmp_path / "evil.safetensors", section)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["loralab"] == section
    saved = tmp_path / "evil.json"
    saved.write_text(
        json.dumps({"net_dim": 4, "loralab": section if section in ("[1", "null") else json.loads(section)})
    )
    for path in (file, saved):
        train(f"settings.load={path}", "+callbacks.evil._target_=os.getcwd", code=1)
        said = capsys.readouterr().err
        assert "  loralab" in said
        assert f"(in {path.name})" in said
        assert not (tmp_path / "run").exists()


def test_what_is_of_another_machine_is_not_taken(tmp_path: Path) -> None:
    values_ = {"seed": 9, "output.folder": "/elsewhere", "logger.csv.save_dir": "/elsewhere", "resume": "auto"}
    choices = {"logger": "wandb", "scheduler": "cosine", "model": "sd15"}
    section = {"choices": choices, "values": values_ | {"model.base": "/base"}}
    found = conversion.read(foreign(tmp_path / "a.safetensors", json.dumps(section)))
    assert found.settings.choices == {"scheduler": "cosine", "model": "sd15"}
    assert found.settings.values == {"seed": 9}
    names = "logger, output.folder, logger.csv.save_dir, resume, model.base"
    assert f"has settings of another machine, which are ignored: {names}" in found.warnings


def foreign(file: Path, section: str) -> Path:
    import torch

    save_file({"lora_unet_a.alpha": torch.ones(())}, file, {"ss_seed": "1", "loralab": section})
    return file


def test_a_run_by_the_file_of_another(train, random_base: Path, tmp_path: Path) -> None:
    """What sd-scripts' metadata has no name for (v_like) is held by the file's own section: the second run, by the file
    of the first alone, writes the same bytes."""
    (tmp_path / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), (90 * number, 9, 9)).save(tmp_path / "images" / f"{number}.png")
    words = ("objective/weighting=[v_like,debiased]", "objective.weighting.v_like.strength=0.25", "seed=11")
    images = f"data.folder={tmp_path / 'images'}"
    file = train(*words, "data=folder", images, "model.resolution=64", name="first") / "adapter.safetensors"
    assert not [key for key in read_metadata(file) if "v_pred" in key or "v_like" in key]
    told = (f"settings.load={file}", f"model.base={random_base}", images, f"data.cache_folder={tmp_path}/cache")
    with pytest.raises(SystemExit) as stop:
        run_command([*told, f"hydra.run.dir={tmp_path / 'second'}", "callbacks.samples.enabled=false"])
    assert not stop.value.code
    made, again = (OmegaConf.load(tmp_path / name / "config" / "config.yaml") for name in ("first", "second"))
    assert made.objective.weighting.v_like.strength == 0.25
    first, second = (OmegaConf.to_container(config.objective, resolve=True) for config in (made, again))
    assert first == second
    assert (tmp_path / "second" / "adapter.safetensors").read_bytes() == file.read_bytes()


def _held(tree: dict) -> dict:
    return {key: value for key, value in stored(tree) if not is_left_out(key)}


def test_rates_as_sd_scripts_writes_them_for_sdxl(tmp_path: Path) -> None:
    file = tmp_path / "metadata.json"
    told = {
        "ss_text_encoder_lr": "[5e-05, 1e-05]",
        "ss_learning_rate": "0.0001",
        "ss_base_model_version": "sdxl_base_v1-0",
    }
    file.write_text(json.dumps(told))
    read = conversion.read(file).settings.values
    assert (read["targets.text_encoder_lr"], read["targets.text_encoder_2_lr"]) == (5e-5, 1e-5)


@pytest.mark.parametrize(("arguments", "end"), [("", 1e-7), (' lr_scheduler_args = ["lr_end=1e-6"]', 1e-6)])
def test_the_polynomial_of_sd_scripts_ends_where_theirs_does(tmp_path: Path, arguments: str, end: float) -> None:
    """transformers' own schedule, which sd-scripts uses, is the oracle."""
    import torch
    from transformers.optimization import get_polynomial_decay_schedule_with_warmup

    from loralab.optim.schedules import polynomial

    file = tmp_path / "config.toml"
    lines = ["learning_rate = 2e-4", "max_train_steps = 50", 'lr_scheduler = "polynomial"', "lr_scheduler_power = 2"]
    file.write_text("\n".join([*lines, arguments.strip()]))
    read = conversion.read(file).settings.values
    rates = []
    for schedule in (
        lambda optimizer: get_polynomial_decay_schedule_with_warmup(optimizer, 0, 50, lr_end=end, power=2.0),
        lambda optimizer: polynomial(optimizer, 50, power=2.0, end_ratio=read["scheduler.end_ratio"]),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2e-4)
        steps = schedule(optimizer)
        rates.append([])
        for _ in range(60):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            steps.step()
    assert rates[1] == pytest.approx(rates[0], rel=1e-12)
