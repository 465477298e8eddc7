"""Settings files: every value is taken or reported, judged by what they come to together; other files are refused."""

import json
import os
import shlex

import pytest

from loralab import cli
from loralab.command import many
from loralab.command.prepare import prepare
from loralab.errors import UserError
from loralab.importers.content import NotSettings
from loralab.importers.conversion import read
from loralab.importers.expand import expand
from loralab.importers.recognition import NAMES
from loralab.schema.compose import compose
from loralab.schema.tree import get


@pytest.fixture
def write(tmp_path):
    """Writes a settings file: a table as JSON, a text as it is."""

    def write(given, name=None):
        path = tmp_path / (name or ("settings.json" if isinstance(given, (dict, list)) else "settings.toml"))
        path.write_text(given if isinstance(given, str) else json.dumps(given), "utf8")
        return path

    return write


def composed(*overrides):
    expanded = expand(list(overrides))
    assert not expanded.problems
    return compose(expanded.overrides).tree


def values_of(*overrides):
    """The settings that a file becomes beside what the command line says."""
    lines = expand(list(overrides)).overrides
    return dict(line.partition("=")[::2] for line in lines)


def refused(path):
    with pytest.raises(NotSettings) as caught:
        read(path)
    return str(caught.value)


# every value is taken or reported

ANCHORS = {
    "old-json": {"net_dim": 4, "train_resolution": 512},
    "kohya-gui": {"LoRA_type": "Standard", "network_dim": 4},
    "lora-metadata": {"ss_network_dim": "4", "ss_learning_rate": "1e-4", "ss_seed": "1"},
    "sd-scripts-toml": {"network_dim": 4, "seed": 1, "cache_info": True},
}
CANDIDATES = (True, 3, 0.5, "no", "bf16", "ckpt", "linear", "/x", "l1", "AdamW", "networks.loha", "a=1", "wandb", "snr")
FILES = ("load_json_path", "dataset_config", "config_file", "loralab")


def toml(table):
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())


@pytest.mark.parametrize("dialect", ANCHORS)
def test_the_value_of_every_key_ends_in_a_setting_or_in_the_report(write, dialect):
    """Of every key that a dialect knows, with the first value that fits it."""
    lost = []
    for key in sorted(set(NAMES[dialect]) - set(ANCHORS[dialect]) - set(FILES)):
        for candidate in CANDIDATES:
            table = {**ANCHORS[dialect], key: candidate}
            try:
                found = read(write(toml(table) if dialect == "sd-scripts-toml" else table))
                break
            except UserError:
                continue  # it takes another kind of value
        else:
            continue  # takes a table of its own, or names a file
        where = {part.split(".")[0] for place in found.origins.values() for part in place.split(" in ")[0].split(", ")}
        reported = {left.key.split(".")[0].split(" ")[0] for left in found.not_applicable}
        if not {key, key.split(".")[0]} & (where | reported | {name.split(".")[0] for name in found.unknown}):
            lost.append(key)
    assert lost == []


