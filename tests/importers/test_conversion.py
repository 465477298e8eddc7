"""Settings files of other trainers: what each says becomes settings here, and nothing is lost on the way."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file

from loralab import cli, launch
from loralab.command import many
from loralab.command.prepare import prepare
from loralab.errors import UserError
from loralab.importers import content as contents
from loralab.importers.conversion import read
from loralab.importers.expand import expand
from loralab.importers.save import save
from loralab.schema.catalogue import OPTIONS, PARAMETERS
from loralab.schema.compose import compose
from loralab.schema.tree import get
from loralab.tools import parameters_page as document
from tests import GOLDEN

DEMO = ["model=tiny", "data=shapes"]
"""What a settings file that names no base model and no images needs beside it."""

SETTINGS = GOLDEN / "settings"
FILES = [path for path in sorted(SETTINGS.iterdir()) if ".expected" not in path.name]


@pytest.fixture
def write(tmp_path):
    """Writes a settings file: a table as JSON, a text as it is."""

    def write(content, name=None):
        text = content if isinstance(content, str) else json.dumps(content)
        path = tmp_path / (name or ("settings.json" if isinstance(content, dict) else "settings.toml"))
        path.write_text(text, "utf8")
        return path

    return write


def problem(path, **kwargs):
    with pytest.raises(UserError) as caught:
        read(path, **kwargs)
    return str(caught.value)


def composed(overrides):
    return compose(expand(overrides)[0]).tree


def refused(overrides):
    """What is wrong with a file, beside what the command line says."""
    return "\n".join(map(str, expand(overrides).problems))


def chosen(overrides):
    return compose(expand(overrides)[0]).choices


def left(converted):
    return {entry.key: entry.why for entry in converted.not_applicable}


# whole files


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_whole_file_of_each_dialect(path):
    expected = json.loads((SETTINGS / f"{path.stem}.expected.json").read_text("utf8"))
    found = read(path).as_json()
    assert found["dialect"] == expected["dialect"]
    assert sorted(found["overrides"]) == sorted(expected["overrides"])
    assert sorted(entry["key"] for entry in found["not_applicable"]) == sorted(expected["not_applicable"])
    assert found["unknown"] == expected["unknown"]
    assert all(entry["why"] for entry in found["not_applicable"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_whole_file_composes(path):
    """Every key that a file is turned into is there in conf/."""
    compose(read(path).overrides)


SAYS_NOTHING = {
    "easy.toml": {
        "train_mode",  # as "lora" it is what is trained anyway
        "fa",  # off it is the LoRA of a file that has no such key
    },
}
ONE = {".toml": r"^\s*(\w+) = .*\n", ".txt": r'--(\w+)(?:[ =](?!--|\^)[^\s"]+|(?:[ =]"[^"]*")+)?'}


def without_each(path):
    """Each key of a settings file with the file's text without it."""
    text = path.read_text("utf8")
    if path.suffix == ".json":
        content = json.loads(text)
        yield from ((key, json.dumps({k: v for k, v in content.items() if k != key})) for key in content)
    else:
        found = re.finditer(ONE[path.suffix], text, re.MULTILINE)
        yield from ((match[1], text[: match.start()] + text[match.end() :]) for match in found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_key_of_a_file_is_taken_reported_or_unknown(path, write):
    """Leaving out any one of them changes what is said of the file."""

    def said(path):
        try:
            found = read(path)
        except UserError as error:
            return str(error)
        return found.as_json(), found.taken

    whole, without = said(path), list(without_each(path))
    assert len(without) > 20
    silent = {key for key, text in without if said(write(text, path.name)) == whole}
    assert silent == SAYS_NOTHING.get(path.name, set())


@pytest.mark.parametrize(
    ("was", "now"), [('train_mode = "lora"', 'train_mode = "textual_inversion"'), ("fa = false", "fa = true")]
)
def test_what_says_nothing_as_it_is_is_reported_otherwise(write, was, now):
    plain = (SETTINGS / "easy.toml").read_text("utf8").replace('algo = "loha"\n', "")
    key = was.partition(" ")[0]
    assert key not in left(read(write(plain)))
    assert key in left(read(write(plain.replace(was, now))))


@pytest.mark.parametrize("sections", [True, False])
def test_sd_scripts_configuration_as_json(write, sections):
    """It says what the same content says as TOML; null is no value."""
    table = contents.tomllib.loads((SETTINGS / "sd_scripts.toml").read_text("utf8"))
    if not sections:
        table = {key: value for section in table.values() for key, value in section.items()}
    as_toml, as_json = read(SETTINGS / "sd_scripts.toml"), read(write({**table, "vae": None, "lr_scheduler_power": ""}))
    assert as_json.dialect == as_toml.dialect
    assert as_json.overrides == as_toml.overrides
    assert as_json.unknown == as_toml.unknown
    assert left(as_json).keys() - left(as_toml).keys() <= {"vae", "lr_scheduler_power"}


@pytest.mark.parametrize(
    ("content", "dialect"),
    [
        ({"pretrained_model_name_or_path": "/m", "network_module": "networks.lora"}, "sd-scripts-toml"),
        (
            {"network": {"network_dim": 8}, "training": {"max_train_epochs": 2, "train_data_dir": "/i"}},
            "sd-scripts-toml",
        ),
        (
            {"network_dim": 8, "network_args": ["conv_dim=4"], "datasets": [{"subsets": [{"image_dir": "/i"}]}]},
            "sd-scripts-toml",
        ),
        ({"network_dim": 8, "train_data_dir": "/i", "LoRA_type": "Standard"}, "kohya-gui"),
        ({"network_dim": 8, "train_data_dir": "/i", "max_resolution": "512,512", "epoch": 2}, "kohya-gui"),
        ({"learning_rate": 1e-4, "batch_size": 2}, "old-json"),
    ],
)
def test_dialects_of_json(write, content, dialect):
    assert read(write(content)).dialect == dialect


def test_one_line_tells_what_became_of_a_file():
    line = read(SETTINGS / "sd_scripts.toml").report()
    assert line == "sd_scripts.toml (sd-scripts-toml): 48 settings applied, 6 ignored, 1 unknown: made_up"


# what a value means in its dialect


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # the old scripts hand nothing on that is null, empty, or 0 for "not set"; a seed of 0 is one
        ({"unet_lr": 0}, "targets.unet_lr is absent"),
        ({"unet_lr": "0.0"}, "targets.unet_lr is absent"),
        ({"unet_lr": None}, "targets.unet_lr is absent"),
        ({"unet_lr": "1e-5"}, "targets.unet_lr=1e-05"),
        ({"test_seed": 0}, "seed=0"),
        ({"num_workers": "0", "net_dim": 8}, "data.num_workers=0"),
        ({"clip_skip": None, "net_dim": 8}, "model.clip_skip is absent"),
        ({"max_clip_token_length": None}, "model.max_token_length=75"),
        ({"max_clip_token_length": ""}, "model.max_token_length=75"),
        ({"alpha": 0}, "adapter.alpha=null"),
        ({"net_dim": 4}, "adapter.alpha=null"),
        ({"mixed_precision": True, "net_dim": 4}, "trainer.precision=16-mixed"),
        ({"mixed_precision": False, "net_dim": 4}, "trainer.precision=32-true"),
        ({"mixed_precision": "", "net_dim": 4}, "trainer.precision=32-true"),
        ({"save_precision": None, "net_dim": 4}, "output.precision=fp32"),
        ({"use_8bit_adam": None, "net_dim": 4}, "optimizer=adamw"),
        ({"use_8bit_adam": True, "net_dim": 4}, "optimizer=adam8bit"),
        ({"optimizer_type": "Lion", "use_8bit_adam": False, "net_dim": 4}, "optimizer=lion"),
        ({"train_resolution": "512,768"}, "data.resolution=[512,768]"),
        ({"caption_extension": "caption", "net_dim": 4}, "data.captions.extension=.caption"),
        ({"save_every_n_epochs": 0, "net_dim": 4}, "callbacks.export.every_n_epochs=null"),
        ({"optimizer_type": "AdamW", "optimizer_args": {"eps": "1e-6,1"}, "net_dim": 4}, "optimizer.eps=[1e-06,1]"),
        # in sd-scripts' own files a value is what it is
        ("unet_lr = 0", "targets.unet_lr=0.0"),
        ("vae = ''\nnetwork_dim = 4", "model.vae is absent"),
        ("network_alpha = 0", "adapter.alpha=null"),
        ("noise_offset = 0", "objective/noise is absent"),
        ("max_token_length = 150", "model.max_token_length=150"),
        ("save_precision = 'float'", "output.precision=fp32"),
        ("text_encoder_lr = [1e-5, 2e-5]", "targets.text_encoder_2_lr=2e-05"),
        ("scale_weight_norms = 0.0", "adapter.max_norm is absent"),
        ("use_8bit_adam = true", "optimizer=adamw8bit"),
        # the GUI hands nothing on that is empty, 0 or off
        ({"LoRA_type": "Standard", "unet_lr": 0.0, "text_encoder_lr": "1e-5"}, "targets=text_encoder_only"),
        ({"LoRA_type": "Standard", "unet_lr": 0, "text_encoder_lr": 0}, "targets=both"),
        ({"LoRA_type": "Standard", "caption_extension": ""}, "data.captions.extension=.caption"),
        ({"LoRA_type": "Standard", "prior_loss_weight": 0}, "objective.prior_loss_weight=1.0"),
        ({"LoRA_type": "Standard", "cache_latents": False}, "data.cache.latents=none"),
        ({"LoRA_type": "Standard", "seed": ""}, "seed is absent"),
        ({"LoRA_type": "Standard", "seed": "7"}, "seed=7"),
        ({"LoRA_type": "Standard", "max_data_loader_n_workers": 0}, "data.num_workers=0"),
        ({"LoRA_type": "Standard", "conv_dim": 8}, "adapter.conv_rank is absent"),
        ({"LoRA_type": "Kohya LoCon", "conv_dim": 8, "conv_alpha": 4}, "adapter.conv_rank=8"),
        ({"LoRA_type": "Standard", "noise_offset": 0.1, "noise_offset_type": "Multires"}, "objective/noise is absent"),
        ({"LoRA_type": "Standard", "max_resolution": "512,512"}, "data.resolution=512"),
        ({"LoRA_type": "Standard", "sample_prompts": "a cat --w 64 --l 3", "sample_every_n_epochs": 1},
         "callbacks.samples.prompts=[{prompt: a cat,width: 64,guidance: 3.0}]"),
        # in metadata everything is a text
        ({"ss_network_dim": "8", "ss_noise_offset": "None"}, "objective/noise is absent"),
        ({"ss_network_dim": "8", "ss_shuffle_caption": "False"}, "data.captions.shuffle=false"),
        ({"ss_network_dim": "8", "ss_resolution": "(512, 768)"}, "data.resolution=[512,768]"),
    ],
)  # fmt: skip
def test_values_mean_what_they_mean_in_their_dialect(write, content, expected):
    overrides = [line.replace("'", "") for line in read(write(content)).overrides]
    name, absent, _ = expected.partition(" is absent")
    if absent:
        assert not any(line.startswith(f"{name}=") for line in overrides)
    else:
        assert expected in overrides


