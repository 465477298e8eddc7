"""A search with Optuna: its points, seeds, pruning, and that it goes on after a kill; by real runs."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from statistics import fmean

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from loralab.command.overrides import parse
from loralab.command.search import distribution, mean
from loralab.training.study import StoredStudy
from tests.support.processes import forked
from tests.support.runs import record, train_py

SEARCH = ("sweep=optuna", "data/validation=split", "callbacks.validation.every_n_steps=1")
STEEP = ("optimizer=sgd", "adapter.alpha=1e6", "trainer.gradient_clip_val=null", "health.stop_if_unchanged=false")


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'search.sqlite'}")


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("interval(1e-5, 1e-2)", FloatDistribution(1e-5, 1e-2)),
        ("tag(log, interval(1e-5, 1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(4, 64))", IntDistribution(4, 64)),
        ("tag(log, int(interval(4, 64)))", IntDistribution(4, 64, log=True)),
        ("range(4, 17, 4)", IntDistribution(4, 16, step=4)),
        ("range(16, 3, -4)", IntDistribution(4, 16, step=4)),
        ("choice(lora, dora)", CategoricalDistribution(["lora", "dora"])),
        ("1e-4,null", CategoricalDistribution(["0.0001", "null"])),
    ],
)
def test_hydras_sweeps_as_optunas_distributions(sweep: str, expected: object) -> None:
    (override,), wrong = parse([f"optimizer.lr={sweep}"])
    assert not wrong
    assert distribution(override) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0], 1.5), ([None, 2.0], 2.0), ([None], None), ([1.0, math.inf], math.inf), ([1.0, -math.inf], -math.inf)],
)
def test_the_mean_over_seeds(values: list[float | None], expected: float | None) -> None:
    assert mean(values) == expected


def test_a_point_counts_by_the_mean_over_its_seeds(train, tmp_path: Path) -> None:
    folder = tmp_path / "points"
    words = ("hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=2", "seed=5", "optimizer.lr=interval(1e-4, 1e-2)")
    words += ("trainer.max_steps=1", "logger=null")
    train("-m", *SEARCH, *words, f"hydra.sweep.dir={folder}")
    runs = [record(folder / str(number)) for number in range(4)]
    assert [next(o for o in run["overrides"] if o.startswith("seed")) for run in runs] == ["seed=5", "seed=6"] * 2
    for trial in study(folder).trials:
        of_trial = runs[2 * trial.number : 2 * trial.number + 2]
        assert trial.value == fmean(run["metrics"]["validation/loss"] for run in of_trial)
        assert all(f"optimizer.lr={trial.params['optimizer.lr']}" in run["overrides"] for run in of_trial)
    assert "best_evaluated_value: " in (folder / "optimization_results.yaml").read_text()


def test_hopeless_runs_end_early(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The pruner ends whatever is above 0: every run, at its first validation; a further seed is not tried."""
    folder = tmp_path / "points"
    pruner = ("hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner", "~hydra.sweeper.pruner.n_startup_trials")
    above = ("+hydra.sweeper.pruner.upper=0.0",)
    train(
        "-m", *SEARCH, *pruner, *above, "hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=2", f"hydra.sweep.dir={folder}"
    )
    assert [trial.state for trial in study(folder).trials] == [TrialState.PRUNED] * 2
    runs = [record(file.parent) for file in sorted(folder.glob("*/run.json"))]
    assert [(run["steps"], run["stopped"].partition(":")[0]) for run in runs] == [(1, "pruned at step 1")] * 2
    assert "adapter.safetensors" in {file.name for file in (folder / "0").iterdir()}
    assert capsys.readouterr().out.count("  finished (pruned)  validation/loss") == 2