UNKNOWN = ["came_pytorch.CAME.CAME", "prodigyplus.ProdigyPlusScheduleFree", "toolkit.optimizers.automagic.Automagic"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_learning_rate_of_an_optimizer_that_is_not_here(write, name):
    path = write(f"network_dim = 4\noptimizer_type = '{name}'\nlearning_rate = 5e-4\nunet_lr = 3e-4\n")
    found = read(path)
    assert (found.settings.values["optimizer.lr"], found.settings.values["targets.unet_lr"]) == (5e-4, 3e-4)
    assert "optimizer_type" in {left.key for left in found.not_applicable}
    assert "optimizer=…" in str(expand([f"settings.load={path}"]).problems)
    tree = composed(f"settings.load={path}", "optimizer=lion")
    assert (get(tree, "optimizer.lr"), get(tree, "targets.unet_lr")) == (5e-4, 3e-4)


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_arguments_of_an_optimizer_that_is_not_here(write, name):
    path = write(f"network_dim = 4\noptimizer_type = '{name}'\noptimizer_args = ['d_coef=0.2', 'cautious=True']\n")
    assert "optimizer_args" in {left.key for left in read(path).not_applicable}
    told = str(expand([f"settings.load={path}"]).problems)
    assert "optimizer_type" in told
    assert "cautious" not in told
    assert not any(line.startswith("optimizer.d_coef") for line in expand([f"settings.load={path}"]).overrides)


def test_lokr_with_a_rank_beyond_any_layer_has_whole_matrices(write):
    """As LyCORIS' own presets ask for them."""
    path = write({"LoRA_type": "LyCORIS/LoKr", "network_dim": 100000, "conv_dim": 100000, "factor": 6})
    tree = composed(f"settings.load={path}")
    assert (get(tree, "adapter.full_matrix"), get(tree, "adapter.factor")) == (True, 6)
    assert (get(tree, "adapter.rank"), get(tree, "adapter.conv_rank")) == (4096, 4096)
    path = write({"LoRA_type": "LyCORIS/LoHa", "network_dim": 100000})
    assert read(path).settings.values["adapter.rank"] == 100000  # refused by the configuration's check


@pytest.mark.parametrize(
    ("line", "group", "option"),
    [
        ("optimizer_type = ' AdamW '", "optimizer", "adamw"),
        ("lr_scheduler = 'cosine '", "scheduler", "cosine"),
        ("network_module = ' networks.loha'", "adapter", "loha"),
    ],
)
def test_blanks_around_a_name_are_no_part_of_it(write, line, group, option):
    assert read(write(f"seed = 1\n{line}")).settings.choices[group] == option


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_encodings_that_say_what_they_are(write, tmp_path, encoding):
    for name, text in (("a.json", '{"net_dim": 8}'), ("b.toml", "network_dim = 8\r\nseed = 2\r\n")):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert read(tmp_path / name).settings.values["adapter.rank"] == 8


def test_the_demos_data_are_not_judged_where_a_file_names_no_images(write):
    with pytest.raises(UserError) as caught:
        prepare([f"settings.load={write('sdxl = true' + chr(10) + 'network_dim = 4')}"])
    assert "data.folder: " in str(caught.value)
    assert "data.buckets.step" not in str(caught.value)


def test_the_warm_up_and_arguments_of_a_schedule_that_is_not_here(write):
    path = write("network_dim = 4\nlr_scheduler = 'rex'\nlr_warmup_steps = 7\nlr_scheduler_num_cycles = 3\n")
    assert get(composed(f"settings.load={path}", "scheduler=cosine_with_restarts"), "scheduler.num_cycles") == 3
    assert get(composed(f"settings.load={path}", "scheduler=cosine"), "scheduler.warmup_steps") == 7
    assert "lr_scheduler_num_cycles" in {left.key for left in read(path).not_applicable}


# what files and the command line come to together


@pytest.mark.parametrize(
    ("lower", "upper", "key", "value"),
    [
        ({"buckets": True}, {"min_bucket_resolution": 192}, "data.buckets.min_resolution", 192),
        ({"scheduler": "cosine_with_restarts"}, {"cosine_restarts": 4}, "scheduler.num_cycles", 4),
        ({"scheduler": "polynomial"}, {"scheduler_power": 3}, "scheduler.power", 3.0),
        ({"noise_offset": 0.1}, {"adaptive_noise_scale": 0.02}, "objective.noise.offset.adaptive", 0.02),
        ({"loss_type": "huber"}, {"huber_c": 0.3}, "objective.loss.c", 0.3),
        ({"optimizer_type": "Lion"}, {"optimizer_args": {"weight_decay": "0.3"}}, "optimizer.weight_decay", 0.3),
        ({"locon_dim": 8}, {"locon_alpha": 2}, "adapter.conv_alpha", 2.0),
        ({"train_resolution": 512}, {"height_resolution": 768}, "data.resolution", [512, 768]),
        ({"max_steps": 9}, {"num_epochs": 3}, "trainer.max_steps", None),
        ({"warmup_lr_ratio": 0.2}, {"lr_warmup_steps": 5}, "scheduler.warmup_steps", 5),
        ({"save_every_n_epochs": 2}, {"save_last_n_epochs": 3}, "callbacks.export.keep_last", 3),
    ],
)
def test_a_file_and_the_one_it_starts_from_are_judged_together(write, lower, upper, key, value):
    write({"net_dim": 4, **lower}, "first.json")
    path = write({"load_json_path": "first.json", **upper}, "second.json")
    assert get(composed(f"settings.load={path}"), key) == value
    told = " ".join(expand([f"settings.load={path}"]).told)
    assert not any(f"{name} = " in told for name in upper), told


@pytest.mark.parametrize(
    ("file", "overrides", "key", "value"),
    [
        ("min_bucket_reso = 192", ["data/buckets=default"], "data.buckets.min_resolution", 192),
        ("min_bucket_reso = 192", ["data.buckets.enabled=true"], "data.buckets.min_resolution", 192),
        ("enable_bucket = true\nmax_bucket_reso = 1536", ["data=folder"], "data.buckets.max_resolution", 1536),
        ("lr_scheduler = 'linear'\nlr_scheduler_num_cycles = 3", ["scheduler=cosine_with_restarts"],
         "scheduler.num_cycles", 3),
        ("network_dim = 8\nnetwork_alpha = 2", ["adapter=loha"], "adapter.rank", 8),
        ("network_dim = 8\nnetwork_alpha = 2", ["adapter=lokr", "data=folder"], "adapter.alpha", 2.0),
        ("huber_c = 0.3", ["objective/loss=smooth_l1"], "objective.loss.c", 0.3),
        ("noise_offset_random_strength = true", ["objective/noise=offset"],
         "objective.noise.offset.random_strength", True),
        ("pretrained_model_name_or_path = '/b.ckpt'", ["model=sdxl"], "model.base", "/b.ckpt"),
        ("optimizer_type = 'AdamW'\nlearning_rate = 3e-4", ["optimizer=adamw8bit"], "optimizer.lr", 3e-4),
        ("mixed_precision = 'bf16'", ["trainer=gpu"], "trainer.precision", "bf16-mixed"),
        ("unet_lr = 2e-4", ["targets=unet_only"], "targets.unet_lr", 2e-4),
    ],
)  # fmt: skip
def test_a_group_on_the_command_line_keeps_what_the_file_says_beside(write, file, overrides, key, value):
    path = write(f"seed = 1\n{file}")
    assert get(composed(f"settings.load={path}", *overrides), key) == value


def test_a_group_over_a_file_that_starts_from_another(write):
    write({"net_dim": 4, "buckets": True, "scheduler": "linear"}, "first.json")
    path = write({"load_json_path": "first.json", "min_bucket_resolution": 192, "cosine_restarts": 3}, "second.json")
    over = ["scheduler=cosine_with_restarts", "data=folder", "data/buckets=default", "adapter=loha"]
    tree = composed(f"settings.load={path}", *over)
    keys = ("data.buckets.min_resolution", "scheduler.num_cycles", "adapter.rank")
    assert [get(tree, key) for key in keys] == [192, 3, 4]


def test_what_an_option_of_the_command_line_has_itself_holds(write):
    path = write("seed = 1\nshuffle_caption = false\nkeep_tokens = 3\ncaption_prefix = 'x'\n")
    tree = composed(f"settings.load={path}", "data=folder", "data/captions=tags")
    assert get(tree, "data.captions.shuffle") is True
    assert get(tree, "data.captions.prefix") == "x"
    told = " ".join(expand([f"settings.load={path}", "data/captions=tags"]).told)
    assert "data.captions.keep_tokens=3" in told


def test_rates_of_another_size_are_reported(write):
    """Prodigy's rate is a factor near 1."""
    path = write("seed = 1\noptimizer_type = 'AdamW'\nlearning_rate = 3e-4\noptimizer_args = ['betas=0.8,0.9']")
    expanded = expand([f"settings.load={path}", "optimizer=prodigy"])
    assert not any(line.startswith("optimizer.") for line in expanded.overrides)
    assert sum(" AdamW, " in line for line in expanded.told) == 2


def test_a_command_line_reads_its_config_file(write):
    write("network_dim = 6\nlearning_rate = 3e-4\nlr_scheduler = 'cosine_with_restarts'", "config.toml")
    path = write("accelerate launch train_network.py --config_file config --lr_scheduler_num_cycles=2", "train.sh")
    tree = composed(f"settings.load={path}")
    keys = ("adapter.rank", "optimizer.lr", "scheduler.num_cycles")
    assert [get(tree, key) for key in keys] == [6, 3e-4, 2]


# all versions of the old scripts


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lyco": True, "network_args": {"algo": "loha", "conv_dim": 16, "conv_alpha": 8}},
         {"adapter": "loha", "adapter.conv_rank": "16", "adapter.conv_alpha": "8.0"}),
        ({"lyco": True, "algo": "lokr", "network_args": None}, {"adapter": "lokr", "adapter.conv_rank": "32"}),
        ({"lyco": True, "network_args": {"algo": "lora"}}, {"adapter": "locon", "adapter.conv_rank": "32"}),
        ({"lyco": False, "network_module": "sd_scripts.networks.lora"}, {"adapter": "lora"}),
        ({"locon": True, "locon_dim": 8, "locon_alpha": 2},
         {"adapter": "locon", "adapter.conv_rank": "8", "adapter.conv_alpha": "2.0"}),
        ({"locon": True}, {"adapter": "locon", "adapter.conv_rank": "32", "adapter.conv_alpha": "16.0"}),
        ({"locon": False, "locon_dim": 8}, {"adapter": "locon", "adapter.conv_rank": "8", "adapter.conv_alpha": "1.0"}),
        ({"locon_dim": 8, "network_args": {"conv_dim": 4}}, {"adapter.conv_rank": "8"}),
        ({"train_resolution": 512, "height_resolution": 768}, {"data.resolution": "[512,768]"}),
        ({"train_resolution": 512, "height_resolution": None}, {"data.resolution": "512"}),
        ({"optimizer_type": "DAdaptation"}, {"optimizer": "dadapt_adam", "optimizer.decouple": "true"}),
        ({"optimizer_type": "Lion", "use_8bit_adam": True}, {"optimizer": "adam8bit"}),
        ({"ext_sd_script_args": "--min_snr_gamma=5 --lr_scheduler=linear", "scheduler": "cosine"},
         {"scheduler": "linear", "objective/weighting": "min_snr"}),
    ],
)  # fmt: skip
def test_every_version_of_the_old_scripts(write, given, expected):
    found = dict(line.partition("=")[::2] for line in read(write({"net_dim": 32, "alpha": 16, **given})).overrides)
    assert {key: found.get(key) for key in expected} == expected
    compose(read(write({"net_dim": 32, "alpha": 16, **given})).overrides)


