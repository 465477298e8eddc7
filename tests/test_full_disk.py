"""What becomes of a run or a tool where files cannot be written: a message, and nothing lost or half written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from loralab import cli
from tests import ROOT

USUAL = ("trainer.max_steps=4", "adapter.rank=4", "callbacks.samples.enabled=false", "data.cache.latents=none")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, room: int = 0) -> None:
    """Leaves so many bytes."""
    free = shutil.disk_usage(folder).free - room
    (folder / "filler").write_bytes(b"x" * max(0, free))


def command(*words: str, where: Path, code: int = 1, **environment: str) -> str:
    """What `train.py` or a tool says."""
    program = [str(ROOT / "train.py")] if "=" in words[0] else ["-m", "loralab.cli"]
    given = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environment}
    done = subprocess.run(
        [sys.executable, *program, *words], cwd=where, env=given, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said, said
    return said


def left(folder: Path) -> list[str]:
    """What no writer should leave behind."""
    return [path.name for path in folder.rglob("*") if path.name.endswith((".part", ".old"))]


def test_a_disk_that_fills_while_training(random_base: Path, small_disk: Path, tmp_path: Path) -> None:
    """The last file and the state are in the temporary folder, and the message says where."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run = small_disk / "run"
    said = command(
        *USUAL,
        f"model.base={random_base}",
        f"data.cache_folder={tmp_path / 'cache'}",
        f"hydra.run.dir={run}",
        "callbacks.state.enabled=true",
        "callbacks.export.every_n_steps=2",
        "+callbacks.fill._target_=tests.support.callbacks.FillDisk",
        f"+callbacks.fill.folder={small_disk}",
        "allow=[tests.]",
        where=tmp_path,
        TMPDIR=str(temporary),
    )
    places = re.findall(r"written to (\S+) instead", said)
    files = [Path(place) for place in places if place.endswith(".safetensors")]
    assert [file.name for file in files] == [f"adapter{s}.safetensors" for s in ("-step00000002", "-step00000004", "")]
    assert all(load_file(file) for file in files)
    states = [Path(place) for place in places if "step" in Path(place).name and Path(place).is_dir()]
    assert [state.name for state in states] == ["step00000002", "step00000004"]
    assert "the disk is full" in said
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished with errors"
    assert not left(small_disk)
    assert not left(temporary)