@pytest.mark.parametrize(
    ("content", "absent"),
    [
        ({"net_dim": 4}, {"data.resolution": 512, "trainer.precision": "16-mixed", "seed": 23, "optimizer.lr": 1e-4,
                          "model.max_token_length": 150, "data.captions.extension": ".txt", "trainer.max_epochs": 1,
                          "data.cache.latents": "memory", "model.clip_skip": 2}),
        ("network_dim = 4", {"trainer.precision": "32-true", "optimizer.lr": 2e-6, "trainer.max_steps": 1600,
                             "data.captions.extension": ".caption", "data.buckets.enabled": False,
                             "adapter.alpha": 1.0, "output.precision": "fp32", "output.name": "last"}),
        ({"LoRA_type": "Standard"}, {"adapter.rank": 8, "adapter.alpha": 1.0, "optimizer.lr": 1e-4,
                                     "data.resolution": 512, "scheduler.warmup_ratio": 0.1,
                                     "data.buckets.no_upscale": True}),
        ({"ss_network_dim": "4"}, {}),
    ],
)  # fmt: skip
def test_absent_keys_have_the_values_of_their_dialect(write, content, absent):
    found = read(write(content)).settings.values
    assert {key: found.get(key) for key in absent} == absent
    if not absent:
        assert list(found) == ["adapter.rank", "adapter.alpha"]