# what is no settings file


FOREIGN = {
    "concept sliders": "prompts_file: a.yaml\npretrained_model:\n  v2: false\nnetwork:\n  type: c3lier\n",
    "musubi-tuner": "[general]\nresolution = [960, 544]\n[[datasets]]\nvideo_directory = 'x'\ncache_directory = 'y'\n",
    "PEFT": {"peft_type": "LORA", "r": 8, "lora_alpha": 16},
    "diffusers model": {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30"},
    "ComfyUI": {"3": {"class_type": "KSampler", "inputs": {"seed": 1}}},
    "LECO": {"network_dim": 4, "max_denoising_steps": 40, "prompts_file": "", "learning_rate": 1e-4},
    "Dreambooth": {"learning_rate": 1e-5, "learning_rate_te1": 0, "learning_rate_te2": 0, "optimizer": "AdamW"},
    "fine-tuning": {"create_buckets": True, "full_path": True, "image_folder": "x", "learning_rate": 1e-5},
    "textual-inversion": {"token_string": "x", "init_word": "*", "learning_rate": 1, "optimizer": "Prodigy"},
    "YAML": "network_dim: 4\nnetwork_alpha: 2\nlearning_rate: 1e-4\n",
    "composed configuration": "seed: 1\nsuggested:\n  lr: 1e-4\nmodel:\n  _target_: x\n",
}


@pytest.mark.parametrize("program", FOREIGN)
def test_files_of_other_programs_are_named(write, program):
    assert program in refused(write(FOREIGN[program], "settings.txt"))


TEXTS = [
    "# How to train\n\nRun it with --network_dim and --learning_rate, as you like.\n",
    "To train, run python train_network.py --network_dim 4 and wait for it.\n",
    "a cat --n bad --w 512\na dog --n worse\n",
    "python train_network.py --rank 4 --steps 3 --lr 1 --foo\n",
    {"net_dim": 4, "epochs_total": 3, "rankk": 4, "stepz": 5},
    "network_dim = 4\na = 1\nb = 2\nc = 3\n",
    "",
    {},
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_of_which_most_is_not_understood_are_refused(write, text):
    refused(write(text, "notes.txt"))


def test_what_is_and_is_not_understood_is_listed(write):
    message = refused(write({"net_dim": 4, "epochs_total": 3, "rankk": 4}))
    assert "Known: net_dim. Unknown: epochs_total, rankk" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[datasets]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir='x'", "write [[datasets]]"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dirs='x'", "did you mean image_dir instead of image_dirs?"),
    ],
)
def test_slips_in_a_dataset_configuration(write, text, words):
    with pytest.raises(UserError) as caught:
        read(write(text))
    assert words in str(caught.value)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path / "pipe.json")