def test_a_search_goes_on_where_a_trial_diverges(train, tmp_path: Path) -> None:
    folder = tmp_path / "points"
    words = ("hydra.sweeper.n_trials=3", "optimizer.lr=choice(1e-9,1e3)", "adapter.rank=choice(2)", *STEEP)
    train("-m", "sweep=optuna", *words, f"hydra.sweep.dir={folder}")
    found = {trial.params["optimizer.lr"]: trial.value for trial in study(folder).trials}
    assert found["1000.0"] == math.inf
    assert math.isfinite(found["1e-09"])
    assert "optimizer.lr: '1e-09'" in (folder / "optimization_results.yaml").read_text()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials: invalid value 0"),
        ("hydra.sweeper.seeds=many", "hydra.sweeper.seeds: invalid value 'many'"),
        ("hydra.sweeper.n_trial=3", "hydra.sweeper.n_trial: unknown setting of Hydra"),
        ("+hydra.sweeper.n_trial=3", "did you mean 'n_trials'?"),
        ("+hydra.sweeper.pruner.n_startup=3", "hydra.sweeper.pruner: "),
        ("hydra.sweeper.sampler._target_=optuna.samplers.NoSampler", "hydra.sweeper.sampler: "),
        (
            "hydra.sweeper.sampler._target_=os.system",
            "hydra.sweeper.sampler._target_: 'os.system' is not a Hydra plugin",
        ),
        ("optimizer.lr=interval(1e-4,nan)", "optimizer.lr"),
    ],
)
def test_a_mistake_in_a_search_is_named_before_it_starts(
    train, capsys: pytest.CaptureFixture, override: str, expected: str
) -> None:
    train("sweep=optuna", override, code=1)
    said = capsys.readouterr()
    assert expected in said.err
    assert "Traceback" not in said.err
    assert "loading" not in said.out


def test_a_dry_run_names_the_search_space(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train("--dry-run", "sweep=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.seeds=2")
    said = capsys.readouterr().out
    assert "search    up to 8 runs of 3 steps among optimizer.lr=tag(log, interval(1e-5, 1e-2))" in said
    assert "8 runs · 24 optimizer steps" in said
    assert not [*tmp_path.rglob("search.sqlite")]


def test_a_search_goes_on_between_two_seeds(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Killed after the first seed of a point: that one stays as it is, the other is run, and both count."""
    folder = tmp_path / "points"
    words = ("hydra.sweeper.n_trials=1", "hydra.sweeper.seeds=2", "adapter.rank=choice(2,4)")
    train("-m", *SEARCH, *words, f"hydra.sweep.dir={folder}")
    (whole,) = study(folder).trials
    shutil.rmtree(folder / "1")
    (folder / "search.sqlite").unlink()
    begun = StoredStudy(folder / "search.sqlite").study
    begun.enqueue_trial(whole.params)
    begun.ask(whole.distributions)
    before = (folder / "0" / "run.json").stat().st_mtime_ns
    capsys.readouterr()
    train_py(f"sweep.resume={folder}")
    assert "finished earlier" in capsys.readouterr().out
    assert (folder / "0" / "run.json").stat().st_mtime_ns == before
    (after,) = study(folder).trials
    assert (after.state, after.params, after.value) == (TrialState.COMPLETE, whole.params, whole.value)


@pytest.mark.slow
@pytest.mark.ci
def test_a_killed_search_goes_on_where_it_was(random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The point that was begun is run again in its own folder, from its last state."""
    folder = tmp_path / "points"
    words = [*SEARCH, f"model.base={random_base}", "hydra.sweeper.n_trials=3", f"hydra.sweep.dir={folder}"]
    words += ["trainer.max_steps=4", "adapter.rank=choice(2,4)", "suggested.batch_size=4", "resume=auto"]
    words += ["callbacks.state.enabled=true", "callbacks.state.every_n_steps=1"]
    words += ["callbacks.samples.enabled=false", f"data.cache_folder={tmp_path / 'cache'}"]
    begun = forked(tmp_path, words, tmp_path / "log")
    while len([*folder.glob("1/states/*")]) < 2 and begun.is_alive():
        time.sleep(0.02)
    begun.kill()
    begun.join()
    before = study(folder).trials
    assert [trial.state for trial in before] == [TrialState.COMPLETE, TrialState.RUNNING]
    train_py(f"sweep.resume={folder}")
    after = study(folder).trials
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 3
    assert after[1].params == before[1].params
    assert json.loads((folder / "1" / "run.json").read_text())["resumed"]
    assert "run 1 of" not in capsys.readouterr().out