def test_a_default_gives_way_to_what_the_file_says(write):
    """The old scripts' smallest bucket of 320 would contradict a resolution of 64, their cache a colour jitter."""
    found = read(write({"train_resolution": 64, "color_aug": True})).settings.values
    assert "data.buckets.min_resolution" not in found
    assert found["data.buckets.max_resolution"] == 960
    assert found["data.cache.latents"] == "none"
    assert read(write({"train_resolution": 64, "min_bucket_resolution": 320})).settings.values[
        "data.buckets.min_resolution"
    ] == 320  # fmt: skip


@pytest.mark.parametrize(
    ("content", "steps", "epochs"),
    [
        ({"max_steps": 50, "num_epochs": 3}, 50, None),
        ({"max_steps": None, "num_epochs": 3}, None, 3),
        ({"net_dim": 4}, None, 1),
        ("max_train_steps = 50\nmax_train_epochs = 3", None, 3),
        ("max_train_steps = 50", 50, None),
        ("network_dim = 4", 1600, None),
        ({"LoRA_type": "Standard", "max_train_epochs": "3", "max_train_steps": "50", "epoch": 7}, None, 3),
        ({"LoRA_type": "Standard", "max_train_epochs": "", "max_train_steps": "50", "epoch": 7}, 50, None),
        ({"LoRA_type": "Standard", "max_train_epochs": 0, "max_train_steps": "0", "epoch": "7"}, None, 7),
        ({"ss_max_train_steps": "50", "ss_num_epochs": "3"}, 50, None),
        ("train_network.py --max_train_steps 50 --max_train_epochs=3", None, 3),
    ],
)
def test_steps_or_epochs(write, content, steps, epochs):
    found = read(write(content)).settings.values
    assert (found.get("trainer.max_steps"), found.get("trainer.max_epochs")) == (steps, epochs)


@pytest.mark.parametrize(
    ("content", "steps", "ratio"),
    [
        ({"warmup_lr_ratio": 0.05}, None, 0.05),
        ("lr_warmup_steps = 100", 100, 0.0),
        ("lr_warmup_steps = 0.05", None, 0.05),
        ({"LoRA_type": "Standard", "lr_warmup": "5"}, None, 0.05),
        ({"LoRA_type": "Standard", "lr_warmup": 0}, None, 0.0),
        ({"LoRA_type": "Standard", "lr_warmup": 5, "lr_warmup_steps": 30}, 30, 0.0),
        ({"ss_lr_warmup_steps": "20"}, 20, 0.0),
        ("train_network.py --lr_warmup_steps 100", 100, 0.0),
    ],
)
def test_how_warm_up_is_counted(write, content, steps, ratio):
    found = read(write(content)).settings.values
    assert (found.get("scheduler.warmup_steps"), found["scheduler.warmup_ratio"]) == (steps, ratio)


@pytest.mark.parametrize(
    ("kind", "more", "adapter"),
    [
        ("Standard", {}, "lora"),
        ("Kohya LoCon", {"conv_dim": 4}, "locon"),
        ("LoCon", {}, "locon"),
        ("LyCORIS/LoCon", {"dora_wd": True}, "dora"),
        ("LyCORIS/LoHa", {}, "loha"),
        ("LyCORIS/LoKr", {"factor": 8}, "lokr"),
        ("LyCORIS/iA3", {"train_on_input": True}, "ia3"),
        ("LyCORIS/Diag-OFT", {"constrain": 0.1, "rescaled": True}, "oft"),
        ("LyCORIS/BOFT", {}, "boft"),
        ("LyCORIS/GLoRA", {}, None),
        ("LyCORIS/LoKr", {"dora_wd": True}, "refused"),
        ("Flux1", {}, None),
    ],
)
def test_kinds_of_adapters(write, kind, more, adapter):
    path = write({"LoRA_type": kind, "network_dim": 8, **more})
    found = read(path)
    if adapter not in (None, "refused"):
        assert found.settings.choices["adapter"] == adapter
        return
    assert "adapter=…" in refused([f"settings.load={path}"])
    assert "adapter=lora" in expand([f"settings.load={path}", "adapter=lora"])[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("AdamW", "adamw"),
        ("adamw8bit", "adamw8bit"),
        ("PagedAdamW8bit", "paged_adamw8bit"),
        ("Lion8bit", "lion8bit"),
        ("prodigyopt.Prodigy", "prodigy"),
        ("DAdaptation", "dadapt_adam"),
        ("AdaFactor", "adafactor"),
        ("schedulefree.AdamWScheduleFree", "schedulefree"),
        ("bitsandbytes.optim.AdEMAMix8bit", "ademamix8bit"),
        ("SGDNesterov", "sgd"),
    ],
)
def test_optimizers(write, given, expected):
    path = write(f"optimizer_type = '{given}'\nlearning_rate = 1.0")
    assert read(path).settings.choices["optimizer"] == expected
    compose(read(path).overrides)


def test_an_adaptive_optimizer_has_one_rate(write):
    found = read(write("optimizer_type = 'Prodigy'\nunet_lr = 1.0\ntext_encoder_lr = 0.5\nlearning_rate = 2.0"))
    assert found.settings.values["optimizer.lr"] == 0.5
    assert "targets.unet_lr" not in found.settings.values
    assert any("several learning rates" in warning for warning in found.warnings)


def test_adafactor_finds_its_own_rate_unless_told_otherwise(write):
    found = read(write("optimizer_type = 'Adafactor'\nlr_scheduler = 'cosine'\nlearning_rate = 1e-3\nunet_lr = 1e-3"))
    assert found.settings.values["optimizer.lr"] is None
    assert found.settings.values["optimizer.relative_step"] is True
    assert found.settings.choices["scheduler"] == "constant"
    assert {"lr_scheduler", "unet_lr"} <= set(left(found))
    told = read(write("optimizer_type = 'Adafactor'\noptimizer_args = ['relative_step=False']\nlearning_rate = 1e-3"))
    assert told.settings.values["optimizer.lr"] == 1e-3


@pytest.mark.parametrize("line", ["lr_scheduler = 'warmup_stable_decay'", "lr_scheduler_type = 'CyclicLR'"])
def test_what_is_not_here_is_refused_unless_it_is_replaced(write, line):
    path = write(line)
    assert "scheduler=…" in refused([f"settings.load={path}"])
    assert "scheduler=cosine" in expand([f"settings.load={path}", "scheduler=cosine"])[0]


