"""`loralab rerun`: real runs are run again from their folders, and what differs is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from loralab.schema.compose import Places
from tests.support.images import picture
from tests.support.runs import adapter, command, record
from tests.support.verbs import loralab

SAME = "adapter.safetensors: the same, bit for bit"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    yield
    Places.use()


@pytest.fixture(scope="module")
def whole(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with fp16 files and metadata, as by default, and a name."""
    words = ("output.precision=fp16", "run.name=whole", "run.tags=[a,b]", "ema.decay=0.9")
    return command(random_base, tmp_path_factory.mktemp("whole") / "run", *words)


def test_the_same_bytes_in_a_new_folder(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    loralab("rerun", whole)
    said = capsys.readouterr().out
    assert SAME in said
    assert "environment: the same" in said
    assert said.index("inputs: the same base model and data") < said.index("finished: 3 steps")
    (new,) = tmp_path.glob("outputs/*/*-whole")
    assert adapter(new) == adapter(whole)
    assert record(new)["signature"] == record(whole)["signature"]
    loralab("rerun", whole, "--folder", new, code=1)
    assert "contains the files of another run" in capsys.readouterr().err


def test_its_folder_alone_is_enough(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Moved, without its adapter file, and recorded on another machine."""
    moved = shutil.copytree(whole, tmp_path / "moved")
    (moved / "adapter.safetensors").unlink()
    facts = record(moved)
    facts["versions"]["torch"], facts["hardware"]["cpu"] = "1.0", "abacus"
    (moved / "run.json").write_text(json.dumps(facts))
    loralab("rerun", moved, "--folder", tmp_path / "again")
    said = capsys.readouterr().out
    assert "versions.torch: 1.0 → " in said
    assert said.index("hardware.cpu: abacus → ") < said.index("finished: 3 steps")
    assert SAME in said


def test_changed_images_are_noticed(random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The folder of the images is given relative to the working folder of the run."""
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.png", (64, 64), caption=f"number {number}")
    run = command(random_base, tmp_path / "run", "data=folder", "data.folder=images", "data.batch_size=2")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    loralab("rerun", run, "--folder", tmp_path / "again")
    assert SAME in capsys.readouterr().out
    (tmp_path / "images" / "2.txt").write_text("another number")
    loralab("rerun", run, "--folder", tmp_path / "changed")
    said = capsys.readouterr().out
    assert said.index("inputs.data: ") < said.index("finished: 3 steps")
    assert "inputs.base_model" not in said
    assert "adapter.safetensors: differs" in said


def test_a_run_of_a_sweep(random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ("-m", "seed=1,2", "output.name='a${hydra:job.num}'", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    command(random_base, tmp_path / "unused", *words, "trainer.max_steps=2")
    loralab("rerun", tmp_path / "sweep" / "1", "--folder", tmp_path / "again")
    assert "a1.safetensors: the same, bit for bit" in capsys.readouterr().out


def test_files_of_its_own_configuration_may_be_gone(
    random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)
    text = "_target_: torch.optim.RMSprop\n_partial_: true\nlr: 0.125\nalpha: 0.9\n"
    (tmp_path / "conf" / "optimizer" / "mine.yaml").write_text(text)
    run = command(random_base, tmp_path / "run", "optimizer=mine")
    shutil.rmtree(tmp_path / "conf")
    Places.use()
    loralab("rerun", run, "--folder", tmp_path / "again")
    assert SAME in capsys.readouterr().out


def test_resumed_runs(random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One is the same as a run from the start, whose state may be gone; with other settings than its state's it can be
    had from that state only."""
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "callbacks.state.keep_last=null")
    command(random_base, tmp_path / "first", *states)
    state = tmp_path / "first" / "states" / "step00000002"
    resumed = command(random_base, tmp_path / "resumed", f"resume={state}")
    other = command(random_base, tmp_path / "other", f"resume={state}", "resume_force=true", "optimizer.lr=1")
    assert record(other)["resumed_with"] == ["optimizer.lr"]
    loralab("rerun", other, "--folder", tmp_path / "other-again")
    said = capsys.readouterr().out
    assert SAME in said
    shutil.rmtree(tmp_path / "first")
    loralab("rerun", resumed, "--folder", tmp_path / "resumed-again")
    assert SAME in capsys.readouterr().out
    loralab("rerun", other, "--folder", tmp_path / "other-gone", code=1)
    assert "resume: " in capsys.readouterr().err


def changed(run: Path, folder: Path, file: str, **values: object) -> Path:
    """A copy of a run's folder with other values in one of its YAML files."""
    copy = shutil.copytree(run, folder)
    cfg = OmegaConf.load(copy / "config" / f"{file}.yaml")
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    OmegaConf.save(cfg, copy / "config" / f"{file}.yaml")
    return copy


def test_without_its_scorer_it_is_not_scored(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scored = changed(whole, tmp_path / "scored", "config", **{"report.scorer": str(tmp_path / "gone")})
    loralab("rerun", scored, "--folder", tmp_path / "again")
    said = capsys.readouterr().out
    assert f"note: the pictures will not be scored: report.scorer: '{tmp_path / 'gone'}' was not found" in said
    assert SAME in said


def test_a_folder_of_others_cannot_run_code(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SET_BY_A_FILE", raising=False)
    target = {"callbacks.evil": {"_target_": "os.mkdir", "path": "executed"}, "allow": ["os."]}
    evil = changed(whole, tmp_path / "evil", "config", **target)
    overrides = {"hydra.overrides.task": ["allow=[os.]"], "hydra.job.env_set": {"SET_BY_A_FILE": "1"}}
    evil = changed(evil, tmp_path / "worse", "hydra", **overrides)
    node = {"hydra.callbacks": {"evil": {"_target_": "os.mkdir", "path": "executed"}}}
    evil = changed(evil, tmp_path / "worst", "hydra", **node)
    loralab("rerun", evil, "--folder", tmp_path / "again", code=1)
    assert "'os.mkdir' is not on the allow-list" in capsys.readouterr().err
    loralab("rerun", changed(whole, tmp_path / "set", "hydra", **overrides, **node), "--folder", tmp_path / "again")
    assert "SET_BY_A_FILE" not in os.environ
    assert not (tmp_path / "executed").exists()


def test_classes_of_ones_own_are_allowed_again(
    random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    node = {"_target_": "tests.support.callbacks.FailsIn", "rank": 9, "step": 1, "how": "error"}
    words = [f"+callbacks.far.{key}={value}" for key, value in node.items()]
    run = command(random_base, tmp_path / "run", *words, "allow=[tests.]")
    loralab("rerun", run, "--folder", tmp_path / "refused", code=1)
    assert "'tests.support.callbacks.FailsIn' is not on the allow-list" in capsys.readouterr().err
    loralab("rerun", run, "--folder", tmp_path / "again", "--allow", "tests.")
    assert SAME in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "{"),
        ("config/config.yaml", "- a"),
        ("config/hydra.yaml", "hydra: 1"),
        ("config/hydra.yaml", "hydra: [1"),
        ("config/hydra.yaml", None),
    ],
)
def test_what_is_no_run_is_named(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture, file: str, text: str | None
) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / file).unlink() if text is None else (copy / file).write_text(text)
    loralab("rerun", copy, code=1)
    assert str(copy) in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
