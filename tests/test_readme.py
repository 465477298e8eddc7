"""What README and docs promise: every command runs as written, links lead somewhere, generated pages are up to date."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loralab import cli
from loralab.command import reference
from loralab.command.flags import split
from loralab.command.prepare import prepare
from loralab.command.run_folder import folder_problems, planned
from loralab.errors import UserError
from loralab.schema.compose import PACKAGE
from tests import ROOT
from tests.support.clip_models import write_clip
from tests.support.runs import train_py

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FAMILY_KEYS = {
    "model.safetensors": ["cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"],
    "sdxl.safetensors": [
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
        "conditioner.embedders.1.model.positional_embedding",
    ],
}
PARTS = {
    "z_image.safetensors": "cap_pad_token",
    "qwen_3_4b.safetensors": "model.embed_tokens.weight",
    "ae.safetensors": "decoder.conv_in.weight",
    "anima-base-v1.0.safetensors": "net.llm_adapter.out_proj.weight",
    "qwen_3_06b_base.safetensors": "model.embed_tokens.weight",
    "qwen_image_vae.safetensors": "decoder.conv1.weight",
}
"""Files of one part of a model, and a tensor by which they are known."""
NOT_RUN = re.compile(
    r"git (clone|pull)|cd loralab$|python3 -m venv|source \.venv|(\S*/)?pip install"
    r"|tensorboard --logdir (outputs|multirun/DATE/TIME)$|python -c |make |.* \S*s3://"
)
"""Installation, which .ci/run does for real, servers that do not end, and buckets, which tests/data/sources has."""


def commands(page: Path) -> list[str]:
    """The commands of the page's code blocks, without trailing comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf8"), re.S)
    lines = [re.split(r"\s+#", line)[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not NOT_RUN.match(line)]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
TRAINING = [command for command in COMMANDS if command.startswith("python train.py")]
TOOLS = [command for command in COMMANDS if command.startswith("loralab ")]
BENCHMARKS = [command for command in COMMANDS if command.startswith(("loralab bench ", "python benchmarks/"))]
FULL_SIZE = ("model.base=", "settings.load=", "settings.run_folder=", "trainer=gpu")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name, made by real commands on the embedded model."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(PACKAGE / "assets" / "shapes" / "reg" / "1_shape", folder / "images")
    for name, keys in FAMILY_KEYS.items():
        marks = [*keys, "model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_in.weight"]
        save_file({key: torch.zeros(1) for key in marks}, folder / name)
    for name, key in PARTS.items():
        save_file({key: torch.zeros(1, 16)}, folder / name)
    words = ["trainer.max_steps=1", "adapter.rank=4", "callbacks.samples.enabled=false", "optimizer.lr=1e-4,1e-3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_py("-m", *words)
    for name, adapter in zip("ab", sorted(folder.glob("multirun/**/adapter.safetensors")), strict=True):
        shutil.copy(adapter, folder / f"{name}.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "adapter.safetensors")
    shutil.copytree(PACKAGE / "assets" / "tiny", folder / "model_folder")
    shutil.copytree(folder / "model_folder", folder / "tuned_folder")
    unet = next((folder / "tuned_folder" / "unet").glob("*.safetensors"))
    save_file({key: value * 1.01 for key, value in load_file(unet).items()}, unet, {"format": "pt"})
    old = {"base_model": "model.safetensors", "img_folder": "images", "net_dim": 8, "mixed_precision": "no"}
    write_clip(folder / "clip-vit-large-patch14")
    with pytest.raises(SystemExit):
        cli.main(["shards", str(folder / "images"), str(folder / "shards")])
    (folder / "my_settings").mkdir()
    for name in ("old.json", "old_settings.json", "my_settings/one.json"):
        (folder / name).write_text(json.dumps(old))
    (folder / "config.toml").write_text(
        'pretrained_model_name_or_path = "model.safetensors"\ntrain_data_dir = "images"\nnetwork_dim = 8\n'
    )
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text("utf8"), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link


def test_every_command_is_of_a_known_kind() -> None:
    assert sorted({*COMMANDS} - {*TRAINING} - {*TOOLS} - {*BENCHMARKS}) == []


@pytest.mark.parametrize("command", TRAINING)
def test_training_commands_pass_the_check(command: str, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    flags, overrides = split(shlex.split(command)[2:])
    if "help" in flags:
        return
    if "trainer=gpu" in overrides:
        with pytest.raises(UserError) as error:
            prepare(overrides)
        assert all("GPU" in str(problem) for problem in error.value.problems), error.value
        return
    prepared = prepare(overrides, "multirun" in flags)
    place = planned(prepared.composed, prepared.swept is not None)
    assert place is not None
    assert not list(folder_problems(prepared.composed.tree, place))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("command", [c for c in TRAINING if not any(word in c for word in FULL_SIZE)])
def test_training_commands_run(
    command: str, workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For one step of training and of sampling, in sweeps and a search of two points: that is all that is changed."""
    monkeypatch.chdir(workshop)
    words = [word for word in shlex.split(command)[2:] if not word.startswith("trainer.max_steps=")]
    if "-m" in words:
        first = next(word for word in words if "," in word)
        words = [",".join(word.split(",")[: 2 if word == first else 1]) for word in words]
    words += [] if "--help" in words or "--cfg" in words else ["debug=one_step", "callbacks.samples.steps=1"]
    words += ["hydra.sweeper.n_trials=2"] if "sweep=optuna" in words else []
    train_py(*words)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [command for command in TOOLS if command not in BENCHMARKS])
def test_tool_commands_run(command: str, workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a folder with the same files, so that none needs what another wrote."""
    for file in workshop.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as end:
        cli.main(shlex.split(command)[1:])
    assert not end.value.code


@pytest.mark.slow
@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmark_commands_exist(command: str) -> None:
    program, *words = shlex.split(command)
    start = ["-m", "loralab", *words[:2]] if program == "loralab" else words[:1]
    assert subprocess.run([sys.executable, *start, "--help"], capture_output=True, cwd=ROOT).returncode == 0


@pytest.mark.filterwarnings("ignore:.torch_dtype. is deprecated")  # older versions know no other name
def test_the_diffusers_snippet_runs(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "use-the-file.md").read_text("utf8"), re.S)
    assert snippet
    code = snippet[1].replace("stable-diffusion-v1-5/stable-diffusion-v1-5", "model_folder").replace('.to("cuda")', "")
    code = code.replace("float16", "float32")  # a CPU's
    exec(compile(code.replace('cat")', 'cat", num_inference_steps=1)'), "use-the-file.md", "exec"), {})
    assert (workshop / "cat.png").is_file()


def test_the_list_of_settings_is_up_to_date() -> None:
    assert reference.PAGE.read_text("utf8") == reference.text(), "make docs"


def test_every_setting_is_explained() -> None:
    listed = [line.split(" | ") for line in reference.text().splitlines() if line.startswith("| `")]
    assert len(listed) > 200
    assert [cells[0] for cells in listed if not cells[-1].strip(" |")] == [], "a comment in its YAML of conf/"


def test_the_two_commands_are_one_line_each() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    for marker, ending in (("train", ".venv/bin/python train.py"), ("test", ".venv/bin/python -m pytest")):
        block = re.search(rf"<!-- {marker} command -->\n```bash\n(.*?)\n```", text, re.S)
        assert block
        assert "\n" not in block[1]
        assert block[1].startswith("git clone ")
        assert block[1].endswith(ending)
