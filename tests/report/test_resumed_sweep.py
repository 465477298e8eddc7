"""A sweep that was killed goes on: what is finished stays as it is, the rest is trained, from its last state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.runs import adapter, command, record, train_py

WORDS = ("-m", "seed=1,2,3", "trainer.max_steps=2", "data.batch_size=1", "output.metadata=false")


@pytest.fixture(scope="module")
def whole(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three points."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        command(random_base, home / "unused", *WORDS, f"hydra.sweep.dir={home / 'multirun' / 'whole'}")
    return home / "multirun" / "whole"


@pytest.fixture
def killed(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it whose second point was killed, and whose third was never started, in a working folder."""
    folder = shutil.copytree(whole, tmp_path / "multirun" / "killed")
    facts = {**record(folder / "1"), "status": "running"}
    (folder / "1" / "run.json").write_text(json.dumps(facts))
    (folder / "1" / "adapter.safetensors").unlink()
    shutil.rmtree(folder / "2")
    monkeypatch.chdir(tmp_path)
    return folder


def files(folder: Path) -> dict[Path, tuple[float, int]]:
    return {path: (path.stat().st_mtime, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["the folder", "the same command", "the same command and folder"])
def test_what_is_unfinished_is_run(
    whole: Path, killed: Path, random_base: Path, capsys: pytest.CaptureFixture, how: str
) -> None:
    before = files(killed / "0")
    if how == "the folder":
        train_py(f"sweep.resume={killed}")
    elif how == "the same command":
        command(random_base, whole.parents[1] / "unused", *WORDS, "resume=auto")
    else:
        words = (*WORDS, "resume=auto", f"hydra.sweep.dir={killed}")
        command(random_base, whole.parents[1] / "unused", *words)
    said = capsys.readouterr().out
    assert "run 1 of 3: seed=1: finished earlier" in said
    assert "run 1 of 3: seed=1\n" not in said
    assert "run 3 of 3: seed=3\n" in said
    assert "sweep: 3 runs: 3 finished" in said
    assert files(killed / "0") == before
    for point in "012":
        assert adapter(killed / point) == adapter(whole / point)
        assert record(killed / point)["status"] == "finished"
    assert (killed / "2" / "config" / "config.yaml").is_file()


def test_a_sweep_stopped_twice_goes_on_from_its_states(
    whole: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Every point is stopped once, behind its first step."""
    monkeypatch.chdir(tmp_path)
    stop = {"_target_": "tests.support.callbacks.SignalAt", "batch": 1, "name": "SIGINT"}
    words = ("-m", "seed=1,2", *WORDS[2:], *(f"+callbacks.stop.{key}={value}" for key, value in stop.items()))
    words = (*words, "allow=[tests.]", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    command(random_base, tmp_path / "unused", *words, code=130)
    command(random_base, tmp_path / "unused", *words, "resume=auto", code=130)
    assert "resuming from step 1 of" in capsys.readouterr().out
    assert (record(tmp_path / "sweep" / "0")["status"], record(tmp_path / "sweep" / "1")["status"]) == (
        "finished",
        "interrupted",
    )
    command(random_base, tmp_path / "unused", *words, "resume=auto")
    assert adapter(tmp_path / "sweep" / "1") == adapter(whole / "1")
    command(random_base, tmp_path / "unused", *words, "resume=auto")
    assert "run 2 of 2: seed=2: finished earlier" in capsys.readouterr().out


def test_a_point_that_failed_is_tried_again_and_its_reason_told(
    killed: Path, random_base: Path, capsys: pytest.CaptureFixture
) -> None:
    words = (*WORDS, "resume=auto", f"hydra.sweep.dir={killed}")
    (killed / "1" / "adapter.safetensors").touch()
    command(random_base, killed / "unused", *words, code=1)
    said = capsys.readouterr().out
    assert "sweep: 3 runs: 2 finished, 1 failed" in said
    assert "already exists" in said
    (killed / "1" / "adapter.safetensors").unlink()
    command(random_base, killed / "unused", *words)
    assert "sweep: 3 runs: 3 finished" in capsys.readouterr().out


def test_what_cannot_go_on_is_refused(
    killed: Path, random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = ("-m", "seed=7,8", *WORDS[2:], "resume=auto", f"hydra.sweep.dir={killed}")
    command(random_base, tmp_path / "unused", *other, code=1)
    assert "is a run of another sweep" in capsys.readouterr().err
    command(random_base, tmp_path / "unused", f"sweep.resume={killed}", code=1)
    assert "takes all settings from the folder" in capsys.readouterr().err
    command(random_base, tmp_path / "unused", f"sweep.resume={tmp_path}", code=1)
    assert "sweep.resume" in capsys.readouterr().err
