"""Runs of the same signature: the second is told, and with `reuse=true` takes over the result of the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.runs import adapter, command, record


@pytest.fixture(scope="module")
def first(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in outputs/ of a working folder."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        words = ("data/validation=split", "run.name=first", "output.precision=fp16", "logger=csv")
        return command(random_base, home / "outputs" / "first", *words)


@pytest.fixture
def again(first: Path, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """again(*words) runs the same again, with those words, in the working folder of the first: the new folder."""
    monkeypatch.chdir(first.parents[1])

    def start(*words: str, name: str = "run") -> Path:
        return command(random_base, tmp_path / name, "data/validation=split", "output.precision=fp16", *words)

    return start


def test_the_second_is_told_and_trains(first: Path, again, capsys: pytest.CaptureFixture) -> None:
    run = again("run.name=second", "trainer.max_steps=2")
    said = capsys.readouterr().out
    assert "outputs/first finished with the same signature (3 steps, loss " in said
    assert "reuse=true takes its result" in said
    assert record(run)["steps"] == 2
    again("seed=3", name="other")
    assert "with the same signature" not in capsys.readouterr().out


def test_its_files_and_figures_are_taken_over(first: Path, again, capsys: pytest.CaptureFixture) -> None:
    """Whatever the run is called, wherever it writes its files, and from wherever it reads the images."""
    folder = first.parents[2] / "taken"
    run = again("run.name=second", "reuse=true", f"output.folder={folder}", "logger=csv")
    assert "reused    outputs/first" in capsys.readouterr().out
    assert (folder / "adapter.safetensors").read_bytes() == adapter(first)
    one, two = record(first), record(run)
    for figure in ("loss", "metrics", "steps", "images_per_second", "digests", "data", "signature"):
        assert two[figure] == one[figure], figure
    assert (two["status"], two["files"]) == ("finished", [str(folder / "adapter.safetensors")])
    assert (run / "csv" / "metrics.csv").read_bytes() == (first / "csv" / "metrics.csv").read_bytes()
    assert "run.name=second" in (run / "config" / "overrides.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("trainer.max_steps=2", "differs in trainer.max_steps"),
        ("output.precision=fp32", "differs in output.precision"),
        ("callbacks.validation.every_n_steps=1", "differs in callbacks.validation.every_n_steps"),
    ],
)
def test_another_result_is_not_taken(again, capsys: pytest.CaptureFixture, words: str, why: str) -> None:
    run = again("reuse=true", words)
    assert f"not reused: {why}" in capsys.readouterr().out
    assert "reused" not in record(run)


@pytest.mark.parametrize("what", ["another version", "changed", "gone", "unfinished", "damaged"])
def test_a_result_that_cannot_be_trusted_is_not_taken(
    first: Path, again, tmp_path: Path, capsys: pytest.CaptureFixture, what: str
) -> None:
    copy = shutil.copytree(first, tmp_path / "copies" / "copy")
    facts = {**record(copy), "ended": "3000"}
    if what == "another version":
        facts["versions"] = {**facts["versions"], "torch": "1.0"}
    if what == "unfinished":
        facts["status"] = "interrupted"
    (copy / "run.json").write_text("{" if what == "damaged" else json.dumps(facts))
    if what == "changed":
        (copy / "adapter.safetensors").write_bytes(b"other")
    if what == "gone":
        facts["files"] = []
        (copy / "run.json").write_text(json.dumps(facts))
        (copy / "adapter.safetensors").unlink()
    run = again("reuse=true", f"resume_root={tmp_path / 'copies'}")
    said = capsys.readouterr().out
    if what in ("unfinished", "damaged"):
        assert "reused    outputs/first" in said
        return
    words = {"another version": "was made with another version of torch"}.get(what, "is gone or was changed")
    assert words in said
    assert "reused" not in record(run)
    assert adapter(run) == adapter(first)


def test_a_point_of_a_sweep_takes_the_result_of_one_before(
    random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("-m", "seed=1,2", "data.num_workers=0", "reuse=true")
    command(random_base, tmp_path / "unused", *words, f"hydra.sweep.dir={tmp_path / 'multirun' / 'one'}")
    capsys.readouterr()
    words = ("-m", "seed=2,3", "reuse=true", f"hydra.sweep.dir={tmp_path / 'two'}")
    command(random_base, tmp_path / "unused", *words)
    said = capsys.readouterr().out
    assert "2 finished" in said
    assert said.count("finished (reused)") == 1
    assert adapter(tmp_path / "two" / "0") == adapter(tmp_path / "multirun" / "one" / "1")