def test_a_folder_with_other_files(write, tmp_path, capsys):
    write({"net_dim": 4}, "a.json")
    write("network_dim = ", "broken.toml")
    write(FOREIGN["concept sliders"], "slider.yml")
    write("--- notes --- do not --forget\n", "notes.txt")
    files = [path.name for path in many.settings_files(tmp_path)]
    assert files == ["a.json", "broken.toml"]  # what is damaged fails, and is not passed over
    told = capsys.readouterr().err
    assert "slider.yml is a configuration of concept sliders" in told
    assert "notes.txt" in told


@pytest.mark.parametrize("given", [{"net_dim": 4, "mixed_precision": "no"}, "network_dim = 4\nmax_train_steps = 2"])
def test_a_file_without_base_or_images_never_trains_the_demo(write, given):
    path = write(given)
    with pytest.raises(UserError) as caught:
        prepare([f"settings.load={path}"])
    told = str(caught.value)
    assert "model.base: " in told
    assert "add model=sd15" in told
    assert "add data=folder data.folder=PATH" in told
    prepare([f"settings.load={path}", "model=tiny", "data=shapes", "data.resolution=64", "data.buckets.step=8"])


# contradictions and values that cannot be


BOTH = {"unet_only": True, "text_only": True, "color_aug": True, "cache_latents": True, "mixed_precision": "no"}


