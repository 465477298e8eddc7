"""Where runs log, and by which names they are found: shared folders, Weights & Biases, the profile."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from loralab.report.loggers import placed, run_name

needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="pip install wandb")


def records(file: Path) -> Iterator[Any]:
    """What wandb has written: protocol buffers in the blocks of LevelDB's log format, behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def history(found: list[Any]) -> dict[str, list[Any]]:
    """Every curve's values by name."""
    curves: dict[str, list[Any]] = {}
    for record in found:
        for item in record.history.item:
            curves.setdefault(item.key or ".".join(item.nested_key), []).append(json.loads(item.value_json))
    return curves


@needs_wandb
@pytest.mark.slow
@pytest.mark.ci
def test_each_point_of_a_sweep_is_a_run_at_wandb(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from what is written offline: names, group, tags, notes, settings, curves and pictures."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = ("logger=wandb", "logger.wandb.offline=true", "logger.wandb.tags=[one,two]", "logger.wandb.notes=hello")
    pictures = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "trainer.log_every_n_steps=1")
    swept = ("hydra.mode=MULTIRUN", "optimizer.lr=1e-4,1e-3", f"hydra.sweep.dir={tmp_path / 'lab'}")
    train(*wandb, *pictures, *swept, "logger.wandb.entity=somebody")
    for number, rate in enumerate(("1e-4", "1e-3")):
        (file,) = (tmp_path / "lab" / str(number)).rglob("*.wandb")
        found = list(records(file))
        (run,) = [r.run for r in found if r.WhichOneof("record_type") == "run"][:1]
        assert (run.display_name, run.run_group) == (f"{number}_lr={rate}", "lab")
        assert (list(run.tags), run.entity, run.notes) == (["one", "two"], "somebody", "hello")
        curves = history(found)
        assert len(curves["loss_step"]) == 3
        assert curves["lr/unet"][-1] == float(rate)
        assert any(name.startswith("samples") for name in curves)
        assert list((file.parent / "files" / "media").rglob("*.png"))
        assert [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"] == [0]


def test_runs_in_a_shared_folder_go_by_their_names(train, tmp_path: Path) -> None:
    shared = ("logger=many", f"logger.tensorboard.save_dir={tmp_path / 'logs'}", f"logger.csv.save_dir={tmp_path}")
    usual = ("logger.tensorboard.name=null", "trainer.max_steps=1")
    train(*shared, *usual, name="first")
    train(*shared, *usual, name="second")
    train(*shared, *usual, name="first/again/first")
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["first", "first-2", "second"]
    assert all(list((tmp_path / "logs" / name).glob("events*")) for name in names)
    assert sorted(path.name for path in (tmp_path / "csv").iterdir()) == names


@pytest.mark.parametrize(
    ("folder", "own", "name"),
    [
        ("/x/outputs/2026-01-02/10-11-12", [], "2026-01-02_10-11-12"),
        ("/x/multirun/2026-01-02/10-11-12/3", ["optimizer.lr=1e-4"], "2026-01-02_10-11-12_3_lr=1e-4"),
        ("/x/mine", [], "mine"),
        ("/x/lab/0", ["output.folder=/a/b"], "0_folder=-a-b"),
    ],
)
def test_the_name_of_a_run(folder: str, own: list[str], name: str) -> None:
    assert run_name(Path(folder), own) == name


def test_what_a_user_has_said_stands() -> None:
    assert placed({"save_dir": "logs", "name": "a", "version": "b"}, Path("/x/run"), [], None) == {}
    assert placed({"save_dir": "w", "project": "p", "name": "a", "group": "g"}, Path("/x/run"), [], Path("/x")) == {}


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_the_profile_is_written(train, profiler: str, capsys: pytest.CaptureFixture) -> None:
    folder = train("debug=profile", f"trainer.profiler={profiler}", "trainer.max_steps=2")
    assert "optimizer_step" in (folder / "fit-profile.txt").read_text()
    assert str(folder / "fit-profile.txt") in capsys.readouterr().out