@pytest.fixture(scope="module")
def adapters(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRAs for the random base, of 300 kB each."""
    folder = tmp_path_factory.mktemp("adapters")
    names = ("to_q", "to_k", "to_v", "to_out.0")
    block = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_"
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = {}
        for name in names:
            module = block + name.replace(".", "_")
            state[f"{module}.lora_down.weight"] = torch.randn(512, 16)
            state[f"{module}.lora_up.weight"] = torch.randn(16, 512)
            state[f"{module}.alpha"] = torch.tensor(512.0)
        paths.append(folder / f"{seed}.safetensors")
        save_file(state, paths[-1])
    return paths


def tool(capsys: pytest.CaptureFixture, *words: object, code: int = 1) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    said = "".join(capsys.readouterr())
    assert stop.value.code == code, said
    return said


def test_tools_on_a_full_disk(
    random_base: Path, small_disk: Path, adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """One message, and neither a half-written file nor a change to what was there."""
    first, second = adapters
    tuned, single = tmp_path / "tuned", tmp_path / "single.safetensors"
    tool(capsys, "merge", first, "--base", random_base, "-o", tuned, code=0)
    (small_disk / "there.safetensors").write_bytes(b"old")
    fill(small_disk, room=4096)
    before = sorted(small_disk.iterdir())
    output = ("-o", small_disk / "new.safetensors")
    for words in (
        ("merge", first, second, *output),
        ("merge", first, "--base", random_base, "-o", small_disk / "merged"),
        ("convert", first, *output),
        ("convert", first, "-o", small_disk / "new.pt"),
        ("convert", first, "-o", small_disk / "there.safetensors", "--overwrite"),
        ("resize", first, "--rank", "16", *output),
        ("extract", random_base, tuned, "--rank", "16", *output),
    ):
        said = tool(capsys, *words)
        assert "--output: " in said, words
        assert "the disk is full" in said, words
        assert sorted(small_disk.iterdir()) == before, words
    assert (small_disk / "there.safetensors").read_bytes() == b"old"
    assert not single.exists()


def test_pages_and_settings_on_a_full_disk(small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"status": "finished"}')
    fill(small_disk)
    assert "--html: " in tool(capsys, "compare", run, "--html", small_disk / "page.html")
    page = small_disk / "page.html"
    cache = tmp_path / "cache"
    assert "--html: " in tool(capsys, "doctor", "data=shapes", f"data.cache_folder={cache}", "--html", page)
    said = tool(capsys, "doctor", "data=shapes", f"data.cache_folder={small_disk / 'cache'}")
    assert "data.cache_folder" in said
    said = command(f"settings.save_folder={small_disk}", "settings.save_only=true", where=tmp_path)
    assert "settings.save_folder: " in said
    assert "the disk is full" in said
    assert [path.name for path in small_disk.iterdir() if not path.is_dir()] == ["filler"]
    assert not left(small_disk)


def test_a_run_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """It is refused before a model is loaded, wherever what is full is."""
    fill(small_disk)
    cache = f"data.cache_folder={tmp_path / 'cache'}"
    said = command(*USUAL, cache, f"hydra.run.dir={small_disk / 'run'}", where=tmp_path)
    assert "the disk is full" in said
    assert "hydra.run.dir" in said
    assert not left(small_disk)
    said = command(*USUAL, cache, f"output.folder={small_disk}", where=tmp_path)
    assert "output.folder" in said
    assert "full" in said


def test_too_little_room_is_told_before_training(
    train, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With the figures: of files and states, and of latents."""
    words = ("trainer.max_steps=1000", "callbacks.export.every_n_steps=1", "optimizer.lr=1e-3")
    train(*words, f"hydra.run.dir={small_disk / 'run'}", code=1)
    said = "".join(capsys.readouterr())
    assert "1001 adapter files of" in said
    assert "MB free" in said
    assert "finished" not in said
    fill(small_disk, room=200_000)
    latents = ("data.cache.latents=disk", f"data.cache.folder={small_disk / 'latents'}")
    train(*latents, "data.resolution=256", "trainer.max_steps=1", code=1)
    assert "latents need" in "".join(capsys.readouterr())


def test_metadata_that_no_file_can_hold(tmp_path: Path) -> None:
    """The largest tables are left out and named; the file can be read by the safetensors library."""
    from loralab.adapters import file

    state = {"lora_unet_x.lora_down.weight": torch.ones(4, 8), "lora_unet_x.lora_up.weight": torch.ones(8, 4)}
    tables = {"ss_tag_frequency": "ä" * 20_000_000, "ss_bucket_info": "x" * 40_000_000, "ss_seed": "1"}
    path = tmp_path / "x.safetensors"
    assert file.save(path, state, tables) == ["ss_tag_frequency"]
    with safe_open(path, "pt") as opened:
        assert opened.metadata().keys() >= {"ss_bucket_info", "ss_seed", "sshs_model_hash"}
        assert "ss_tag_frequency" not in opened.metadata()
    assert not left(tmp_path)


def test_a_merge_that_overflows(
    random_base: Path, adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ("merge", adapters[0], "--base", random_base, "-o", tmp_path / "merged")
    assert "too large for float16" in tool(capsys, *words, "--precision", "fp16", "--weights", "1e6")
    assert "too large for float32" in tool(capsys, *words, "--weights", "1e38")
    assert not (tmp_path / "merged").exists()
    assert "finite" in tool(capsys, *words, "--weights", "nan")
    assert not left(tmp_path)


def test_names_that_tools_cannot_write(adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, words in (
        ("n" * 240 + ".safetensors", "bytes"),
        ("a\tb.safetensors", "invisible"),
        (" x.safetensors", "starts or ends with a space"),
    ):
        assert words in tool(capsys, "convert", adapters[0], "-o", tmp_path / name), name
    assert "bytes" in tool(capsys, "compare", tmp_path, "--html", tmp_path / ("n" * 250 + ".html"))
    assert "bytes" in tool(capsys, "doctor", "data=shapes", "--html", tmp_path / ("n" * 250 + ".html"))
    assert not list(tmp_path.iterdir())


def test_resuming_in_its_own_folder_keeps_what_was_there(train, tmp_path: Path) -> None:
    """Metrics, record, configuration and pictures of the first part; and the same file in the end."""
    saves = ("callbacks.state.enabled=true", "logger=csv", "scheduler=constant", "trainer.log_every_n_steps=1")
    train(*saves, name="run")
    run = tmp_path / "run"
    (run / "adapter.safetensors").unlink()
    metrics = (run / "csv" / "metrics.csv").read_bytes()
    state = run / "states" / "step00000003" / "state.ckpt"
    stamp = state.stat().st_mtime_ns
    train(*saves, name="run", code=1)  # not resumed: refused
    assert (run / "csv" / "metrics.csv").read_bytes() == metrics
    train(*saves, "resume=auto", "trainer.max_steps=5", "resume_root=nowhere", name="run")
    assert (run / "csv" / "metrics-2.csv").read_bytes() == metrics
    assert (run / "csv" / "metrics.csv").read_bytes() != metrics
    assert json.loads((run / "run-2.json").read_text())["steps"] == 3
    assert json.loads((run / "run.json").read_text())["steps"] == 5
    assert (run / "config-2" / "config.yaml").is_file()
    assert state.stat().st_mtime_ns == stamp
    train(*saves, "resume=auto", "trainer.max_steps=5", "resume_root=nowhere", name="run", code=1)  # its file is there
