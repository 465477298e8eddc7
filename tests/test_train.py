"""The main job through its own command: what a run leaves behind, determinism, and what it says of mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from loralab import cli
from tests import ROOT
from tests.support.runs import adapter


def test_a_run_leaves_its_files(train) -> None:
    folder = train("callbacks.samples.enabled=true", "callbacks.samples.steps=2", "logger=many")
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", 3)
    assert 3 < record["images"] <= 12  # batches at the end of a bucket are smaller
    assert record["loss"] > 0
    assert record["files"][-1].endswith("adapter.safetensors")
    assert (folder / "config" / "config.yaml").is_file()
    assert (folder / "samples" / "grid.png").is_file()
    assert len(list((folder / "samples").glob("step*.png"))) == 2 * 6
    assert list((folder / "tensorboard").glob("events*"))
    assert "loss" in (folder / "csv" / "metrics.csv").read_text()
    with safe_open(folder / "adapter.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "4"
        assert all(torch.isfinite(file.get_tensor(key)).all() for key in file.keys())  # noqa: SIM118


def test_a_preview_holds_its_settings(train, tmp_path: Path) -> None:
    from PIL import Image

    prompt = "{prompt: a red star, negative: blue, seed: 7, width: 64, height: 32, steps: 2, guidance: 3}"
    lines = tmp_path / "prompts.txt"
    lines.write_text("# two of them\n\na red star --n blue --d 7 --w 64 --h 32 --s 2 --l 3\na star --s 1\n")
    words = ("callbacks.samples.enabled=true", "callbacks.samples.before=false")
    folder = train(*words, f"callbacks.samples.prompts=[{prompt}]")
    image = Image.open(folder / "samples" / "step00000003-00.png")
    assert image.size == (64, 32)
    assert image.text["parameters"] == (
        "a red star\nNegative prompt: blue\nSteps: 2, CFG scale: 3, Seed: 7, Size: 64x32"
    )
    other = train(*words, f"callbacks.samples.prompts={lines}", name="lines") / "samples"
    assert Image.open(other / "step00000003-00.png").text == image.text
    assert Image.open(other / "step00000003-00.png").tobytes() == image.tobytes()
    plain = Image.open(other / "step00000003-01.png").text["parameters"]
    assert plain.startswith("a star\nNegative prompt: \nSteps: 1,")


def test_the_same_settings_give_the_same_bytes(train) -> None:
    dropout = "adapter.dropout=0.3"
    first = adapter(train(dropout, name="a"))
    assert adapter(train(dropout, name="b")) == first
    others = ("data.num_workers=2", "callbacks.samples.enabled=true", "callbacks.samples.steps=1")
    assert adapter(train(dropout, *others, name="c")) == first
    assert adapter(train(name="e")) != first
    assert adapter(train(dropout, "seed=1", name="f")) != first


def test_unet_only_and_text_encoder_only(train) -> None:
    unet = load_file(train("targets=unet_only", name="unet") / "adapter.safetensors")
    text = load_file(train("targets=text_encoder_only", name="text") / "adapter.safetensors")
    assert all(key.startswith("lora_unet_") for key in unet)
    assert all(key.startswith("lora_te_") for key in text)


def test_files_on_the_way_are_named_and_limited(train) -> None:
    folder = train("callbacks.export.every_n_steps=1", "callbacks.export.keep_last=2", "output.name=mine")
    assert sorted(path.name for path in folder.glob("*.safetensors")) == [
        "mine-step00000002.safetensors",
        "mine-step00000003.safetensors",
        "mine.safetensors",
    ]


def test_nothing_is_overwritten(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(f"output.folder={tmp_path / 'out'}", name="first")
    before = (tmp_path / "out" / "adapter.safetensors").read_bytes()
    train(f"output.folder={tmp_path / 'out'}", "seed=1", name="second", code=1)
    assert "output.name" in capsys.readouterr().err
    assert (tmp_path / "out" / "adapter.safetensors").read_bytes() == before


def test_an_empty_folder_is_said(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    train("data=folder", f"data.folder={tmp_path / 'empty'}", code=1)
    said = capsys.readouterr().err
    assert "data.folder" in said
    assert "Traceback" not in said


def test_the_dataset_is_not_written_to(train) -> None:
    from loralab.schema.compose import PACKAGE

    def listing() -> list[tuple[str, int, int]]:
        files = (path for path in (PACKAGE / "assets" / "shapes").rglob("*") if path.is_file())
        return sorted((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)

    before = listing()
    train("data.cache.latents=disk")
    assert listing() == before


def test_a_sweep_is_one_folder_a_point_and_its_runs_are_compared(
    train, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["-m", "optimizer.lr=1e-4,1e-3", "trainer.max_steps=1"]
    train(*words, "data/validation=split", "callbacks.validation.every_n_steps=1")
    records = sorted(tmp_path.glob("multirun/*/*/*/run.json"))
    assert [path.parent.name for path in records] == ["0", "1"]
    assert [json.loads(path.read_text())["overrides"][0] for path in records] == [
        "optimizer.lr=0.0001",
        "optimizer.lr=0.001",
    ]
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", str(tmp_path / "multirun"), "--json", "--html", str(tmp_path / "runs.html")])
    assert end.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    told = {"run", "status", "steps", "seconds", "images_per_second", "peak_memory_gb", "loss", "validation/loss"}
    assert [set(row) - told for row in rows] == [{"optimizer.lr"}] * 2, "nothing else differs"
    assert [row["optimizer.lr"] for row in rows] == [1e-4, 1e-3]
    assert all(row["validation/loss"] > 0 for row in rows)
    assert all(f'"folder":"{row["run"]}"' in (tmp_path / "runs.html").read_text() for row in rows)


def test_ctrl_c_stops_between_steps_with_the_file_saved(random_base: Path, tmp_path: Path) -> None:
    """With default settings. And a warning of a module reaches the user and the log."""
    words = ["trainer.max_steps=100000", f"model.base={random_base}", "callbacks.samples.enabled=false"]
    words += ["model.prediction_type=v_prediction"]
    words += [f"hydra.run.dir={tmp_path / 'run'}", f"data.cache_folder={tmp_path / 'cache'}"]
    command = [sys.executable, str(ROOT / "train.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        log, deadline = tmp_path / "run" / "train.log", time.time() + 120
        while not (log.is_file() and "step 1/" in log.read_text()) and time.time() < deadline:
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        told, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.count("the base model says epsilon") == 1
    assert (tmp_path / "run" / "train.log").read_text().count("the base model says epsilon") == 1
    assert "resume=auto" in told
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert (tmp_path / "run" / f"adapter-step{record['steps']:08d}.safetensors").is_file()
    assert (tmp_path / "run" / "states" / f"step{record['steps']:08d}" / "state.json").is_file()
    assert not (tmp_path / "run" / "adapter.safetensors").exists()


def test_no_cache_changes_a_bit(train, tmp_path: Path) -> None:
    """Latents are the same in whatever batch they were encoded: live, in memory, on a disk that another run filled."""
    words = ("data.augment.flip=true", f"data.cache.folder={tmp_path / 'latents'}", "data.batch_size=4")
    fresh = load_file(train(*words, "data.cache.latents=none", name="none") / "adapter.safetensors")
    train(*words, "data.cache.latents=disk", "data.batch_size=3", name="filling")
    for latents in ("memory", "disk"):
        cached = load_file(train(*words, f"data.cache.latents={latents}", name=latents) / "adapter.safetensors")
        assert cached.keys() == fresh.keys()
        assert all(torch.equal(cached[key], fresh[key]) for key in fresh), latents


def test_a_folder_whose_name_is_no_text(train, tmp_path: Path) -> None:
    images = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"im\xffages"))
    try:
        shutil.copytree(ROOT / "src" / "loralab" / "assets" / "shapes" / "reg" / "1_shape", images)
    except OSError:
        pytest.skip("not a name on this file system")
    folder = train("data=folder", f'data.folder="{images}"', "data.buckets.step=8", "logger=many")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert any(images in override for override in record["overrides"])
