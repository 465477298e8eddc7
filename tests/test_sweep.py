"""Sweeps with real runs: what is said, and what becomes of points that fail, whichever launcher runs them."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from loralab.report.run import to_optimise
from tests import ROOT
from tests.support.runs import adapter, train_py

STEEP = ("optimizer=sgd", "adapter.alpha=1e6", "trainer.gradient_clip_val=null", "health.stop_if_unchanged=false")
BAD = (*STEEP, "optimizer.lr=1e-9,1e3")
"""A point that trains, and one that diverges."""


@pytest.fixture
def sweep(random_base: Path, tmp_path: Path):
    """sweep(*words) runs the command with three steps a point: the exit code, stdout, stderr.

    until: when to kill all of its processes; ask: the signal that then asks the first to end instead.
    """

    def start(
        *words: str, until: Callable[[], bool] | None = None, ask: signal.Signals | None = None
    ) -> tuple[int, str, str]:
        given = {word.partition("=")[0] for word in words}
        usual = [f"model.base={random_base}", "trainer.max_steps=3", "adapter.rank=2", "data.batch_size=1"]
        usual += ["callbacks.samples.enabled=false", "callbacks.progress.enabled=false", "data.cache.latents=none"]
        usual += [f"data.cache_folder={tmp_path / 'cache'}", f"hydra.sweep.dir={tmp_path / 'points'}"]
        usual = [word for word in usual if word.partition("=")[0] not in given]
        command = [sys.executable, str(ROOT / "train.py"), *words, *usual]
        with (
            (tmp_path / "out").open("w+") as out,
            (tmp_path / "err").open("w+") as err,
            subprocess.Popen(command, stdout=out, stderr=err, cwd=tmp_path, start_new_session=True) as process,
        ):
            while until and process.poll() is None:
                if until() and ask:
                    process.send_signal(ask)
                    break
                if until():
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.05)
            code = process.wait(timeout=500)
        return code, (tmp_path / "out").read_text(), (tmp_path / "err").read_text()

    return start


def statuses(folder: Path) -> list[str]:
    return [json.loads(file.read_text())["status"] for file in sorted(folder.glob("points/*/run.json"))]


def test_runs_are_numbered_and_a_failed_one_does_not_end_the_sweep(
    train, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The second diverges, the third is refused when it starts: its output is there already."""
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "adapter.safetensors").touch()
    places = f"output.folder=null,{taken}"
    train("-m", *BAD, places, "data/validation=split", f"hydra.sweep.dir={tmp_path / 'points'}", code=1)
    said, wrong = capsys.readouterr()
    assert statuses(tmp_path) == ["finished", "failed", "diverged", "failed"]
    assert "run 1 of 4: optimizer.lr=1e-9 output.folder=" in said
    assert "run 4 of 4: optimizer.lr=1e3 output.folder=" in said
    summary = said[said.index("sweep: 4 runs: 1 finished, 2 failed, 1 diverged") :].splitlines()
    assert "optimizer.lr=1e-9 " in summary[1]
    assert "validation/loss 1." in summary[1]
    assert summary[1].endswith("points/0")
    assert "already exists" in summary[3]
    assert "Traceback" not in wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "module"),
    [
        ("sweep=parallel", "joblib"),
        ("hydra/launcher=submitit_local", "submitit"),
        pytest.param("sweep=ray", "ray", marks=pytest.mark.ci),
    ],
)
def test_a_point_that_fails_in_another_process_gives_exit_code_1(
    sweep, launcher: str, module: str, tmp_path: Path
) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    code, said, _ = sweep("-m", launcher, *BAD)
    assert code == 1
    assert "sweep: 2 runs: 1 finished, 1 diverged" in said
    assert statuses(tmp_path) == ["finished", "diverged"]


