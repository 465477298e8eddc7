"""The strict check, through the command: every mistake is named, with its remedy, before anything heavy is imported."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from loralab import gpus
from loralab.checks.check import Check
from loralab.command.prepare import checked, prepare
from loralab.errors import UserError
from loralab.schema.compose import CONF, compose, group_options
from loralab.schema.tree import leaves
from tests import GOLDEN, ROOT
from tests.support.refusals import problems

HEAVY = ("torch", "lightning", "diffusers", "transformers", "bitsandbytes")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimzer=adam8bit"], ["optimzer", "did you mean 'optimizer'"]),
        (["optimizer.lrr=1e-3"], ["optimizer.lrr", "did you mean 'optimizer.lr'"]),
        (["+optimizer.lrr=1e-3"], ["optimizer.lrr", "did you mean 'optimizer.lr'"]),
        (["optimizer.lr=fast"], ["optimizer.lr", "'fast'", "number"]),
        (["optimizer.lr=-1"], ["optimizer.lr", "at least 0"]),
        (["optimizer=adam9bit"], ["optimizer", "no option 'adam9bit'", "adam8bit"]),
        (["optimizer=adamw", "optimizer=lion"], ["optimizer", "defined twice", "optimizer=lion"]),
        (["adapter.rank=0"], ["adapter.rank", "at least 1"]),
        (["adapter.rank=4.5"], ["adapter.rank", "whole number"]),
        (["adapter.rnk=4"], ["adapter.rnk", "did you mean 'adapter.rank'"]),
        (["adapter.dropout=1.5"], ["adapter.dropout", "below 1"]),
        (["model.prediction_type=eps"], ["model.prediction_type", "epsilon | v_prediction"]),
        (["trainer.precision=fp16"], ["trainer.precision", "16-mixed"]),
        (["output.format=safetensor"], ["output.format", "safetensors | ckpt"]),
        (["output.nmae=x"], ["output.nmae", "output.name"]),
        (["trainer.precision=16-mixed", "trainer.accelerator=cpu"], ["trainer.precision", "bf16-mixed"]),
        (["data=shapes", "data.folder=/not/there"], ["data.folder", "data=folder"]),
        (["data.folder=/not/there"], ["data.folder", "'/not/there' was not found"]),
        (["data=folder"], ["data.folder", "is missing"]),
        (["~optimizer"], ["optimizer: is missing", "adam8bit"]),
        (["scheduler=null"], ["scheduler: cannot be null", "constant"]),
        (["data.augment.color=true", "data.cache.latents=memory"], ["data.augment.color", "data.cache.latents=none"]),
        (["callbacks.export.every_n_epoch=1"], ["callbacks.export.every_n_epoch", "every_n_epochs"]),
        (["optimizer._target_=os.system"], ["optimizer._target_", "allow-list"]),
        (["objective.loss._target_=builtins.exec"], ["objective.loss._target_", "allow-list"]),
        (["seed=abc"], ["seed", "whole number"]),
        (["seed="], ["seed"]),
        (["data.resolution=[512"], ["data.resolution=[512", "quote"]),
        (["+nonsense=1"], ["nonsense", "unknown setting"]),
        (["callbacks.tag_occurence.enabled=true"], ["did you mean 'callbacks.tag_occurrence.enabled'"]),
        (["trainer.max_epochs=0"], ["trainer.max_epochs", "at least 1"]),
        (
            ["optimizer=adafactor", "optimizer.lr=null", "optimizer.relative_step=true", "targets.unet_lr=1e-4"],
            ["targets.unet_lr: has no effect", "optimizer.lr=null"],
        ),
        (
            ["optimizer=adafactor", "optimizer.lr=null", "optimizer.relative_step=true", "scheduler=cosine"],
            ["scheduler: has no effect", "optimizer.lr=null"],
        ),
        (["optimizer=prodigy", "targets.unet_lr=0.5"], ["targets.unet_lr", "a single rate for all parameters"]),
        (
            ["optimizer=prodigy", "targets.loraplus_ratio=16"],
            ["targets.loraplus_ratio", "a single rate for all parameters"],
        ),
        (["model.attention=xformers", "trainer.accelerator=cpu"], ["model.attention", "needs a GPU"]),
        (["targets.blocks={rnk: [4]}"], ["targets.blocks.rnk", "did you mean 'targets.blocks.rank'"]),
        (["targets.blocks={rank: [-1]}"], ["targets.blocks.rank", "at least 0"]),
        (["targets.patterns=[{rank: 4}]"], ["targets.patterns.0.match", "missing"]),
        (["targets.patterns=[{match: attn, rank: x}]"], ["targets.patterns.0.rank", "whole number"]),
        (["targets.patterns=[{match: '('}]"], ["targets.patterns.0.match", "not a valid regular expression"]),
        (["suggested.lr=fast"], ["suggested.lr", "a number"]),
        (["allow=my_package."], ["allow", "a list of import names"]),
        (["callbacks.export.enabled=5"], ["callbacks.export.enabled", "true or false"]),
        (["optimizer.betas={a: 1}"], ["optimizer.betas", "invalid value", "[0.9, 0.999]"]),
        (["trainer=ddp", "trainer.accelerator=cpu"], ["trainer.devices", "every GPU", "trainer.devices=2"]),
        (["trainer=fsdp", "model.offload=0.5"], ["model.offload", "trainer.strategy=fsdp", "set model.offload=0"]),
        (["trainer=fsdp", "model.quantize=fp8"], ["model.quantize", "trainer.strategy=fsdp", "model.quantize=null"]),
        (["trainer=fsdp", "memory.limit_gb=8"], ["memory.limit_gb", "trainer.strategy=fsdp", "memory.limit_gb=null"]),
        (["trainer=fsdp", "adapter.module_dropout=0.1"], ["adapter.module_dropout", "trainer=ddp"]),
        (["adapter=ia3", "targets.loraplus_ratio=16"], ["targets.loraplus_ratio", "has no effect", "=null"]),
        (["adapter=oft", "targets.loraplus_ratio=16"], ["targets.loraplus_ratio", "has no effect", "adapter=lora"]),
        (["adapter.rank=4,8"], ["adapter.rank", "has several values", "add -m"]),
        (["data.cache.text=true"], ["data.cache.text", "targets.text_encoder", "targets=unet_only"]),
        (
            ["hydra/sweeper=nothing"],
            ["hydra/sweeper", "'nothing' is not installed", "pip install hydra-nothing-sweeper"],
        ),
        (["objective/timesteps=range", "objective.timesteps.high=300"], ["objective.timesteps", "low=500"]),
        (["scheduler=constant_with_warmup", "scheduler.warmup_steps=5"], ["scheduler.warmup_steps", "warmup_ratio=0"]),
        (["optimizer=paged_adamw8bit", "trainer=cpu"], ["optimizer", "optimizer=adamw8bit"]),
        (["optimizer.lr=1e38"], ["optimizer.lr", "at most 1000"]),
        (["optimizer.betas=[0.9]"], ["optimizer.betas", "a list such as [0.9, 0.999]"]),
        (["optimizer.betas=[0.9,x]"], ["optimizer.betas", "a list such as [0.9, 0.999]"]),
        (["optimizer.eps=null"], ["optimizer.eps", "a number"]),
        (["optimizer.eps=0"], ["optimizer.eps", "above 0"]),
        (["optimizer.lr=null"], ["optimizer.lr", "AdamW needs a learning rate"]),
        (["optimizer=adafactor", "optimizer.lr=null"], ["optimizer.lr", "optimizer.relative_step=true"]),
        (["optimizer=adafactor", "optimizer.relative_step=true"], ["optimizer.relative_step", "optimizer.lr=null"]),
        (["optimizer=adafactor", "optimizer.warmup_init=true"], ["optimizer.warmup_init", "relative_step=true"]),
        (["optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0"], ["optimizer.nesterov", "momentum"]),
        (["adapter.module_dropout=1"], ["adapter.module_dropout", "below 1"]),
        (["adapter.dropout=1.0"], ["adapter.dropout", "below 1"]),
        (["adapter.rank=100000"], ["adapter.rank", "at most 4096"]),
        (["adapter.alpha=1e40"], ["adapter.alpha", "at most 1000000"]),
        (["ema.decay=1"], ["ema.decay", "below 1"]),
        (["data.resolution=100000"], ["data.resolution", "at most 4096"]),
        (["data.resolution=[[64,20000]]"], ["data.resolution", "at most 4096"]),
        (["data.num_workers=10000"], ["data.num_workers", "loader processes"]),
        (["trainer.num_nodes=2"], ["trainer.num_nodes", "torchrun or SLURM"]),
        (["trainer.max_steps=100000000000000000000"], ["trainer.max_steps", "at most 1000000000"]),
        (["trainer.max_epochs=1e20"], ["trainer.max_epochs", "whole number"]),
        (["trainer.devices=\\"], ["trainer.devices", "a number of devices"]),
        (["trainer.devices=[0,0]"], ["trainer.devices", "a list of device indices"]),
        (["trainer.devices=0"], ["trainer.devices", "a number of devices"]),
        (["trainer.accelerator=cpu", "trainer.devices='1,'"], ["trainer.devices", "a number of processes (on a CPU)"]),
        (["objective.tag_weighting=1e6"], ["objective.tag_weighting", "at most 10"]),
        (["data.buckets.step=4096"], ["data.buckets.step", "at most 256"]),
        (["trainer.devices=1000"], ["trainer.devices", "invalid value 1000"]),
        (["trainer.strategy=magic"], ["trainer.strategy", "ddp"]),
        (["output.name=2024"], ["output.name", "'output.name=\"2024\"'"]),
        (["health=null"], ["health", "cannot be null"]),
        (["steps=5"], ["steps", "did you mean 'trainer.max_steps'"]),
        (["learning_rate=1e-4"], ["learning_rate", "did you mean 'optimizer.lr'"]),
        (["network_dim=8"], ["network_dim", "did you mean 'adapter.rank'"]),
        (["net_dim=8"], ["net_dim", "did you mean 'adapter.rank'"]),
        (["save_every_n_epochs=1"], ["did you mean 'callbacks.export.every_n_epochs'"]),
        (["noise_offset=0.1"], ["did you mean 'objective/noise=offset'"]),
        (["+train_unet_only=1"], ["train_unet_only", "unknown setting"]),
        (["blocks_to_swap=3"], ["blocks_to_swap", "did you mean 'model.offload'?"]),
        (["model.text_encoder=x"], ["model.text_encoder", "add model=anima | tiny_flow | zimage"]),
        (["objective.noise.offset.strength=0.1"], ["add objective/noise=offset"]),
        (["optimizer.d_coef=2"], ["optimizer.d_coef", "add optimizer=prodigy"]),
        (["+scheduler.power=2"], ["scheduler.power", "add scheduler=polynomial"]),
        (["=1"], ["=1: has no key", "key=value"]),
        ([""], ["'': is not a valid override"]),
        (["adapter=[lora,lokr]"], ["adapter: takes one option", "adapter=lora"]),
        (["data=[folder]"], ["data: takes one option", "data=folder"]),
        (["data=/"], ["data: has no option '/'", "data.folder=/"]),
        (["+experiment=style"], ["experiment: is already chosen", "experiment=style"]),
        (["hydra.mode=multirun"], ["hydra.mode: invalid value", "[RUN, MULTIRUN]"]),
        (["data.folder=${IMGS}"], ["data.folder: ${IMGS} refers to an unknown setting", "${oc.env:IMGS}"]),
        (["output.folder=${oc.env:NOWHERE_SET}"], ["output.folder: environment variable NOWHERE_SET not found"]),
        (["output.folder=${hydra.run.dir}"], ["output.folder", "${hydra:run.dir}"]),
        (["hydra.sweeper.params={a: '2,4'}"], ["do not compose"]),
        (["data.folders=[here]"], ["data.folders", "a list of mappings"]),
        (["output.name=a.safetensors"], ["output.name", "ends in an extension"]),
        (["output.name=.."], ["output.name", "not a file name"]),
    ],
)
def test_mistakes_are_named(overrides: list[str], words: list[str]) -> None:
    said = problems(*overrides)
    assert all(word in said for word in words), said or "nothing was found wrong"


@pytest.mark.parametrize(
    "value",
    [
        "my (1)",
        "50% (b)",
        "at@home (c)",
        "jörg",
        "日本",
        "it's",
        "a;b",
        "a#1",
        "~me",
        "a=b",
        'say "a"',
        "end\\ (x)\\",
        "a!",
    ],
)
def test_a_value_that_hydra_cannot_read_is_told_once_with_what_to_paste(value: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare([f"output.comment={value}"])
    (problem,) = caught.value.problems
    (argument,) = shlex.split(problem.remedy.partition(": ")[2])
    assert prepare([argument]).composed.cfg.output.comment == value


@pytest.mark.parametrize(
    ("override", "found", "remedy"),
    [
        ("seed=range(1,1)", "seed: is an empty range", "STOP is not included"),
        ("seed=range(1,5,0)", "seed: is an empty range", "range(START,STOP,STEP)"),
        ("seed=range(1,1000000000)", "seed: would make 999999999 runs", "at most 10000"),
        ("seed=choice()", "seed: 'choice()' cannot be evaluated: empty choice", "key=a,b"),
        ("experiment=choice(style,null)", "experiment: 'choice(style,null)' cannot be evaluated", "key=a,b,null"),
        ("sweep=learning_rate,rank_alpha", "sweep: takes one option", "sweep=[a,b]"),
    ],
)
def test_sweeps_of_nothing_or_too_much(override: str, found: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare([override], multirun=True)
    assert found in str(caught.value)
    assert remedy in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("place", ["output.folder=o", "hydra.sweep.subdir=x"])
def test_runs_of_a_sweep_that_would_share_a_place(place: str) -> None:
    with pytest.raises(UserError, match="all runs of the sweep would") as caught:
        prepare([place, "adapter.rank=2,4"], multirun=True)
    (argument,) = shlex.split(caught.value.problems[0].remedy)
    prepare([argument, "adapter.rank=2,4"], multirun=True)
    prepare([place, "adapter.rank=2"], multirun=True)


def test_sweeps_over_lists_of_options() -> None:
    prepare(["objective/noise=[offset],[multires,offset]"], multirun=True)
    prepare(["objective/noise=choice([],[offset])"], multirun=True)


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("seed=1,2", ""),
        ("optimizer=lion,adamw", ""),
        ("data.resolution=64,72", "; as a list: 'data.resolution=[64,72]'"),
        ("optimizer.betas=0.9,0.99", "; as a list: 'optimizer.betas=[0.9,0.99]'"),
        ("output.comment=a,b", "; as text: 'output.comment=\"a,b\"'"),
    ],
)
def test_of_several_values_only_what_is_possible_is_proposed(override: str, instead: str) -> None:
    with pytest.raises(UserError) as caught:
        prepare([override])
    (problem,) = caught.value.problems
    assert problem.remedy == f"add -m for one run per value{instead}"


def test_a_very_long_path_is_shown_shortened() -> None:
    with pytest.raises(UserError) as caught:
        prepare(["output.folder=" + "a/" * 3000])
    (problem,) = caught.value.problems
    assert problem.setting == "output.folder"
    assert len(problem.found) < 700


def test_a_folder_alone_is_training_data(tmp_path: Path) -> None:
    assert prepare([f"data.folder={tmp_path}"]).composed.choices["data"] == "folder"
    assert prepare([f"data.folders=[{{path: {tmp_path}}}]"]).composed.choices["data"] == "folder"
    assert prepare([]).composed.choices["data"] == "shapes"


def install_torch(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for an installed build of torch: only what it says of itself is read."""
    (folder / "version.py").write_text(version)
    monkeypatch.setattr(gpus, "find_spec", lambda name: SimpleNamespace(origin=str(folder / "__init__.py")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("gpu", "version", "said"),
    [
        ("cuda", "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", "2.13.0+cu130"),
        ("cuda", "__version__ = '2.10.1'\ncuda = None\nhip = '7.0'\n", "2.10.1+cu130"),
        ("hip", "__version__ = '2.13.0+cu130'\ncuda: str = '13.0'\nhip: Optional[str] = None\n", "without ROCm"),
        ("cuda", "__version__ = '2.13.0+cu130'\ncuda: str = '13.0'\nhip = None\n", None),
        ("hip", "__version__ = '2.13.0+rocm7.0'\ncuda = None\nhip: Optional[str] = '7.0'\n", None),
    ],
)
def test_a_gpu_that_torch_was_not_built_for(gpu: str, version: str, said: str, tmp_path: Path, monkeypatch) -> None:
    install_torch(tmp_path, version, monkeypatch)
    monkeypatch.setattr(gpus, "gpus", lambda: {gpu})
    refused, notes = problems("trainer=gpu"), prepare([]).warnings
    assert prepare(["trainer=cpu"]).warnings == []
    if said is None:
        assert not refused
        assert not notes
        return
    assert f"trainer.accelerator: found an {'NVIDIA' if gpu == 'cuda' else 'AMD'} GPU, but torch" in refused
    assert said in refused
    assert [note for note in notes if note.startswith("training on the CPU: found an") and said in note]


@pytest.mark.skipif(sys.platform == "win32", reason="a program is a file with a mode")
@pytest.mark.parametrize("build", ["None", "'13.0'"])
def test_an_nvidia_driver_alone_shows_a_gpu(build: str, tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    install_torch(tmp_path, f"__version__ = '2.13.0'\ncuda = {build}\nhip = None\n", monkeypatch)
    monkeypatch.setattr(gpus, "gpus", set)
    if build == "None":
        command = "pip install torch==2.13.0+cu130 --index-url https://download.pytorch.org/whl/cu130"
        assert command in problems("trainer.accelerator=cuda")
        assert [note for note in prepare([]).warnings if command in note]
    else:
        assert "no GPU found on this machine" in problems("trainer=gpu"), "a driver without its card"
        assert prepare([]).warnings == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert prepare([]).warnings == [], "the user hides it"


def test_all_mistakes_are_listed_together() -> None:
    """Those that Hydra would stop at, too: what it cannot read, groups and keys that are not there."""
    wrong = ["adapter.rank=0", "optimizer=lyon", "output.format=zip", "output.nmae=x", "seed=1", "seed=2", "data.=[1"]
    said = problems(*wrong)
    assert said.count("→") == len(wrong) - 1
    assert all(key in said for key in ("adapter.rank", "'lion'", "output.format", "'output.name'", "seed", "data.=[1"))


def test_every_value_of_a_sweep_is_checked_before_the_first_run() -> None:
    with pytest.raises(UserError) as caught:
        prepare(["adapter.rank=4,0", "optimizer.lr=1e-4,1e-3,fast", "output.format='ckpt','zip'"], multirun=True)
    assert [problem.setting for problem in caught.value.problems] == ["adapter.rank", "optimizer.lr", "output.format"]
    assert "invalid value 'fast' (given as optimizer.lr=fast)" in str(caught.value)
    prepare(["adapter.rank=4,8", "optimizer.lr=choice(1e-4,1e-3)", "scheduler=cosine,linear"], multirun=True)


def test_where_a_mistake_stands() -> None:
    said = problems("optimizer.lrr=1", "adapter.rank=0", "experiment=style")
    assert "optimizer.lrr: unknown setting (given as optimizer.lrr=1)" in said
    assert "adapter.rank: invalid value 0 (given as adapter.rank=0)" in said


def test_unknown_keys_in_a_file_are_named_with_the_file(tmp_path: Path) -> None:
    file = CONF / "experiment" / "misspelt_by_a_test.yaml"
    file.write_text("# @package _global_\noptimizr: {lr: 1.0}\nadapter: {rnak: 4}\n", encoding="utf8")
    try:
        said = problems("experiment=misspelt_by_a_test")
    finally:
        file.unlink()
    assert "optimizr" in said
    assert "adapter.rank" in said
    assert "conf/experiment/misspelt_by_a_test.yaml" in said


def test_a_value_of_a_wrong_kind_for_every_key() -> None:
    """A table where a plain value belongs is told by its key, whatever else goes by that key."""
    many = ["optimizer=prodigy", "scheduler=polynomial", "adapter=lokr", "logger=many", "objective/loss=huber"]
    composed = compose([*many, "objective/noise=[offset,multires]"])
    keys = [key for key, _ in leaves(composed.tree) if not key.rpartition(".")[2].startswith("_")]
    assert len(keys) > 150
    for key in keys:
        changed = replace(composed, cfg=composed.cfg.copy(), overrides=[])
        OmegaConf.update(changed.cfg, key, {"a": [1]}, merge=False, force_add=True)
        told = [problem.setting for problem in Check(changed).problems]
        assert any(setting == key or setting.startswith(f"{key}.") for setting in told), key


@pytest.mark.parametrize("overrides", [["optimzer=adam8bit"], ["optimizer.lr=fast"], ["data.folder=/not/there"]])
def test_the_command_answers_without_heavy_imports(overrides: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["train.py", *{overrides!r}]
from loralab.launch import main
try:
    main()
except SystemExit as stop:
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    sys.exit(f"imported {{heavy}}" if heavy else stop.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "imported" not in done.stderr
    assert "Traceback" not in done.stderr
    assert overrides[0].split("=")[0] in done.stderr


def test_help_is_a_menu() -> None:
    done = subprocess.run([sys.executable, "train.py", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    for group, options in group_options().items():
        assert group in done.stdout
        assert all(option in done.stdout for option in options)


@pytest.mark.parametrize(
    ("overrides", "package", "setting"),
    [
        (["optimizer=prodigy"], "prodigyopt", "optimizer"),
        (["optimizer=dadapt_adam"], "dadaptation", "optimizer"),
        (["optimizer=schedulefree"], "schedulefree", "optimizer"),
        (["optimizer=adam8bit"], "bitsandbytes", "optimizer"),
        (["logger=wandb"], "wandb", "logger.wandb"),
        (["logger=mlflow"], "mlflow", "logger.mlflow"),
        (["model.attention=xformers"], "xformers", "model.attention"),
        (["model.quantize=nf4"], "bitsandbytes", "model.quantize"),
        (["data=folder", "data.folder=.", "data.metadata=a.parquet"], "pyarrow", "data.metadata"),
    ],
)
def test_a_package_that_is_not_installed(overrides: list[str], package: str, setting: str, monkeypatch) -> None:
    monkeypatch.setattr("loralab.packages.find_spec", lambda name: None if name == package else object())
    said = problems(*overrides).replace(f" (given as {overrides[-1]})", "")
    assert f"{setting}: needs {package}, which is not installed\n    → pip install {package}" in said


def test_every_file_says_what_it_is_for() -> None:
    for file in CONF.rglob("*.yaml"):
        comments = [line for line in file.read_text(encoding="utf8").splitlines() if line.startswith("#")]
        assert [line for line in comments if "@package" not in line], file


def test_epochs_on_the_command_line_clear_steps() -> None:
    overrides = prepare(["trainer.max_epochs=3"]).overrides
    tree = checked(overrides).tree
    assert (tree["trainer"]["max_epochs"], tree["trainer"]["max_steps"]) == (3, None)


def test_sd15_with_a_folder_is_what_a_user_expects() -> None:
    """The values written out in full, wherever conf/ has them from."""
    expected = OmegaConf.to_container(OmegaConf.load(GOLDEN / "sd15_folder.yaml"))
    tree = compose(["model=sd15", "data=folder"]).tree
    assert {group: tree[group] for group in expected} == expected


@pytest.mark.parametrize(
    ("option", "differs"),
    [
        ("model=sd2_v", {"family", "base", "resolution", "prediction_type"}),
        ("targets=unet_only", {"text_encoder"}),
        ("targets=text_encoder_only", {"unet"}),
        ("adapter=locon", {"conv_rank"}),
        ("adapter=loha", {"_target_"}),
        ("adapter=dora", {"_target_", "magnitude"}),
        ("adapter=lokr", {"_target_", "factor", "decompose_both", "full_matrix"}),
    ],
)
def test_options_differ_from_the_usual_one_by_what_they_say(option: str, differs: set[str]) -> None:
    group = option.partition("=")[0]
    usual, found = (compose(["model=sd15", *words]).tree[group] for words in ([], [option]))
    assert {key for key in usual | found if usual.get(key, ...) != found.get(key, ...)} == differs


def test_what_options_start_from_is_no_option() -> None:
    assert problems("model=base").splitlines()[0] == "model: has no option 'base'"


def test_sd15_with_a_folder_is_free_of_the_demo(tmp_path: Path) -> None:
    tree = checked(["model=sd15", "data=folder", f"data.folder={tmp_path}"]).tree
    data, trainer = tree["data"], tree["trainer"]
    assert tree["model"]["base"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert (data["folder"], data["reg_folder"], data["resolution"], data["batch_size"]) == (str(tmp_path), None, 512, 1)
    assert data["buckets"]["step"] == 64
    assert (trainer["max_epochs"], trainer["max_steps"], trainer["precision"]) == (10, None, "32-true")
    assert (tree["optimizer"]["lr"], tree["adapter"]["rank"]) == (1e-4, 16)
    assert tree["callbacks"]["samples"]["enabled"] is True
    assert tree["callbacks"]["samples"]["prompts"] is None