def test_all_contradictions_are_told_together(write, capsys):
    path = write({**BOTH, "net_dim": "x"})
    with pytest.raises(SystemExit) as done:
        cli.main(["settings", str(path)])
    told = capsys.readouterr().err
    assert done.value.code == 1
    with pytest.raises(UserError) as caught:
        prepare([f"settings.load={path}", "model=tiny", "data=shapes", "data.cache.latents=memory"])
    for message in (told, str(caught.value)):
        assert "cannot be combined with text_only" in message
        assert "data.augment.color" in message
        assert "net_dim (in settings.json): invalid value x" in message


def test_the_command_line_settles_a_contradiction(write):
    path = write(BOTH)
    over = ["targets=unet_only", "data.cache.latents=none"]
    assert get(composed(f"settings.load={path}", *over), "targets.text_encoder") is False


@pytest.mark.parametrize("value", [1e40, -1e40, "1e40", 10**40, "nan", "inf"])
@pytest.mark.parametrize("key", ["learning_rate", "net_dim", "alpha", "batch_size", "max_steps", "test_seed"])
def test_numbers_that_no_computer_word_holds(write, key, value):
    with pytest.raises(UserError, match=key):
        read(write({"net_dim": 4, key: value}))


# start scripts and texts as programs write them


SH = """#!/bin/bash
base="./models/a b.ckpt"
network_dim=32
lr="1e-4"
EXTRA="--xformers --cache_latents"
ARGS=(--network_args "conv_dim=4" "conv_alpha=2")
OUT="${OUT:-./out}"
if [[ $persistent == 1 ]]; then extArgs+=("--persistent_data_loader_workers"); fi
python -m accelerate.commands.launch --num_cpu_threads_per_process=8 "./sd-scripts/train_network.py" \\
  --pretrained_model_name_or_path="$base" \\
  --network_dim=$network_dim --learning_rate=${lr} $EXTRA "${ARGS[@]}" \\
  --output_dir=$OUT --max_train_epoch=10 ${extArgs[@]} | tee log.txt
"""
BAT = """@echo off
set NETWORK_DIM=32
set "BASE=E:\\models\\a b.ckpt"
accelerate launch --num_cpu_threads_per_process 2 ^
  E:\\sd-scripts\\train_network.py ^
  --pretrained_model_name_or_path="%BASE%" --network_dim=%NETWORK_DIM% ^
  --learning_rate=1e-4
pause
"""
PS1 = """$base = "E:\\models\\a b.ckpt" # where it is
$network_dim = 32
$Env:LR = "1e-4"
$ext_args = [System.Collections.ArrayList]::new()
if ($persistent -eq 1) { [void]$ext_args.Add("--persistent_data_loader_workers") }
python -m accelerate.commands.launch "./train_network.py" `
  --pretrained_model_name_or_path="$base" `
  --network_dim=$network_dim --learning_rate=$env:LR $ext_args
Write-Output "Train finished"
"""