def test_an_argument_that_the_option_does_not_have_is_reported(write):
    found = read(write("optimizer_type = 'AdamW'\noptimizer_args = ['amsgrad=True', 'weight_decay=0.2']"))
    assert "optimizer=adamw has no amsgrad" in left(found)["optimizer_args"]
    assert found.settings.values["optimizer.weight_decay"] == 0.2


def test_arguments_of_a_schedule_that_is_not_here_are_left_out(write):
    words = '--lr_scheduler_type "CosineAnnealingLR" --lr_scheduler_args "T_max=30" --network_train_unet_only'
    path = write({"LoRA_type": "Standard", "lr_scheduler": "cosine", "additional_parameters": words})
    found = read(path)
    assert "additional_parameters --lr_scheduler_args" in left(found)
    assert found.settings.choices["targets"] == "unet_only"
    assert get(composed([f"settings.load={path}", "scheduler=cosine"]), "scheduler.end_ratio") == 0.0


def test_a_json_of_the_old_scripts_with_names_of_sd_scripts(write):
    """Later versions of them took an optimizer by name; the GUI calls it `optimizer`."""
    found = read(write({"net_dim": 4, "optimizer_type": "Lion", "optimizer_args": {"weight_decay": "0.1"}}))
    assert found.dialect == "old-json"
    assert found.settings.values["optimizer.weight_decay"] == 0.1
    assert read(write({"network_dim": 4, "optimizer": "Lion", "train_data_dir": "/a"})).dialect == "kohya-gui"


def test_blocks_of_the_unet(write):
    content = {
        "LoRA_type": "Standard",
        "network_dim": 4,
        "block_dims": ",".join(["2"] * 25),
        "down_lr_weight": "0,0.5",
        "mid_lr_weight": 0.25,
        "block_lr_zero_threshold": 0.3,
    }
    blocks = read(write(content)).settings.values["targets.blocks"]
    assert blocks["rank"] == [2] * 25
    assert blocks["lr_factor"] == [0.0, 0.5, *[1.0] * 10, 0.0, *[1.0] * 12]
    assert get(composed([f"settings.load={write(content)}"]), "targets.blocks.rank") == [2] * 25


def test_xformers_of_a_file_is_sdpa_where_it_cannot_run(write, monkeypatch):
    monkeypatch.setattr("loralab.importers.rules.model._runs_xformers", lambda: False)
    found = read(write({"xformers": True, "net_dim": 4}))
    assert found.settings.values["model.attention"] == "sdpa"
    assert any("xformers" in warning for warning in found.warnings)
    monkeypatch.setattr("loralab.importers.rules.model._runs_xformers", lambda: True)
    assert read(write({"xformers": True, "net_dim": 4})).settings.values["model.attention"] == "xformers"


def test_a_home_folder_and_a_windows_path(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = write({"base_model": "~/nai.ckpt", "img_folder": "C:\\my images\\a,b'c\\"})
    tree = composed([f"settings.load={path}"])
    assert get(tree, "model.base") == "/home/me/nai.ckpt"
    assert get(tree, "data.folder") == "C:\\my images\\a,b'c\\"


def test_sdxl_is_told_by_its_marks(write):
    assert read(write("cache_text_encoder_outputs = true\nclip_skip = 2")).settings.choices["model"] == "sdxl"
    assert read(write({"LoRA_type": "Standard", "sdxl": True})).settings.choices["model"] == "sdxl"
    assert read(write("sdxl_train_network.py --network_dim 4")).settings.choices["model"] == "sdxl"
    assert read(write("v2 = true\nv_parameterization = true")).settings.choices["model"] == "sd2_v"


# dataset configurations


def test_a_configuration_brings_its_dataset_configuration(write, tmp_path):
    write("[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = '/a'\nnum_repeats = 3", "data.toml")
    found = read(write("dataset_config = 'data.toml'\nnetwork_dim = 4"))
    assert found.settings.values["data.folders"] == [{"path": "/a", "repeats": 3}]
    assert found.settings.values["data.captions.extension"] == ".caption"
    assert found.settings.values["data.resolution"] == 768
    behind = read(write("dataset_config = 'data.toml'\ncaption_extension = '.txt'\nresolution = 512"))
    assert behind.settings.values["data.captions.extension"] == ".txt"  # the configuration stands behind the data's
    assert behind.settings.values["data.resolution"] == 768


def test_the_warm_up_of_tags_may_be_a_share_of_the_steps(write):
    """sd-scripts: below 1 it is multiplied by max_train_steps, and rounded down."""
    text = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = '/a'\ntoken_warmup_step = 0.35"
    alone = read(write(text, "data.toml"))
    assert "share" in left(alone)["datasets.0.subsets.0.token_warmup_step"]
    assert alone.settings.values["data.folders"][0]["captions"] == {"extension": ".caption"}
    found = read(write("dataset_config = 'data.toml'\nmax_train_steps = 10\ntoken_warmup_step = 0.5"))
    assert found.settings.values["data.folders"][0]["captions"] == {"token_warmup_steps": 3}
    assert found.settings.values["data.captions.token_warmup_steps"] == 5


def test_limits_of_buckets_that_a_dataset_configuration_does_not_give(write):
    text = "[[datasets]]\nenable_bucket = true\nresolution = {}\n[[datasets.subsets]]\nimage_dir = '/a'"
    keys = ("data.buckets.min_resolution", "data.buckets.max_resolution")
    for size, limits in ((512, (256, 1024)), (128, (None, 1024)), ([2048, 2048], (256, None))):
        values = read(write(text.format(size))).settings.values
        assert tuple(values.get(key) for key in keys) == limits
    assert "dataset_config" in problem(write("dataset_config = 'nowhere.toml'"))


def test_what_is_said_of_a_part_of_the_data_is_told(write):
    first = "[[datasets]]\nenable_bucket = true\nbatch_size = 4\n[[datasets.subsets]]\nimage_dir = '/a'\n"
    found = read(write(f"{first}[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = '/b'\n"))
    assert "only one value is supported for all data" in left(found)["datasets.1.batch_size"]
    assert "sets enable_bucket for a part of the data: here it applies to all of it" in found.warnings
    assert found.taken == 4
    assert found.origins["data.folders"] == "datasets in settings.toml"


def test_the_same_folders_at_several_resolutions(write):
    subset = "[[datasets.subsets]]\nimage_dir = '/a'\n"
    found = read(write(f"[[datasets]]\nresolution = 512\n{subset}[[datasets]]\nresolution = [768, 512]\n{subset}"))
    assert found.settings.values["data.resolution"] == [[512, 512], [768, 512]]
    assert len(found.settings.values["data.folders"]) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[datasets]]\nresolution = 512", "datasets"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2", "datasets.0.subsets.0.image_dir"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = '/a'\nnum_repeats = 'x'", "datasets.0.subsets.0.num_repeats"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = '/a'\nFlip_Aug = true", "flip_aug"),
    ],
)
def test_bad_dataset_configurations(write, text, named):
    assert named in problem(write(text))


