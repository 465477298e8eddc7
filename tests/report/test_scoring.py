"""Runs with a scorer: their scores are measured after training, logged, and recorded; without one there are none."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from loralab.report.pictures import pictures
from loralab.report.scored import Scored, data_of, references_of, scored, words
from loralab.scorers.embeddings import Embeddings
from tests.support.clip_models import write_clip
from tests.support.reports import report, shown, variant
from tests.support.runs import command, record

PICTURES = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.every_n_steps=2")
PROMPTS = ("callbacks.samples.prompts=[a star,{prompt: a cat, seed: 5}]", "callbacks.samples.seeds=2")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "it")


@pytest.fixture(scope="module")
def run(random_base: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored") / "run"
    return command(random_base, folder, *PICTURES, *PROMPTS, f"report.scorer={clip}", "logger=many")


@pytest.fixture(scope="module")
def plain(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without a scorer."""
    return command(random_base, tmp_path_factory.mktemp("plain") / "run", *PICTURES, *PROMPTS, "logger=many")


def scored_again(run: Path, clip: Path, cache: Path) -> Scored:
    from loralab.report.run import read

    found, unread = scored(
        run, references_of(data_of(read(run).settings)), Embeddings(str(clip), str(cache), torch.device("cpu"))
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


def test_each_prompt_is_drawn_with_several_seeds(run: Path) -> None:
    drawn = [(words(each), each.prompt.partition("Seed: ")[2].partition(",")[0]) for each in pictures(run)[0]]
    assert drawn == 3 * [("a star", "0"), ("a star", "1"), ("a cat", "5"), ("a cat", "6")]


def test_a_scorer_changes_nothing_but_the_scores(run: Path, plain: Path) -> None:
    assert not [name for name in record(plain)["metrics"] if name.startswith("score/")]
    assert record(plain)["digests"] == record(run)["digests"]
    assert record(plain)["signature"] == record(run)["signature"]
    assert "scores" not in (plain / "train.log").read_text()


def test_a_scorer_that_fails_costs_nothing(train, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its vocabulary is damaged in a way that only loading it shows."""
    broken = tmp_path / "broken"
    shutil.copytree(clip, broken)
    (broken / "vocab.json").write_text("{")
    folder = train(*PICTURES, f"report.scorer={broken}", code=1)
    assert record(folder)["status"] == "finished with errors"
    assert "scores failed" in record(folder)["errors"][0]
    assert (folder / "adapter.safetensors").exists()


def test_a_report_scores_the_pictures_of_earlier_runs(
    run: Path, plain: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they would have been after training; a second report needs no scorer."""
    for seed in (0, 1):
        folder = variant(plain, tmp_path / "runs" / str(seed), (0, 0), seed=seed)
        shutil.copytree(plain / "samples", folder / "samples", dirs_exist_ok=True)
    page = tmp_path / "runs" / "report" / "index.html"
    report(tmp_path / "runs")
    assert not [name for entry in shown(page)["runs"] for name in entry["figures"] if name.startswith("score/")]
    report(tmp_path / "runs", "--scorer", clip, "--metric", "score/prompt")
    values, expected = shown(page), scored_again(run, clip, tmp_path)
    assert (values["metric"], values["higher"]) == ("score/prompt", True)
    assert values["groups"][0]["mean"] == pytest.approx(expected[3]["score/prompt"], abs=1e-6)
    for entry in values["runs"]:
        assert {name: entry["figures"][name] for name in expected[3]} == pytest.approx(expected[3], abs=1e-6)
        assert entry["curves"]["score/images"][0] == [0, 2, 3]
    monkeypatch.setattr("loralab.scorers.scorer.load", lambda *_: pytest.fail("loaded again"))
    report(tmp_path / "runs", "--scorer", clip)
    again = shown(page)
    assert again["metric"] == "loss"
    assert again["runs"][0]["figures"]["score/prompt"] == values["runs"][0]["figures"]["score/prompt"]


def test_what_a_report_says_where_there_is_nothing_to_score(train, tmp_path: Path, capsys) -> None:
    folder = train(name="runs/0")
    report(folder, "--scorer", "shapes", "--metric", "score/prompt")
    notes = shown(folder / "report" / "index.html")["notes"]
    assert "0: has no pictures to score" in notes
    assert "no run has score/prompt: they are compared by loss" in notes
    report(folder, "--scorer", "/no/such", code=1)
    assert "--scorer: '/no/such' was not found" in capsys.readouterr().err


def test_training_images_that_are_gone_cost_their_score_alone(run: Path, tmp_path: Path) -> None:
    folder = variant(run, tmp_path / "0", (0, 0), data__folder=str(tmp_path / "gone"))
    shutil.copytree(run / "samples", folder / "samples", dirs_exist_ok=True)
    report(folder, "--scorer", "shapes")
    values = shown(folder / "report" / "index.html")
    assert "score/prompt" in values["runs"][0]["figures"]
    assert "score/images" not in values["runs"][0]["figures"]
    assert any("not compared with its training images" in note for note in values["notes"])


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

    mappings = "callbacks.samples.prompts=[{prompt: a star, seed: 0},{prompt: a star, seed: 1}]"
    several = ("callbacks.samples.seeds=2", mappings, "callbacks.samples.prompts=[a cat --d 1,a cat --d 2]")
    single = ("callbacks.samples.prompts=[a cat,a dog]", "callbacks.samples.prompts=[a cat,{prompt: a cat, seed: 0}]")
    for override in (*several, *single):
        has = "score/diversity" in metrics(compose(["report.scorer=shapes", override]).tree)
        assert has == (override in several), override