@pytest.mark.slow
@pytest.mark.ci
def test_each_run_of_a_parallel_sweep_has_a_gpu_of_its_own(sweep, tmp_path: Path, monkeypatch) -> None:
    """Where there is none, two are pretended; the runs train on the CPU. The second run of a process keeps its GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    code, _, wrong = sweep("-m", "sweep=parallel", "seed=0,1,2")
    assert code == 0, wrong
    logs = [(tmp_path / "points" / number / "train.log").read_text() for number in "012"]
    assert sorted(re.findall(r"^GPU       (.*)$", "\n".join(logs), re.MULTILINE)) == ["0", "1"]


@pytest.mark.slow
@pytest.mark.ci
def test_a_signal_ends_every_run_of_a_parallel_sweep_with_its_state_saved(sweep, tmp_path: Path) -> None:
    """It is sent to the process of the sweep alone; the third run does not begin."""
    both = lambda: len([*tmp_path.glob("points/*/states/*")]) > 1  # noqa: E731
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=5", "trainer.max_steps=2000")
    code, said, _ = sweep("-m", "sweep=parallel", "seed=0,1,2", *states, until=both, ask=signal.SIGTERM)
    assert code == 143
    assert statuses(tmp_path) == ["interrupted", "interrupted"]
    assert "3 runs: 2 interrupted, 1 without a record" in said


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.parametrize("ask", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_run_of_a_sweep_by_ray(sweep, ask: signal.Signals, tmp_path: Path) -> None:
    """Within half a minute, each with its state saved, and `sweep.resume` goes on."""
    asked: list[float] = []

    def both() -> bool:
        if not all([*tmp_path.glob(f"points/{number}/states/*/state.ckpt")] for number in "01"):
            return False
        asked.append(time.monotonic())
        return True

    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=25", "trainer.max_steps=300")
    code, said, _ = sweep("-m", "sweep=ray", "seed=0,1,2", *states, until=both, ask=ask)
    assert time.monotonic() - asked[0] < 30
    assert code == 128 + ask
    assert statuses(tmp_path) == ["interrupted", "interrupted"]
    assert "3 runs: 2 interrupted, 1 without a record" in said
    records = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("points/[01]/run.json"))]
    for number, record in enumerate(records):
        assert (tmp_path / "points" / str(number) / "states" / f"step{record['steps']:08}").is_dir()
    resumed = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), f"sweep.resume={tmp_path / 'points'}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(tmp_path) == ["finished"] * 3
    again = [json.loads(file.read_text())["resumed"] for file in sorted(tmp_path.glob("points/[01]/run.json"))]
    assert [Path(state).name for state in again] == [f"step{record['steps']:08}" for record in records]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", ["sweep=parallel", pytest.param("hydra/launcher=submitit_local", marks=pytest.mark.ci)]
)
def test_a_killed_sweep_of_several_processes_goes_on(sweep, launcher: str, tmp_path: Path) -> None:
    """Its points go on from their states; with SIGKILL to all of its processes nothing else is left of them."""
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=1", "trainer.max_steps=20")
    words = ("-m", launcher, "seed=0,1", *states)
    code, _, _ = sweep(*words, until=lambda: any(tmp_path.glob("points/*/states/*/state.json")))
    assert code != 0
    assert "finished" not in statuses(tmp_path)
    points = tmp_path / "points"
    train_py(f"sweep.resume={points}")
    records = [json.loads(file.read_text()) for file in sorted(points.glob("[01]/run.json"))]
    assert [record["status"] for record in records] == ["finished", "finished"]
    assert any(record["resumed"] for record in records)


def jobs(folder: Path) -> list[int]:
    """The processes of submitit's jobs that run in a folder."""

    def is_job(file: Path) -> bool:
        with suppress(OSError):
            words = file.read_bytes()
            return b"submitit.core._submit" in words and str(folder).encode() in words
        return False

    return sorted(int(file.parent.name) for file in Path("/proc").glob("[0-9]*/cmdline") if is_job(file))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_jobs_that_are_preempted_save_and_are_queued_again(
    sweep, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Slurm; submitit's own executor stands for it. Each goes on from the state that it saved.

    After submitit's signal, SIGUSR2 unless its variable says otherwise, submitit starts them anew; after SIGTERM, which
    Slurm sends before it ends them, the same command does.
    """
    if number.name.startswith("SIGUSR"):
        monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", number.name.removeprefix("SIG"))
    asked: list[int] = []

    def preempt() -> bool:
        ready = all([*tmp_path.glob(f"points/{point}/states/*/state.json")] for point in "01")
        if not asked and ready:
            asked.extend(jobs(tmp_path))
            for job in asked:
                os.kill(job, number)
        return False

    words = ("-m", "sweep=slurm", "hydra/launcher=submitit_local", "hydra.launcher.gpus_per_node=0", "seed=0,1")
    states = ("callbacks.state.enabled=true", "callbacks.state.every_n_steps=20", "trainer.max_steps=300")
    given = (*words, *states, "resume=auto", f"resume_root={tmp_path}")
    code, said, wrong = sweep(*given, until=preempt)
    assert len(asked) == 2
    if number == signal.SIGTERM:
        assert code == 1
        assert "2 runs: 2 interrupted" in said
        code, said, wrong = sweep(*given)
    assert code == 0, said + wrong
    assert statuses(tmp_path) == ["finished"] * 2
    for point in "01":
        record, earlier = (
            json.loads((tmp_path / "points" / point / name).read_text()) for name in ("run.json", "run-2.json")
        )
        assert (record["status"], record["steps"]) == ("finished", 300)
        assert (earlier["status"], earlier["error"]) == ("interrupted", number.name)
        assert record["resumed"].endswith(f"points/{point}/states/step{earlier['steps']:08}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs: invalid value 0"),
        ("hydra.launcher.num_gpus=one", "hydra.launcher.num_gpus: invalid value 'one'"),
        ("hydra.launcher.jobs=2", "hydra.launcher.jobs: unknown setting of Hydra"),
    ],
)
def test_a_mistake_in_a_launcher_is_named(train, capsys: pytest.CaptureFixture, override: str, expected: str) -> None:
    train("-m", "sweep=ray", "seed=0,1", override, code=1)
    assert expected in capsys.readouterr().err


def test_a_single_run_that_fails_gives_exit_code_1(train, tmp_path: Path) -> None:
    folder = train(*STEEP, "optimizer.lr=1e3", code=1)
    assert json.loads((folder / "run.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize(
    ("facts", "value"),
    [
        ({"loss": 0.5, "metrics": {"validation/loss": 0.7}}, 0.7),
        ({"loss": 0.5, "metrics": {}}, 0.5),
        ({"loss": 0.5}, 0.5),
        ({"loss": math.nan}, math.inf),
        ({"loss": 0.5, "metrics": {"validation/loss": math.nan}}, math.inf),
        ({"loss": None}, None),
    ],
)
def test_what_a_search_minimises(facts: dict, value: float | None) -> None:
    assert to_optimise(facts) == value


@pytest.mark.parametrize(
    ("metric", "value"),
    [("score/prompt", 0.3), ("score/images", -math.inf), ("loss", 0.5), ("validation/loss", math.inf), ("other", None)],
)
def test_a_score_is_as_bad_as_can_be_where_it_is_the_lowest(metric: str, value: float | None) -> None:
    metrics = {"score/prompt": 0.3, "score/images": math.nan, "validation/loss": math.nan, "loss": 0.7}
    assert to_optimise({"loss": 0.5, "metrics": metrics}, metric) == value


@pytest.mark.parametrize(
    ("swept", "loads", "diverged"),
    [
        (["optimizer.lr=1e-3,1e-2", "data.cache.latents=memory", "data.cache.text=true", "targets=unet_only"], 1, 0),
        (["adapter=dora,lora", "model.gradient_checkpointing=true"], 1, 0),
        (["model.clip_skip=1,2", "data/augment=full,default"], 2, 0),
        ([*STEEP, "optimizer.lr=1e-9,1e3,1e-8"], 2, 1),
    ],
    ids=["latents", "adapters", "models", "diverged"],
)
def test_runs_that_share_the_base_are_those_of_runs_of_their_own(
    train, tmp_path: Path, capsys: pytest.CaptureFixture, swept: list, loads: int, diverged: int
) -> None:
    """The base model and its latents are handed on from run to run; the files are the same to the byte."""
    train("-m", *swept, f"hydra.sweep.dir={tmp_path / 'points'}", code=min(diverged, 1))
    said = capsys.readouterr()
    assert said.out.count("loading ") == loads
    points = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("points/*/run.json"))]
    assert len(points) > 1
    for number, point in enumerate(points):
        if point["status"] == "finished":
            own = [word for word in point["overrides"] if not word.startswith("hydra.")]
            assert adapter(tmp_path / "points" / str(number)) == adapter(train(*own, name=f"alone{number}")), own
    assert [point["status"] for point in points].count("diverged") == diverged
