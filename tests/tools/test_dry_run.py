"""`train.py … --dry-run` says what a training takes, and trains nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.runs import command, record


@pytest.fixture
def dry(random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """dry(*words) is what the dry run prints, in a working folder that it leaves without runs."""
    monkeypatch.chdir(tmp_path)

    def start(*words: str, code: int = 0) -> str:
        before = {*tmp_path.rglob("*")} - {*tmp_path.rglob("cache/**")}
        capsys.readouterr()
        command(random_base, tmp_path / "run", "--dry-run", *words, code=code)
        made = {*tmp_path.rglob("*")} - before
        assert not [path for path in made if "cache" not in path.parts]
        told = capsys.readouterr()
        return told.out + told.err

    return start


def test_a_run_and_a_sweep(dry, tmp_path: Path) -> None:
    said = dry("trainer.max_steps=7")
    assert "1 run · 7 optimizer steps" in said
    assert "time and disk: unknown" in said
    assert f"folder: {tmp_path / 'run'}" in said
    said = dry("-m", "optimizer.lr=1e-3,1e-4", "trainer.max_steps=5,6", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert "run 2 of 4: optimizer.lr=1e-3 trainer.max_steps=6 · 6 steps" in said
    assert "4 runs · 22 optimizer steps" in said


def test_epochs_are_counted_as_they_are_trained(dry, random_base: Path, tmp_path: Path) -> None:
    words = ("trainer.max_steps=null", "trainer.max_epochs=1", "trainer.accumulate_grad_batches=16")
    words = (*words, "trainer.limit_train_batches=40", "suggested.batch_size=2")
    said = dry(*words)
    run = command(random_base, tmp_path / "run", *words)
    assert f"1 run · {record(run)['steps']} optimizer steps" in said


def test_time_and_disk_by_earlier_runs(dry, random_base: Path, tmp_path: Path) -> None:
    run = command(random_base, tmp_path / "outputs" / "first", f"data.cache_folder={tmp_path / 'cache'}")
    facts = record(run)
    said = dry("-m", "seed=1,2", "trainer.max_steps=3000", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    hours, minutes, seconds = map(int, re.findall(r"time: about (\d+):(\d+):(\d+), by the pace of 1 earlier", said)[0])
    expected = 2000 * facts["training_seconds"] + 2 * (facts["seconds"] - facts["training_seconds"])
    assert hours * 3600 + minutes * 60 + seconds == pytest.approx(expected, abs=1)
    assert re.search(r"disk: about 0\.\d MB", said)
    assert "time and disk: unknown" in dry("adapter.rank=8")


def test_what_it_cannot_be_combined_with(dry, tmp_path: Path) -> None:
    assert "--dry-run: cannot be combined with --cfg" in dry("--cfg", "job", code=1)
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "one.json").write_text("{}")
    assert "--dry-run: has no effect with settings.run_folder" in dry("settings.run_folder=settings", code=1)
    assert "optimizer.lrr: unknown setting" in dry("optimizer.lrr=1", code=1)
