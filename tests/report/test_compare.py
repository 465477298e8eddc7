"""`loralab compare`: runs of several seeds are one; a damaged run is named, and the others are compared."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from loralab import cli
from loralab.report.contents import contents
from loralab.report.gather import gather

RECORD = {"status": "finished", "steps": 3, "seconds": 1.5, "loss": 0.25, "metrics": {"validation/loss": 0.5}}
CONFIG = "seed: {seed}\noptimizer:\n  lr: ${{suggested.lr}}\nsuggested:\n  lr: 0.5\n"


def put(folder: Path, record: object = None, config: str | None = None, seed: int = 0) -> Path:
    (folder / "config").mkdir(parents=True)
    text = record if isinstance(record, str) else json.dumps(record or RECORD)
    (folder / "run.json").write_text(text)
    (folder / "config" / "config.yaml").write_text(CONFIG.format(seed=seed) if config is None else config)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    put(tmp_path / "runs" / "a", seed=1)
    put(tmp_path / "runs" / "b", seed=2)
    return tmp_path / "runs"


def compare(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", *map(str, words)])
    assert (end.value.code or 0) == code


@pytest.mark.parametrize(
    ("record", "config", "words"),
    [
        pytest.param('{"status": "fin', None, "run.json is damaged or incomplete", id="cut"),
        pytest.param("", None, "run.json is damaged or incomplete", id="empty"),
        pytest.param("[]", None, "run.json is not the record of a run", id="a list"),
        pytest.param("7", None, "run.json is not the record of a run", id="a number"),
        pytest.param("[" * 100_000, None, "run.json is nested too deeply", id="deep"),
        pytest.param({**RECORD, "loss": "low"}, None, "loss is 'low', not a number", id="a text for a loss"),
        pytest.param({**RECORD, "metrics": {"validation/loss": []}}, None, "not a number", id="a list for a metric"),
        pytest.param({"steps": 3}, None, "run.json is not the record of a run", id="no status"),
        pytest.param(None, "a: [1, 2", "config/config.yaml is damaged or incomplete", id="config cut"),
        pytest.param(None, "", "config.yaml contains no settings", id="config empty"),
        pytest.param(None, "- a\n- b\n", "config.yaml contains no settings", id="config a list"),
        pytest.param(None, "text", "config.yaml contains no settings", id="config a text"),
        pytest.param(None, "[" * 5000, "config/config.yaml", id="config deep"),
        pytest.param(None, "a: !!python/object/apply:os.system [exit]", "config/config.yaml is damaged", id="a tag"),
        pytest.param(None, "a: ${oops", "config/config.yaml is damaged", id="half an interpolation"),
    ],
)
def test_one_damaged_run_is_named(
    runs: Path, capsys: pytest.CaptureFixture, record: object, config: str | None, words: str
) -> None:
    put(runs / "c", record, config)
    compare(runs, "--each", "--json")
    a, b, damaged = json.loads(capsys.readouterr().out)
    assert (a["seed"], b["seed"], a["loss"], b["validation/loss"]) == (1, 2, 0.25, 0.5)
    assert set(damaged) == {"run", "status"}
    assert damaged["run"] == str(runs / "c")
    assert words in damaged["status"]
    compare(runs)
    assert "not compared" in capsys.readouterr().out.replace("\n", " ")
    compare(runs / "c", code=1)
    assert words in capsys.readouterr().err


def test_what_an_interpolation_means_no_more_stays_as_written(runs: Path, capsys: pytest.CaptureFixture) -> None:
    put(
        runs / "c",
        config=CONFIG.format(seed=3) + "output:\n  folder: ${oc.env:NOT_SET_ANYWHERE}\n1: {2: ['${nope}']}\n",
    )
    compare(runs, "--each", "--json")
    *_, c = json.loads(capsys.readouterr().out)
    assert c["output.folder"] == "${oc.env:NOT_SET_ANYWHERE}"
    assert c["seed"] == 3
    assert "optimizer.lr" not in c, "it is resolved, and the same in all"


def test_values_are_text_and_not_markup(runs: Path, capsys: pytest.CaptureFixture) -> None:
    put(runs / "c", config="seed: '[/red] \\x1b[31m'\nb: !!binary aGk=\n".replace("'", '"'))
    compare(runs)
    said = capsys.readouterr().out
    assert "[/red]" in said
    assert "\x1b" not in said


def test_runs_are_named_by_what_tells_them_apart(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    compare(runs)
    assert str(tmp_path) not in capsys.readouterr().out.replace("\n", "")
    compare(runs / "a", runs, "--each", "--json")
    assert {row["run"] for row in json.loads(capsys.readouterr().out)} == {str(runs / "a"), str(runs / "b")}, "in full"


def test_the_page_goes_where_it_can(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Into a folder that is not there yet; a folder, or a path through a file, is an error."""
    compare(runs, "--html", tmp_path / "new" / "deep" / "page.html")
    assert "loralab report" in (tmp_path / "new" / "deep" / "page.html").read_text()
    assert "the page of loralab report" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    for place, found in ((runs, "is a folder"), (tmp_path / "file" / "page.html", "is a file")):
        compare(runs, "--html", place, code=1)
        assert found in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_without_a_run_is_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    compare(runs, tmp_path / "empty", tmp_path / "nowhere", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows[1:]] == [
        "not compared: contains no run.json",
        "not compared: folder not found",
    ]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three learning rates: of two the losses over three seeds overlap, the third is worse, and failed for one seed."""
    losses = {"0.1": (0.50, 0.54, 0.52), "0.2": (0.51, 0.51, 0.53), "0.3": (0.70, 0.74, None)}
    for rate, values in losses.items():
        for seed, loss in enumerate(values):
            record = {**RECORD, "metrics": {} if loss is None else {"validation/loss": loss}}
            record["status"] = "finished" if loss else "failed"
            config = CONFIG.format(seed=seed).replace("0.5", rate) + f"output:\n  name: {rate}-{seed}\n"
            put(tmp_path / "sweep" / f"{rate}-{seed}", record, config)
    return tmp_path / "sweep"


def test_runs_that_differ_by_their_seed_only_are_one(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    """Mean, standard deviation and number, by the statistics module."""
    put(sweep / "other", config=CONFIG.format(seed=0) + "extra: 1\n")
    compare(sweep, "--json")
    first, second, third, alone = json.loads(capsys.readouterr().out)
    assert first["run"] == [str(sweep / f"0.1-{seed}") for seed in range(3)]
    assert (first["seed"], first["optimizer.lr"], first["status"]) == ([0, 1, 2], 0.1, "finished")
    for row, values in ((first, [0.50, 0.54, 0.52]), (second, [0.51, 0.51, 0.53]), (third, [0.70, 0.74])):
        expected = {"mean": statistics.fmean(values), "spread": statistics.stdev(values), "n": len(values)}
        assert row["validation/loss"] == pytest.approx(expected)
    assert third["status"] == "2 finished, 1 failed"
    assert alone["run"] == str(sweep / "other")
    assert alone["validation/loss"] == 0.5, "the lowest, but a single run"
    verdicts = [row["validation/loss above the lowest"] for row in (first, second, third, alone)]
    assert verdicts[3] == "the lowest"
    assert set(verdicts[:3]) == {"fewer than two seeds in common with the lowest"}


def test_what_cannot_be_told_apart_is_said_as_on_the_page(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    compare(sweep, "--json")
    verdicts = [row["validation/loss above the lowest"] for row in json.loads(capsys.readouterr().out)]
    assert verdicts[1] == "the lowest"
    assert verdicts[0].startswith("+0.0033 (95 %: -0.0")
    assert verdicts[0].endswith("not distinguishable from the lowest")
    entries, _ = contents(gather([sweep])[0], {}, "media")
    assert [group["comparison"] and group["comparison"]["distinguishable"] for group in entries["groups"]] == [
        False,
        None,
        "not distinguishable" not in verdicts[2],
    ]
    compare(sweep)
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "0.52 ± 0.02 (3)" in told
    assert "0, 1, 2" in told


def test_each_seed_can_be_shown(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    compare(sweep, "--each", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in rows] == [0, 1, 2] * 3
    assert not any("above" in name for row in rows for name in row)
