"""The package as pip installs it, away from its repository: a wheel is built, installed and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loralab.cli import VERBS
from tests import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that only the wheel is installed in."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", source / "dist", source], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    shutil.rmtree(source)
    return site


@pytest.fixture
def command(site: Path, tmp_path: Path):
    """command(*words) runs the installed `loralab` in an empty folder and gives what it printed."""

    def start(*words: str, code: int = 0) -> str:
        given = {**os.environ, "PYTHONPATH": str(site), "LORALAB_CACHE": str(tmp_path / "cache")}
        program = [sys.executable, str(site / "bin" / "loralab"), *words]
        folder = tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(program, capture_output=True, text=True, cwd=folder, env=given, timeout=300)
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said
        return said

    return start


def test_it_trains(command, tmp_path: Path) -> None:
    command("train", "trainer.max_steps=1", "callbacks.samples.enabled=false")
    (file,) = (tmp_path / "empty" / "outputs").rglob("*.safetensors")
    assert "LoRA adapter for" in command("inspect", str(file))


@pytest.mark.parametrize(
    ("folder", "example"),
    [("src/loralab/assets", "tiny_flow/text_encoder/config.json"), ("conf", "model/tiny_flow.yaml")],
)
def test_its_files_are_those_of_the_repository(folder: str, example: str, site: Path) -> None:
    here, there = ROOT / folder, site / "loralab" / Path(folder).name
    files = {file.relative_to(here): file.read_bytes() for file in here.rglob("*") if file.is_file()}
    assert {file.relative_to(there): file.read_bytes() for file in there.rglob("*") if file.is_file()} == files
    assert Path(example) in files


def test_its_options_are_there(command, site: Path) -> None:
    assert "adam8bit" in command("train", "--help")
    said = command("config", "optimizer=adam8bit")
    assert str(ROOT) not in said
    assert "conf/optimizer/adam8bit.yaml" in said
    assert "did you mean 'optimizer.lr'" in command("train", "optimizer.lrr=1", code=1)


@pytest.mark.slow
def test_it_trains_on_several_devices(command, tmp_path: Path) -> None:
    """Each further process is started by the first, with the command line that it had."""
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "callbacks.samples.enabled=false"]
    command("train", *words, "trainer.max_steps=2", "data.batch_size=1")
    assert len(list((tmp_path / "empty" / "outputs").rglob("run.json"))) == 1


def test_the_module_is_the_command(site: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loralab", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert all(verb in done.stdout for verb in VERBS)