# LoRA files


def lora(path, metadata, *names):
    save_file({name: torch.zeros(2) for name in names}, path, metadata)
    return path


def test_the_metadata_of_a_lora_file(tmp_path):
    metadata = {"ss_network_dim": "8", "ss_network_alpha": "4", "ss_learning_rate": "0.0001", "ss_epoch": "3"}
    path = lora(tmp_path / "a.safetensors", metadata, "lora_unet_x.lora_down.weight", "lora_unet_x.alpha")
    found = read(path)
    assert found.dialect == "lora-metadata"
    assert found.settings.values["adapter.rank"] == 8
    assert found.settings.choices["targets"] == "unet_only"
    assert "a result of that run" in left(found)["ss_epoch"]


@pytest.mark.parametrize(
    ("version", "prediction", "model"),
    [("sd_v1", "epsilon", "sd15"), ("sd_v2", "v", "sd2_v"), ("sdxl_base_v1-0", "epsilon", "sdxl"), ("", "", None)],
)
def test_the_metadata_names_the_family(write, version, prediction, model):
    path = write({
        "ss_network_dim": "8", "ss_base_model_version": version, "modelspec.prediction_type": prediction
    })  # fmt: skip
    assert read(path).settings.choices.get("model") == model
    other = write({"ss_network_dim": "8", "ss_base_model_version": "flux1"}, "flux.json")
    assert "model=…" in refused([f"settings.load={other}"])


def test_a_lora_file_without_metadata_or_cut_short(tmp_path):
    path = lora(tmp_path / "a.safetensors", {"format": "pt"}, "lora_unet_x.alpha")
    assert "contains no training metadata" in problem(path)
    path.write_bytes(path.read_bytes()[:40])
    assert "cut short" in problem(path)


def test_only_the_header_of_a_large_file_is_read(tmp_path):
    path = lora(tmp_path / "a.safetensors", {"ss_network_dim": "8"}, "lora_unet_x.alpha")
    with open(path, "r+b") as file:
        file.truncate(30 << 30)  # sparse: 30 GB that are not there
    assert read(path).settings.values["adapter.rank"] == 8


# bad files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"net_dim": 8}]', ["is a JSON list"]),
        ('{"net_dim": 8', ["is not valid JSON"]),
        ("just words", ["is not valid TOML"]),
        ("", ["is empty"]),
        ("{}", ["contains no known setting"]),
        ('{"net_dimm": 8}', ["did you mean net_dim instead of net_dimm?"]),
        ('{"net_dim": 8, "net_dim": 9}', ["net_dim", "defined twice"]),
        ("network_dim = 8\nnetwork_dim = 9", ["network_dim = 9"]),
        ("[a]\nnetwork_dim = 8\n[b]\nnetwork_dim = 9", ["network_dim", "defined twice"]),
        ('{"net_dim": 8, "network_dim": 9}', ["network_dim", "means the same as net_dim"]),
        ('{"Net_Dim": 8}', ["Net_Dim", "wrong capitalisation", "net_dim"]),
        ('{"net_dim": 8, "_target_": "os.system"}', ["_target_", "would build an object"]),
        ('{"net_dim": 8, "optimizer_args": {"_target_": "os.system"}, "optimizer_type": "AdamW"}', ["optimizer_args"]),
        ('{"net_dim": 8, "training_comment": "${oc.env:HOME}"}', ["training_comment", "${"]),
        ('{"net_dim": 8, "loralab": {"values": {"optimizer._target_": "os.system"}}}', ["optimizer._target_"]),
        ('{"net_dim": 8, "loralab": {"choices": {"hydra/launcher": "x"}}}', ["hydra/launcher"]),
        ('{"net_dim": "eight"}', ["net_dim", "eight", "a whole number"]),
        ('{"net_dim": 8.5}', ["net_dim", "8.5", "a whole number"]),
        ('{"buckets": "maybe"}', ["buckets", "true or false"]),
        ('{"mixed_precision": "fp8", "net_dim": 8}', ["mixed_precision", "no | fp16 | bf16"]),
        ('{"unet_only": true, "text_only": true}', ["unet_only", "cannot be combined with text_only"]),
        ('{"LoRA_type": "MyOwn", "network_dim": 8}', ["LoRA_type", "LyCORIS/LoHa"]),
    ],
)
def test_bad_files_are_errors_that_name_what_is_wrong(tmp_path, content, words):
    path = tmp_path / "settings.json"
    path.write_text(content, "utf8")
    message = problem(path)
    assert all(word in message for word in words), message


def test_the_home_of_nobody(write):
    for path in ("~0", "~nobody-here/a.json"):
        assert "not found" in problem(path)
        assert "not found" in problem(write({"net_dim": 4, "load_json_path": path}))
        with pytest.raises(UserError, match="not found"):
            many.settings_files(many.run_folder([f"settings.run_folder='{path}'"]))


def test_files_that_are_no_settings(tmp_path):
    assert "not found" in problem(tmp_path / "nowhere.json")
    assert "is a folder" in problem(tmp_path)
    big = tmp_path / "big.json"
    with open(big, "wb") as file:
        file.write(b'{"net_dim": 8, "x": "')
        file.truncate(100_000_000)
    assert "is 100 MB, too large" in problem(big)
    (tmp_path / "latin.json").write_bytes(b'{"change_output_name": "\xe9t\xe9"}')
    assert "UTF-8" in problem(tmp_path / "latin.json")
    (tmp_path / "bom.json").write_text('{"net_dim": 8}', "utf-8-sig")
    assert read(tmp_path / "bom.json").settings.values["adapter.rank"] == 8
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    assert "pickle" in problem(tmp_path / "a.pt")


# settings.load and settings.skip


def test_conf_gives_way_to_the_file_and_the_file_to_the_command_line(write):
    path = write({"net_dim": 7, "alpha": 3})
    assert get(composed([]), "adapter.rank") == 16
    tree = composed([f"settings.load={path}", "adapter.alpha=5"])
    assert (get(tree, "adapter.rank"), get(tree, "adapter.alpha")) == (7, 5)
    assert get(tree, "settings.load") == str(path)


