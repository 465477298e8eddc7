"""Damaged, foreign, and other states: never a traceback, never resumed as what they are not."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from loralab.errors import UserError
from loralab.files import digest_file
from loralab.training.marker import PARTS, DamagedState, State, read, write
from loralab.training.resume import Resume, choose
from loralab.training.state import below, versions

SIGNATURE = {"seed": 0, "optimizer.lr": 1e-4, "images and captions": "0" * 32, "data.folders": [{"a": 1.5}], "x": None}


def put(folder: Path, step: int, written: float = 0.0, content: Any = None, **changes: Any) -> State:
    """A state with a small checkpoint, or with other content; correctly signed whatever it says."""
    folder = folder / "states" / f"step{step:08d}"
    folder.mkdir(parents=True)
    parts = {**{part: {} for part in PARTS}, "global_step": step, "position": (1, step)}
    if isinstance(content, bytes):
        (folder / "state.ckpt").write_bytes(content)
    else:
        torch.save(parts if content is None else content, folder / "state.ckpt")
    state = State(
        folder, step, 1, step, None, SIGNATURE, versions(), written + step, digest_file(folder / "state.ckpt")
    )
    state = replace(state, **changes)
    write(state)
    return state


def seal(facts: dict[str, Any]) -> str:
    """A marker as it would be written, its checksum right."""
    facts = {name: value for name, value in facts.items() if name != "checksum"}
    checksum = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    return json.dumps({**facts, "checksum": checksum})


def judged(path: Path) -> State | None:
    try:
        return read(path).check().open()
    except DamagedState:
        return None


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> State:
    return put(tmp_path_factory.mktemp("kept"), 7)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just([[7]])
)
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@QUIET
@given(data=st.data())
def test_a_marker_with_other_bytes_is_damaged(kept: State, data: st.DataObject) -> None:
    """A byte changed, cut off, or put in anywhere: damaged, or what it says is the same."""
    marker = kept.path / "state.json"
    whole = marker.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.binary(max_size=3))
    try:
        marker.write_bytes(whole[:at] + new + (b"" if data.draw(st.booleans()) else whole[at + 1 :]))
        assert judged(kept.path) in (None, kept)
    finally:
        marker.write_bytes(whole)


@QUIET
@given(name=st.sampled_from(["format", "step", "epoch", "batch", "horizon", "signature", "versions"]), value=ODD)
@example(name="step", value=7.0)
@example(name="batch", value=True)
@example(name="epoch", value=-1)
@example(name="step", value=10**400)
def test_a_signed_marker_is_judged_by_its_values(kept: State, name: str, value: Any) -> None:
    """What would resume elsewhere is found by type, range, or by what the checkpoint holds."""
    marker = kept.path / "state.json"
    whole = marker.read_text()
    try:
        marker.write_text(seal({**json.loads(whole), name: value}))
        found = judged(kept.path)
    finally:
        marker.write_text(whole)
    assert found is None or (found.step, found.epoch, found.batch) == (kept.step, kept.epoch, kept.batch)
    assert found is None or type(found.step) is type(found.epoch) is type(found.batch) is int
    assert found is None or isinstance(found.signature, dict)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "7", '"step"', "[" * 100_000, '{"a":' * 100_000, "{}", '{"checksum": "x"}', "\0", "NaN"]
)
def test_a_marker_of_another_kind_is_damaged(kept: State, text: str) -> None:
    whole = (kept.path / "state.json").read_text()
    (kept.path / "state.json").write_text(text)
    try:
        with pytest.raises(DamagedState, match=r"damaged state\.json"):
            read(kept.path)
    finally:
        (kept.path / "state.json").write_text(whole)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(pickle.dumps(Evil()), "contains code", id="pickled code"),
        pytest.param({"state_dict": {}, "x": Evil()}, "contains code", id="code in a checkpoint"),
        pytest.param(pickle.dumps({"a": 1}, 2), "state.ckpt", id="another pickle"),
        pytest.param({"state_dict": {"w": torch.zeros(2)}}, "'optimizer_states' is missing", id="a model"),
        pytest.param([1, 2], "it is a list", id="a list"),
        pytest.param(torch.zeros(3), "it is a Tensor", id="a tensor"),
        pytest.param({**dict.fromkeys(PARTS), "global_step": torch.ones(2)}, "different steps", id="a tensor as step"),
        pytest.param({**dict.fromkeys(PARTS), "global_step": 6, "position": (1, 7)}, "different steps", id="elsewhere"),
        pytest.param(b"", "unreadable", id="nothing"),
        pytest.param(b"<html>", "unreadable", id="a web page"),
        pytest.param(b"PK\x03\x04 and so on", "unreadable", id="half an archive"),
    ],
)
def test_a_foreign_checkpoint_is_refused_though_it_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = put(tmp_path, 6)
    state = put(tmp_path, 7, content=content)
    with pytest.raises(UserError) as error:
        choose(str(state.path), [tmp_path], SIGNATURE)
    assert words in str(error.value)
    assert f"resume from the last valid state, {before.path}" in str(error.value) or words == "different steps"
    said: list[str] = []
    assert choose("auto", [tmp_path], SIGNATURE, say=said.append) == Resume(before)
    assert words in said[0]
    assert not (tmp_path / "ran").exists()


def test_states_of_other_versions_say_so(tmp_path: Path) -> None:
    state = put(tmp_path, 7)
    facts = json.loads((state.path / "state.json").read_text())
    old = {name: value for name, value in facts.items() if name not in ("checksum", "format")} | {"path": None}
    (state.path / "state.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"saved by an earlier version .* adapter\.weights=FILE"):
        choose(str(state.path), [], SIGNATURE)
    said: list[str] = []
    assert choose("auto", [tmp_path], SIGNATURE, say=said.append) is None
    assert "earlier version" in said[0]
    (state.path / "state.json").write_text(seal({**facts, "format": 3}))
    with pytest.raises(UserError, match="format 3"):
        choose(str(state.path), [], SIGNATURE)
    write(replace(state, versions={**state.versions, "torch": "1.0"}))
    assert choose(str(state.path), [], SIGNATURE, say=said.append) is not None
    assert "saved with torch 1.0" in said[-1]


def test_auto_says_what_differs_and_takes_it_with_resume_force(tmp_path: Path) -> None:
    older, newest = put(tmp_path, 3), put(tmp_path, 4)
    broken = put(tmp_path, 5)
    broken.file.write_bytes(b"x")
    run = {**SIGNATURE, "optimizer.lr": 2e-4, "images and captions": "1" * 32}
    said: list[str] = []
    assert choose("auto", [tmp_path], run, say=said.append) is None
    for words in (
        "starting from scratch",
        str(newest.path),
        "optimizer.lr: 0.0002 here, 0.0001 in the state",
        "resume_force",
    ):
        assert words in said[0]
    assert "images and captions: differs" in said[0]
    forced = choose("auto", [tmp_path], run, force=True, say=said.append)
    assert forced == Resume(newest, True, ["images and captions", "optimizer.lr"])
    assert "optimizer.lr: 0.0002" in said[1]
    write(replace(older, signature=run))
    same = choose("auto", [tmp_path], run, force=True, say=said.append)
    assert same is not None
    assert same.state.path == older.path, "one of these settings comes first"
    assert choose("auto", [tmp_path / "none"], run, force=True, say=said.append) is None
    assert "no training state found under" in said[-1]


def test_a_path_that_leads_elsewhere_is_told_as_what_it_is(tmp_path: Path) -> None:
    put(tmp_path / "outputs/2026-01-01/10-00-00", 5, written=100.0)
    state = put(tmp_path / "outputs/2026-01-01/12-00-00", 4)

    def told(path: Path) -> str:
        with pytest.raises(UserError) as error:
            choose(str(path), [tmp_path / "outputs"], SIGNATURE)
        return str(error.value)

    typo = tmp_path / "outputs/2026-01-01/12-00-00/stats/step00000004"
    assert f"did you mean {state.path}?" in told(typo)
    assert f"did you mean {state.path}?" in told(state.path.with_name("step0000004"))
    adapter = tmp_path / "adapter.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, adapter)
    assert "is an adapter file, not a training state" in told(adapter)
    assert f"adapter.weights={adapter}" in told(adapter)
    torch.save({"a.lora_A.weight": torch.zeros(2)}, tmp_path / "adapter.pt")
    assert "is an adapter file" in told(tmp_path / "adapter.pt")
    (tmp_path / "notes.txt").write_text("x")
    assert "is a file, not a training state" in told(tmp_path / "notes.txt")
    assert "is not a training state" in told(tmp_path / "outputs/2026-01-01/12-00-00")
    for file in (state.file, state.path / "state.json"):
        assert choose(str(file), [], SIGNATURE) == Resume(state)


def damage(state: Path, change: Callable[[dict[str, Any]], None]) -> None:
    facts = json.loads((state / "state.json").read_text())
    change(facts)
    (state / "state.json").write_text(json.dumps(facts))


def test_by_the_command(train, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """A digit of the position that was flipped, null, and a float: named, and with auto the state before is taken."""
    saving = (
        "callbacks.state.enabled=true",
        "callbacks.state.every_n_steps=1",
        "callbacks.state.keep_last=null",
        "output.metadata=false",
    )
    auto = ("resume=auto", f"resume_root={tmp_path}", "output.metadata=false")
    whole = train(*saving, "trainer.max_steps=4", name="whole")
    states = sorted((whole / "states").iterdir())
    damage(states[3], lambda facts: facts.update(step=5))
    damage(states[2], lambda facts: facts.update(batch=None))
    damage(states[1], lambda facts: facts.update(epoch=0.0))
    capsys.readouterr()
    for state in states[1:]:
        train(f"resume={state}", name="by path", code=1)
        said = capsys.readouterr().err
        assert "has a damaged state.json" in said
        assert f"resume from the last valid state, {states[0]}" in said
        assert "Traceback" not in said
    resumed = train(*auto, "trainer.max_steps=4", name="resumed")
    assert f"resuming from step 1 of {states[0]}" in capsys.readouterr().out
    assert (resumed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()

    train(*auto, "seed=1", name="other seed")
    said = capsys.readouterr().out
    assert "seed: 1 here, 0 in the state" in said
    assert "starting from scratch" in said
    train(*auto, "seed=1", "resume_force=true", name="forced")
    assert f"resuming from step 1 of {states[0]} with other settings (resume_force)" in capsys.readouterr().out
    shutil.rmtree(whole)
    assert not list(below([whole]))