@pytest.mark.parametrize(("name", "text"), [("train.sh", SH), ("train.bat", BAT), ("train.ps1", PS1)])
def test_assignments_of_a_start_script_are_substituted(write, name, text):
    found = read(write(text, name))
    settings = found.settings.values
    assert (settings["adapter.rank"], settings["optimizer.lr"]) == (32, 1e-4)
    assert settings["model.base"].endswith("a b.ckpt")
    assert found.unknown == []
    if name != "train.bat":
        whys = {left.key: left.why for left in found.not_applicable}
        assert "under a condition" in whys["--persistent_data_loader_workers"]
    if name == "train.sh":
        assert (settings["trainer.max_epochs"], settings["adapter.conv_rank"]) == (10, 4)
        assert (settings["output.folder"], settings["data.cache.latents"]) == ("./out", "memory")


def test_variables_that_a_script_does_not_assign_are_named(write):
    text = "N=$(nproc)\npython train_network.py --network_dim=$dim --train_batch_size=$N --seed=1 --clip_skip=2\n"
    path = write(text, "train.sh")
    with pytest.raises(UserError) as caught:
        read(path)
    assert "--network_dim (in train.sh): $dim is not assigned in the script" in str(caught.value)
    assert "$N is computed by the script" in str(caught.value)
    over = ["adapter.rank=8", "data.batch_size=1"]
    assert get(composed(f"settings.load={path}", *over), "adapter.rank") == 8


def test_nothing_of_a_script_is_run(write, tmp_path):
    text = f"X=$(touch {tmp_path}/ran)\n`touch {tmp_path}/ran`\npython train_network.py --network_dim 4 --seed 3\n"
    assert read(write(text, "train.sh")).settings.values["adapter.rank"] == 4
    assert not (tmp_path / "ran").exists()


def test_settings_and_datasets_in_one_file(write):
    path = write(
        "[general]\npretrained_model_name_or_path = '/b.ckpt'\nnetwork_module = 'networks.lora'\nflip_aug = true\n"
        "[training]\nlearning_rate = 1e-4\nnetwork_dim = 16\nresolution = '512,512'\n"
        "[[datasets]]\nresolution = 1024\n[[datasets.subsets]]\nimage_dir = 'x'\nnum_repeats = 10\n"
    )
    found = read(path)
    assert found.unknown == []
    assert found.settings.values["adapter.rank"] == 16
    assert found.settings.values["data.resolution"] == 1024
    assert found.settings.values["data.folders"] == [{"path": "x", "repeats": 10, "augment": {"flip": True}}]
    assert {left.key: left.why for left in found.not_applicable} == {
        "resolution": "overridden by the dataset configuration"
    }


def test_blanks_around_paths_are_cut_with_a_note(write, capsys):
    path = write("network_dim = 4\noutput_dir = ' ../out'\nlogging_dir = ' ../log '\n")
    found = read(path)
    assert found.settings.values["output.folder"] == "../out"
    assert found.settings.values["logger.tensorboard.save_dir"] == "../log"
    with pytest.raises(SystemExit):
        cli.main(["settings", str(path), "--json"])
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert sum("has spaces around the path" in note for note in notes) == 2


def test_cached_text_outputs(write):
    path = write("network_dim = 4\ncache_text_encoder_outputs = true\nnetwork_train_unet_only = true\n")
    assert get(composed(f"settings.load={path}"), "data.cache.text") is True


def test_what_is_printed_is_what_is_composed(write, capsys):
    write({"net_dim": 7, "test_seed": 5}, "first.json")
    path = write({"load_json_path": "first.json", "alpha": 4}, "second.json")
    with pytest.raises(SystemExit):
        cli.main(["settings", str(path)])
    words = shlex.split(capsys.readouterr().out, comments=True)
    tree = compose(words).tree
    assert (get(tree, "adapter.rank"), get(tree, "adapter.alpha"), get(tree, "seed")) == (7, 4.0, 5)