def test_a_mistake_in_a_file_is_told_by_the_files_key(write):
    path = write({"net_dim": 0, "img_folder": "/nowhere", "optimizer_args": {"eps": "x"}, "mixed_precision": "no"})
    with pytest.raises(UserError) as caught:
        prepare([f"settings.load={path}", "adapter.alpha=-1"])
    told = str(caught.value)
    assert "adapter.rank: invalid value 0 (net_dim in settings.json)" in told
    assert "data.folder: '/nowhere' was not found (img_folder in settings.json)" in told
    assert "adapter.alpha: invalid value -1 (given as adapter.alpha=-1)" in told


def test_where_the_values_of_a_file_come_from(write, capsys):
    path = write({"net_dim": 4, "mixed_precision": "no"})
    with pytest.raises(SystemExit):
        cli.main(["config", f"settings.load={path}", "adapter.alpha=2", *DEMO])
    told = capsys.readouterr().out.splitlines()
    assert "adapter.rank: 4  # (net_dim in settings.json)" in told
    assert "adapter.alpha: 2  # (given as adapter.alpha=2)" in told
    assert "model.clip_skip: 2  # (default of old-json, not set in settings.json)" in told
    assert "adapter.dropout: 0.0  # (in conf/adapter/lora.yaml)" in told


def test_a_key_of_an_option_that_the_file_chooses(write):
    path = write({"net_dim": 4, "optimizer_type": "Prodigy", "mixed_precision": "no"})
    assert "optimizer.d_coef=2" in prepare([f"settings.load={path}", "optimizer.d_coef=2", *DEMO]).overrides


def test_the_same_option_on_the_command_line_keeps_the_files_values(write):
    """A preset names no images: `data=folder data.folder=PATH` says which, and takes nothing away."""
    preset = write({"train_resolution": 768, "shuffle_captions": True, "mixed_precision": "no"})
    overrides, told, *_ = expand([f"settings.load={preset}", "data=folder", "data.folder=/x"])
    assert overrides.count("data=folder") == 1
    assert {"data.resolution=768", "data.captions.shuffle=true"} <= set(overrides)
    assert not any("replaces" in line for line in told)
    full = write({"img_folder": "/old", "train_resolution": 768, "mixed_precision": "no"})
    overrides, told, *_ = expand([f"settings.load={full}", "data=folder", "data.folder=/x"])
    assert [o for o in overrides if o.startswith("data.folder=")] == ["data.folder=/x"]
    assert "data.resolution=768" in overrides


def test_a_group_on_the_command_line_replaces_the_files(write):
    path = write("optimizer_type = 'AdamW'\noptimizer_args = ['betas=0.8,0.9']\nlearning_rate = 1e-3")
    overrides, told, *_ = expand([f"settings.load={path}", "optimizer=sgd"])
    assert [line for line in overrides if line.startswith("optimizer")] == ["optimizer.lr=0.001", "optimizer=sgd"]
    assert "optimizer=sgd replaces the file's optimizer=adamw" in told
    assert any("optimizer_args" in line and "arguments of AdamW, overridden by optimizer=sgd" in line for line in told)
    assert chosen([f"settings.load={path}", "optimizer=sgd"])["optimizer"] == "sgd"


def test_what_hydra_shows_is_what_holds(write, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    path = write({"net_dim": 7, "alpha": 3, "mixed_precision": "no"})
    with pytest.raises(SystemExit) as stop:
        launch.main(["--cfg", "job", f"settings.load={path}", "adapter.alpha=5", *DEMO])
    tree = OmegaConf.create(capsys.readouterr().out)
    assert not stop.value.code
    assert (tree.adapter.rank, tree.adapter.alpha, tree.settings.load) == (7, 5, str(path))


def test_the_composed_configuration_as_json(write, capsys):
    path = write({"net_dim": 7, "mixed_precision": "no"})
    with pytest.raises(SystemExit):
        cli.main(["config", "--json", f"settings.load={path}", "adapter.alpha=5", *DEMO])
    shown = json.loads(capsys.readouterr().out)
    before = composed([f"settings.load={path}", "adapter.alpha=5", *DEMO])
    assert shown == json.loads(json.dumps(before))


def test_a_group_inside_of_a_group(write):
    path = write("loss_type = 'huber'\nhuber_c = 0.3\nmin_snr_gamma = 5")
    tree = composed([f"settings.load={path}", "objective/loss=l1"])
    assert get(tree, "objective.loss._target_").endswith("L1")
    assert get(tree, "objective.weighting.min_snr.gamma") == 5.0
    assert get(composed([f"settings.load={path}", "objective=default", "data=folder"]), "objective.weighting") == {}


@pytest.mark.parametrize(
    ("content", "override", "cleared"),
    [
        ({"max_steps": 50}, "trainer.max_epochs=3", "trainer.max_steps=50"),
        ("lr_warmup_steps = 100", "scheduler.warmup_ratio=0.1", "scheduler.warmup_steps=100"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = '/a'", "data.folder=/b", "data.folders="),
    ],
)
def test_saying_a_thing_one_way_takes_the_other_back(write, content, override, cleared):
    path = write(content)
    assert any(line.startswith(cleared) for line in read(path).overrides)
    overrides = expand([f"settings.load={path}", override]).overrides
    assert not any(line.startswith(cleared) for line in overrides)


def test_a_recipe_on_the_command_line_comes_before_the_file(write):
    path = write({"net_dim": 7, "test_seed": 5})
    tree = composed([f"settings.load={path}", "experiment=style"])
    assert (get(tree, "adapter.rank"), get(tree, "seed")) == (32, 5)


def test_skipped_names_are_not_taken(write):
    path = write({"net_dim": 7, "alpha": 3, "train_resolution": 768})
    found = read(path, ["net_dim", "train_resolution", "nothing_like_it"])
    assert "adapter.rank" not in found.settings.values
    assert "data.resolution" not in found.settings.values
    assert found.settings.values["adapter.alpha"] == 3
    assert found.warnings.count("does not contain 'nothing_like_it', which settings.skip names") == 1
    assert get(composed([f"settings.load={path}", "settings.skip=[net_dim]"]), "adapter.rank") == 16


def test_a_file_may_start_from_another(write):
    first = write({"net_dim": 7, "alpha": 3, "test_seed": 5}, "first.json")
    second = write({"load_json_path": str(first), "alpha": 4}, "second.json")
    tree = composed([f"settings.load={second}"])
    assert [get(tree, key) for key in ("adapter.rank", "adapter.alpha", "seed")] == [7, 4, 5]
    loop = write({"load_json_path": str(second)}, "first.json")
    with pytest.raises(UserError, match="starts from itself"):
        expand([f"settings.load={loop}"])


@pytest.mark.parametrize("override", ["settings.load=a.json,b.json", "settings.load=[a]", "settings.load=3"])
def test_one_file_is_loaded(override):
    with pytest.raises(UserError, match=r"settings\.load"):
        expand([override])


# saving


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=sdxl", "data=folder", "data.folder=/tmp", "data.folders=[{path: /x, captions: {shuffle: true}}]"],
        ["experiment=character", "optimizer=prodigy", "scheduler=polynomial", "trainer.max_steps=null"],
        ["objective/noise=[offset,multires]", "objective/weighting=min_snr", "objective/loss=huber", "adapter=lokr"],
        ["targets.blocks={rank: [1,2]}", "targets.patterns=[{match: attn2, rank: 4}]", "output.comment='a, \\'b\\''"],
        ["model=sd2_v", "optimizer=adam8bit", "targets=unet_only", "callbacks.samples.prompts=['a, b',{prompt: c}]"],
    ],
)
def test_saved_settings_load_as_the_identical_configuration(tmp_path, overrides):
    made = compose(overrides)
    before = made.tree
    path = save(before, made.choices, tmp_path / "new")
    after = composed([f"settings.load={path}"])
    del before["settings"], after["settings"]
    assert after == before
    assert set(json.loads(path.read_text("utf8"))) == {*(option.old for option in PARAMETERS), "loralab"}


