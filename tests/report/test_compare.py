"""`loralab compare` over runs of which one is damaged: it is named, and the others are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loralab import cli

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
    compare(runs, "--json")
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
    compare(runs, "--json")
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
    compare(runs / "a", runs, "--json")
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
    assert [row["status"] for row in rows[2:]] == [
        "not compared: contains no run.json",
        "not compared: folder not found",
    ]
