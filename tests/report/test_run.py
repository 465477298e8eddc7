"""The record of a run, and the verbs that read it: `loralab runs` and `loralab diff`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from loralab.files import digest_file
from loralab.report.environment import git
from tests.support.runs import adapter, command, record
from tests.support.verbs import loralab


@pytest.fixture(scope="module")
def pair(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that differ in name and seed; the environment of the first has a secret."""
    root = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "hunter2")
        one = command(random_base, root / "one", "run.name=first", "run.tags=[old,good]")
        two = command(random_base, root / "two", "run.name=second", "run.tags=[new,good]", "seed=5")
    return one, two


def test_a_record_tells_where_the_run_came_from(pair: tuple[Path, Path], random_base: Path) -> None:
    one, two = map(record, pair)
    assert one["versions"]["torch"] == version("torch")
    assert one["versions"]["pillow"] == version("pillow")
    assert one["hardware"]["system"] == platform.platform()
    assert one["hardware"]["cores"] == os.cpu_count()
    assert one["hardware"]["threads"] == torch.get_num_threads()
    assert one["device"] == "cpu × 1"
    assert one["inputs"]["images"] == 41
    assert one["inputs"]["adapter"] is None
    assert {"unet weights", "vae weights", "text_encoder weights"} <= one["inputs"]["base_model"].keys()
    assert one["inputs"] == two["inputs"]
    assert one["signature"] != two["signature"]
    assert one["digests"] == {"adapter.safetensors": digest_file(pair[0] / "adapter.safetensors")}
    assert one["started"] <= one["ended"]
    text = (pair[0] / "run.json").read_text()
    assert "hunter2" not in text
    assert not [word for word in (os.path.expanduser("~"), platform.node()) if len(word) > 5 and word in text]


def test_a_name_changes_neither_signature_nor_file(pair: tuple[Path, Path], random_base: Path) -> None:
    plain = command(random_base, pair[0].parent / "plain")
    assert record(plain)["signature"] == record(pair[0])["signature"]
    assert adapter(plain) == adapter(pair[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run.name=a/b", "run.name: 'a/b' is not a file name"),
        ("run.name=..", "run.name: '..' is not a file name"),
        (f"run.name={'x' * 101}", "is too long"),
        ("run.name=true", "run.name: invalid value True"),
        ("run.tags=word", "run.tags: invalid value 'word'"),
        ("run.tags=[[a]]", "run.tags: invalid value [['a']]"),
        ("run.nam=a", "run.nam: unknown setting"),
    ],
)
def test_names_that_cannot_be(
    random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: str, said: str
) -> None:
    command(random_base, tmp_path / "run", words, code=1)
    assert said in capsys.readouterr().err


def test_differences_by_part(pair: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    loralab("diff", *pair, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["configuration"] == {
        "run.name": ["first", "second"],
        "run.tags": [["old", "good"], ["new", "good"]],
        "seed": [0, 5],
    }
    assert found["data and models"] == found["environment"] == {}
    assert {"loss", "digests.adapter.safetensors"} <= found["results"].keys()
    loralab("diff", *pair)
    said = capsys.readouterr().out
    assert "configuration" in said
    assert "environment" not in said
    loralab("diff", pair[0], pair[0])
    assert capsys.readouterr().out == "the two runs do not differ\n"
    loralab("diff", pair[0], pair[0].parent / "nothing", code=1)
    assert "nothing: run.json cannot be read" in capsys.readouterr().err


def test_runs_newest_first(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A run that was killed, one that another process trains, one whose record is damaged, and two whole ones."""
    for name in ("killed", "running", "damaged", "first", "second"):
        shutil.copytree(pair[name == "second"], tmp_path / name)
    for name, day in (("killed", 3), ("running", 4)):
        facts = {**record(tmp_path / name), "status": "running", "started": f"2100-01-0{day}T00:00:00+0000"}
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
    (tmp_path / "damaged" / "run.json").write_text("{")
    hold = "import sys; from pathlib import Path; from loralab.writing import hold; print(hold(Path(sys.argv[1])))"
    command = [sys.executable, "-c", f"{hold}; sys.stdout.flush(); input()", str(tmp_path / "running")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "True\n"  # noqa: PT018
        loralab("runs", tmp_path, "--json")
        rows = json.loads(capsys.readouterr().out)
        other.communicate("\n")
    assert [(Path(row["folder"]).name, row["status"]) for row in rows[:2]] == [
        ("running", "running"),
        ("killed", "killed"),
    ]
    assert [row["name"] for row in rows[2:4]] == ["second", "first"]
    assert rows[3]["result"] == pytest.approx(record(pair[0])["loss"])
    assert (rows[4]["status"], rows[4]["name"]) == ("not readable", "run.json is damaged or incomplete")
    loralab("runs", tmp_path, "--tag", "new", "--tag", "good", "--json")
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["second"]
    loralab("runs", tmp_path)
    said = capsys.readouterr().out
    assert "2100-01-03 00:00:00 │ killed" in said
    assert "#old" in said
    loralab("runs", tmp_path / "nowhere", code=1)
    assert "not found" in capsys.readouterr().err


def test_runs_where_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loralab("runs")
    assert capsys.readouterr().out == "no runs in outputs and multirun\n"


def test_the_state_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New files, as those of runs, are no changes; a monitor that its configuration names is not run."""
    if not shutil.which("git"):
        pytest.skip("no git")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git() is None
    run = lambda *words: subprocess.run(  # noqa: E731
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True, text=True
    ).stdout.strip()
    run("init")
    assert git() is None, "nothing is committed yet"
    Path("file").write_text("one")
    run("add", "file")
    run("commit", "-m", "first")
    Path("new").touch()
    Path("monitor").write_text(f"#!/bin/sh\ntouch {tmp_path / 'executed'}\n")
    Path("monitor").chmod(0o755)
    run("config", "core.fsmonitor", str(tmp_path / "monitor"))
    assert git() == {"commit": run("rev-parse", "HEAD"), "dirty": False}
    Path("file").write_text("other")
    assert git() == {"commit": run("rev-parse", "HEAD"), "dirty": True}
    assert not (tmp_path / "executed").exists()