def test_old_names_in_saved_settings_can_be_edited(tmp_path):
    made = compose(["adapter.rank=4", "trainer.max_steps=10"])
    path = save(made.tree, made.choices, tmp_path)
    edited = {"net_dim": 6, "max_steps": None, "num_epochs": 2, "scheduler": "linear"}
    path.write_text(json.dumps({**json.loads(path.read_text("utf8")), **edited}), "utf8")
    tree = composed([f"settings.load={path}"])
    assert (get(tree, "adapter.rank"), get(tree, "trainer.max_steps"), get(tree, "trainer.max_epochs")) == (6, None, 2)
    assert chosen([f"settings.load={path}"])["scheduler"] == "linear"


def test_saving_overwrites_nothing(tmp_path):
    made = compose([])
    first, second = (save(made.tree, made.choices, tmp_path) for _ in range(2))
    assert first != second
    assert first.read_text("utf8") == second.read_text("utf8")


# many runs


@pytest.fixture
def ten(tmp_path, monkeypatch):
    """A folder of ten settings files, the fourth of which is broken."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "settings"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.json").write_text('{"net_dim"' if number == 3 else f'{{"net_dim": {number + 1}}}')
    (folder / ".hidden.json").write_text("{}")
    (folder / "notes.md").write_text("not a settings file")
    return folder


def started(words):
    """What a start of the trainer comes to, as far as its settings go."""
    runs.append(next(word for word in words if word.startswith("settings.load=")).strip("'")[-6])
    try:
        overrides = expand([word for word in words if not word.startswith("-")]).overrides
        folder = next(word for word in overrides if word.startswith("hydra.run.dir")).partition("=")[2].strip("'")
        (Path(folder) / "rank").write_text(next(word for word in overrides if word.startswith("adapter.rank")))
    except UserError:
        return 1
    return 0


runs = []


def test_a_folder_of_files_with_a_broken_one(ten, capsys):
    runs.clear()
    assert many.run(ten, ["trainer.max_steps=1", f"settings.run_folder={ten}"], [], started) == 1
    assert runs == list("0123456789")
    root = ten.parent / "multirun" / "settings"
    assert (root / "run1" / "rank").read_text() == "adapter.rank=1"
    assert (root / "run10" / "rank").read_text() == "adapter.rank=10"
    assert "3.json: failed (run4)" in capsys.readouterr().err

    runs.clear()
    assert many.run(ten, ["trainer.max_steps=1"], [], started) == 1
    assert runs == ["3"], "only the broken one is tried again"
    assert (root / "run11").is_dir(), "in a folder of its own"

    runs.clear()
    (ten / "3.json").write_text('{"net_dim": 4}')
    assert many.run(ten, ["trainer.max_steps=1"], [], started) == 0
    assert runs == ["3"]
    assert many.run(ten, ["trainer.max_steps=1"], [], started) == 0
    assert runs == ["3"]


@pytest.mark.slow
def test_nine_of_ten_are_trained(ten, random_base, monkeypatch, capsys):
    """By the command itself: nine adapters, each of its own rank, one reported; then only that one is tried."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("LORALAB_CACHE", str(ten.parent / "cache"))
    tried = []

    def in_this_process(words):
        tried.append(next(word for word in words if word.startswith("settings.load=")).strip("'")[-6])
        with pytest.raises(SystemExit) as stop:
            launch.main(words)
        return int(stop.value.code or 0)

    monkeypatch.setattr(many, "start_process", in_this_process)
    command = [f"settings.run_folder={ten}", f"model.base={random_base}", "trainer.max_steps=1", "ema.decay=0.0"]
    command += ["data=shapes", "data.cache.latents=none", "trainer.precision=32-true", "model.clip_skip=1"]
    root = ten.parent / "multirun" / "settings"
    for again in (False, True):
        with pytest.raises(SystemExit) as stop:
            launch.main([*command, "callbacks.samples.enabled=false", "callbacks.progress.enabled=false"])
        assert stop.value.code == 1
        assert tried == (["3"] if again else list("0123456789"))
        said = capsys.readouterr().err
        assert f"3.json: failed (run{11 if again else 4})" in said
        assert said.count(": finished") == 9, said
        tried.clear()
        written = {path.parent.name: path.read_bytes() for path in root.glob("*/last.safetensors")}
        assert set(written) == {f"run{number + 1}" for number in range(10) if number != 3}
    for name in written:
        with safe_open(root / name / "last.safetensors", "pt") as file:
            assert file.metadata()["ss_network_dim"] == name.removeprefix("run")


