"""Runs with a scorer: their scores are measured after training, logged, and recorded; without one there are none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from loralab.report.scored import Scored, references_of, scored
from loralab.scorers.embeddings import Embeddings
from tests.support.clip_models import write_clip
from tests.support.runs import command, record

PICTURES = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.every_n_steps=2")
PROMPTS = "callbacks.samples.prompts=[{prompt: a star, seed: 0},{prompt: a star, seed: 1},a cat]"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "it")


@pytest.fixture(scope="module")
def run(random_base: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "run"
    return command(random_base, folder, *PICTURES, PROMPTS, f"report.scorer={clip}", "logger=csv")


def scored_again(run: Path, clip: Path, cache: Path) -> Scored:
    from loralab.report.run import read

    found, unread = scored(
        run, references_of(read(run).settings), Embeddings(str(clip), str(cache), torch.device("cpu"))
    )
    assert not unread
    return found


def test_the_scores_of_a_run_are_recorded_and_logged(run: Path, clip: Path, tmp_path: Path) -> None:
    expected = scored_again(run, clip, tmp_path)
    assert [*expected] == [0, 2, 3]
    assert all([*scores] == ["score/images", "score/prompt", "score/diversity"] for scores in expected.values())
    metrics = record(run)["metrics"]
    assert {name: metrics[name] for name in expected[3]} == pytest.approx(expected[3], abs=1e-6)
    (file,) = run.rglob("metrics.csv")
    with open(file, newline="") as text:
        rows = [row for row in csv.DictReader(text) if row["score/prompt"]]
    assert {int(row["step"]): float(row["score/prompt"]) for row in rows} == pytest.approx(
        {step: scores["score/prompt"] for step, scores in expected.items()}, abs=1e-6
    )
    assert "scores    by" in (run / "train.log").read_text()
    assert "20 of 20 training images" in (run / "train.log").read_text()


def test_a_scorer_changes_nothing_but_the_scores(run: Path, train) -> None:
    other = train(*PICTURES, PROMPTS, "logger=csv")
    assert not [name for name in record(other)["metrics"] if name.startswith("score/")]
    assert record(other)["digests"] == record(run)["digests"]
    assert record(other)["signature"] == record(run)["signature"]
    assert "scores" not in (other / "train.log").read_text()


def test_a_scorer_that_fails_costs_nothing(train, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its vocabulary is damaged in a way that only loading it shows."""
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(clip, broken)
    (broken / "vocab.json").write_text("{")
    folder = train(*PICTURES, f"report.scorer={broken}", code=1)
    assert record(folder)["status"] == "finished with errors"
    assert "scores failed" in record(folder)["errors"][0]
    assert (folder / "adapter.safetensors").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("report.scorer=/no/such", *PICTURES), "'/no/such' was not found"),
        (("report.scorer=shapes",), "has no effect with callbacks.samples.enabled=false"),
        (
            ("report.scorer=shapes", *PICTURES[:1], "callbacks.samples.before=false", "callbacks.samples.after=false"),
            "there are no pictures to score",
        ),
        (("report.scorrer=shapes",), "did you mean"),
    ],
)
def test_what_is_refused(train, capsys: pytest.CaptureFixture, overrides: tuple[str, ...], expected: str) -> None:
    train(*overrides, code=1)
    said = capsys.readouterr()
    assert expected in said.err
    assert "loading" not in said.out


def test_a_search_goes_by_the_metric_that_is_chosen(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A score is maximised; the table names the best run by it, and that of the lowest loss."""
    import optuna

    folder, words = tmp_path / "points", ("sweep=optuna", "data/validation=split", "hydra.sweeper.n_trials=3")
    words = ("-m", *words, "report.scorer=shapes", "callbacks.samples.before=false", *PICTURES[:2])
    train(*words, "hydra.sweeper.metric=score/prompt", f"hydra.sweep.dir={folder}")
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'search.sqlite'}")
    values = [record(folder / str(number))["metrics"]["score/prompt"] for number in range(3)]
    assert [trial.value for trial in study.trials] == values
    assert study.best_value == max(values)
    said = capsys.readouterr().out
    assert f"highest score/prompt: points/{values.index(max(values))}" in said
    assert "lowest validation/loss: points/" in said
    assert "hydra.sweeper.pruner has no effect" in said
    train(*words, "hydra.sweeper.metric=score/images", f"hydra.sweep.dir={folder}", "resume=auto", code=1)
    assert "the search in this folder goes by score/prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "more", "expected"),
    [
        ("score/prompt", (), "valid: loss; score/prompt needs report.scorer=FOLDER"),
        ("validation/loss", (), "valid: loss; validation/loss needs data/validation=split"),
        ("score/diversity", ("report.scorer=shapes", *PICTURES[:1]), "needs report.scorer=FOLDER of a CLIP model and"),
        ("accuracy", ("data/validation=split",), "valid: loss, validation/loss"),
    ],
)
def test_a_search_by_a_metric_that_runs_will_not_have(train, capsys, metric: str, more: tuple, expected: str) -> None:
    train("sweep=optuna", f"hydra.sweeper.metric={metric}", *more, code=1)
    said = capsys.readouterr()
    assert f"the runs will not have the metric '{metric}'" in said.err
    assert expected in said.err
    assert "loading" not in said.out


def test_metrics_that_a_run_will_have() -> None:
    """Diversity needs two seeds of one prompt."""
    from loralab.checks.metrics import metrics
    from loralab.schema.compose import compose

    several = ("callbacks.samples.seeds=2", PROMPTS, "callbacks.samples.prompts=[a cat --d 1,a cat --d 2]")
    single = ("callbacks.samples.prompts=[a cat,a dog]", "callbacks.samples.prompts=[a cat,{prompt: a cat, seed: 0}]")
    for words, has in [*((words, True) for words in several), *((words, False) for words in single)]:
        assert ("score/diversity" in metrics(compose(["report.scorer=shapes", words]).tree)) == has, words