def test_a_changed_file_is_trained_again_and_nothing_is_overwritten(ten):
    runs.clear()
    many.run(ten, [], [], started)
    (ten / "5.json").write_text('{"net_dim": 77}')
    many.run(ten, [], [], started)
    assert runs == [*"0123456789", "3", "5"]
    root = ten.parent / "multirun" / "settings"
    assert (root / "run6" / "rank").read_text() == "adapter.rank=6"
    assert (root / "run12" / "rank").read_text() == "adapter.rank=77"


def test_two_folders_of_one_name_do_not_mix(ten, tmp_path):
    other = tmp_path / "elsewhere" / "settings"
    other.mkdir(parents=True)
    (other / "a.json").write_text('{"net_dim": 5}')
    many.run(ten, [], [], started)
    many.run(other, [], [], started)
    assert (tmp_path / "multirun" / "settings-2" / "run1" / "rank").read_text() == "adapter.rank=5"


def test_what_is_no_settings_file_by_itself_is_passed_over(ten, capsys):
    """A dataset configuration, with a mistake or without; a file that names it, or has it in itself, is a run."""
    runs.clear()
    for path in ten.iterdir():
        path.unlink()
    dataset = (SETTINGS / "dataset.toml").read_text("utf8")
    (ten / "data1.toml").write_text(dataset)
    (ten / "data2.toml").write_text('[general]\nresolution = "x"\n[[datasets]]\n')
    (ten / "data3.json").write_text(json.dumps({"datasets": [{"subsets": [{"image_dir": "/i"}]}]}))
    (ten / "prompts.toml").write_text((GOLDEN / "prompts" / "prompts.toml").read_text())
    (ten / "namesit.toml").write_text('network_dim = 4\ndataset_config = "data1.toml"')
    (ten / "hasit.toml").write_text(f"network_dim = 4\n{dataset}")
    assert many.run(ten, [], [], started) == 0
    assert len(runs) == 2
    said = capsys.readouterr().err
    assert said.count(": finished") == 2
    for name in ("data1.toml", "data2.toml", "data3.json"):
        assert f"skipped: {name} is a dataset configuration" in said
    assert "skipped: prompts.toml contains no known setting" in said


def test_the_folder_of_many_runs_must_have_some(tmp_path):
    with pytest.raises(UserError, match=r"settings\.run_folder"):
        many.run(tmp_path / "nowhere", [], [], started)
    with pytest.raises(UserError, match="no settings files"):
        many.run(tmp_path, [], [], started)


# loralab settings


def test_the_verb_prints_overrides_to_paste(write, capsys):
    content = {"net_dim": 8, "training_comment": "it's, {odd}", "cosine_restarts": 3, "scheduler": "linear"}
    path = write({**content, "nonsense": 1})
    with pytest.raises(SystemExit) as done:
        cli.main(["settings", str(path)])
    printed = capsys.readouterr().out
    assert done.value.code == 0
    words = shlex.split(printed, comments=True)
    assert words == read(path).overrides
    assert get(composed(words), "output.comment") == "it's, {odd}"
    assert "# cosine_restarts = 3: has no effect: only scheduler=cosine_with_restarts has it" in printed.splitlines()
    assert "unknown: nonsense" in printed


def test_the_verb_prints_json(write, capsys):
    path = write({"net_dim": 8, "cosine_restarts": 3, "scheduler": "linear", "x": 1})
    with pytest.raises(SystemExit):
        cli.main(["settings", str(path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["dialect", "overrides", "not_applicable", "unknown", "notes"]
    assert found["dialect"] == "old-json"
    assert "adapter.rank=8" in found["overrides"]
    why = "has no effect: only scheduler=cosine_with_restarts has it"
    assert {"key": "cosine_restarts", "value": 3, "why": why} in found["not_applicable"]
    assert found["unknown"] == ["x"]


def test_the_verb_says_what_is_wrong(write, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["settings", str(write('{"net_dim": "x"}', "settings.json"))])
    assert done.value.code == 1
    assert "net_dim" in capsys.readouterr().err


# the table


def test_the_table_has_the_65_parameters():
    assert sorted(option.number for option in PARAMETERS) == list(range(1, 66))
    assert all(option.key and option.old and option.section and option.what for option in PARAMETERS)


def test_the_page_of_parameters_is_the_table():
    assert document.PAGE.read_text("utf8") == document.text(), "make docs"


def test_every_key_of_the_table_is_there():
    tree = compose(["scheduler=polynomial"]).tree, compose(["scheduler=cosine_with_restarts"]).tree
    for option in PARAMETERS:
        if "=" not in option.key:
            parent, _, leaf = option.key.rpartition(".")
            assert any(leaf in (get(t, parent) if parent else t) for t in tree), option.key
        else:
            group, _, choice = option.key.partition("=")
            compose([f"{group}={'linear' if choice == '…' else choice}"])


CANDIDATES = (True, False, 2, 3, 0.5, "no", "bf16", "ckpt", "linear", "/x", "l1", "AdamW", "networks.loha", "a=1")
CANDIDATES += ("wandb", "snr", "flash")
GUI = {"LoRA_type": "Standard", "noise_offset": 0.1}
ANCHORS = {
    "epoch": GUI,
    "lr_warmup": GUI,
    "noise_offset_type": GUI,
    "network_dim": {"train_resolution": 512},
    "sdpa": {"xformers": False},
}
"""Files in which an option stands alone: the old scripts' names but for these."""


def outcome(path):
    """What a file becomes, or None where it is refused."""
    try:
        found = read(path)
    except UserError:
        return None
    return found.overrides, found.warnings, left(found), found.unknown


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.key])
def test_every_option_makes_a_difference_or_is_reported(write, name):
    """With some value that fits: nothing is dropped in silence."""
    if name in ("dataset_config", "load_json_path"):
        pytest.skip("names a file")
    if name == "dit":
        pytest.skip("makes a file one of musubi-tuner's: see test_musubi.py")
    anchor = ANCHORS.get(name, {"net_dim": 4})
    table, _, argument = name.partition(".")
    given = [{**anchor, table: {argument: value} if argument else value} for value in CANDIDATES]
    found = [one for content in given if (one := outcome(write(content)))]
    assert found, "none of the values fits"
    assert any(one != outcome(write(anchor)) for one in found)


def test_settings_are_read_without_anything_heavy():
    code = "import sys, loralab.importers.expand, loralab.importers.save, loralab.command.many\n"
    code += "print([m for m in ('torch', 'hydra', 'omegaconf', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
