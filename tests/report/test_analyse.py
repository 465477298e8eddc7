"""`loralab analyse` on real runs and on logs with known contents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from loralab.report.analysis import analyse
from loralab.training.loss_log import RECORD, LoggedImage, append, file_of
from tests.support.runs import command
from tests.support.verbs import loralab


@pytest.fixture(scope="module")
def run(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run; do not write into it."""
    folder = tmp_path_factory.mktemp("analyse") / "run"
    return command(random_base, folder, "trainer.max_steps=12", "data.reg_folder=null", "suggested.batch_size=8")


def log(folder: Path, ranks: int = 1, images: int = 20, visits: int = 40, hard: int = 7, base: float = np.nan) -> Path:
    """The log of a run in which one image, `hard`, is three times as hard; images alternate between the ranks.

    base: the base model's losses of every fourth sample, as multiples of the run's.
    """
    random = np.random.default_rng(0)
    for rank in range(ranks):
        numbers = np.arange(rank, images, ranks)
        records = np.zeros(visits * len(numbers), RECORD)
        places = np.tile(np.arange(len(numbers)), visits)
        records["image"] = places
        records["step"] = 1 + np.repeat(np.arange(visits), len(numbers))
        records["timestep"] = random.uniform(0, 1000, len(records))
        logs = 0.2 * random.standard_normal(len(records)) - records["timestep"] / 300
        logs += np.where(numbers[places] == hard, np.log(3), 0.02 * (numbers[places] % 5))
        records["loss"] = np.exp(logs)
        records["base"] = np.where(np.arange(len(records)) % 4 == 0, base * records["loss"], np.nan)
        known = {
            i: LoggedImage(f"/data/{n:02d}.png", "", f"a, tag{n % 3}", ["a", f"tag{n % 3}"])
            for i, n in enumerate(numbers)
        }
        append(file_of(folder, rank), records, known)
    return folder


def test_the_table_of_a_real_run(run: Path, capsys: pytest.CaptureFixture) -> None:
    loralab("analyse", run, "--json")
    found = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == 20
    assert sum(row["samples"] for row in found["rows"]) == found["samples"] > 80
    loralab("analyse", run)
    text = capsys.readouterr().out
    assert f"{found['samples']} samples of 20 images, steps 1 to 12" in text
    assert "sks star" in text
    assert {row["caption"].split(",")[0] for row in found["rows"]} == {"sks star"}
    assert "red" in {tag["tag"] for tag in found["tags"]}
    assert "sks star" not in {tag["tag"] for tag in found["tags"]}, "all images have it"


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_hard_image_comes_first_from_the_logs_of_all_processes(tmp_path: Path, ranks: int) -> None:
    found = analyse(log(tmp_path, ranks))
    (first,) = (row for row in found.rows if row.reasons)
    assert found.rows[0] is first
    assert first.path == "/data/07.png"
    assert "much harder" in first.reasons[0]
    assert first.loss.low < 3 / np.exp(0.04) < first.loss.high, "the median image has 0.04"
    assert (found.samples, found.steps) == (800, (1, 40))
    assert len(first.curve) == len(found.ends) == 10
    assert np.mean(first.curve) == pytest.approx(3, rel=0.1)
    assert [tag.images for tag in sorted(found.tags, key=lambda tag: tag.tag)] == [7, 7, 6]


def test_losses_are_judged_by_the_base_model_where_its_losses_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It has twice the loss of every image: all are half as hard as for it, and equally learnt. An older log, or one
    with too few of its losses, is judged by the run's own; either is said."""
    for name in ("own", "base", "few"):
        (tmp_path / name).mkdir()
    own, by_base = analyse(log(tmp_path / "own")), analyse(log(tmp_path / "base", base=2.0))
    assert (own.by_base, own.compared, by_base.by_base, by_base.compared) == (False, 0, True, 200)
    assert "no losses of the base model" in own.baseline
    judged = {row.path: row for row in by_base.rows}
    for row in own.rows:
        other = judged[row.path]
        assert row.learnt is None
        assert other.loss.value == pytest.approx(row.loss.value / 2, rel=0.1)
        assert other.learnt is None or other.learnt.value in (None, pytest.approx(0.5))
        assert other.reasons == row.reasons
    assert sum(row.learnt is not None and row.learnt.value is not None for row in by_base.rows) >= 5
    assert np.nanmedian([row.curve[0] for row in by_base.rows]) == pytest.approx(0.5, rel=0.1)
    few = log(tmp_path / "few", images=15, visits=1, base=2.0)
    assert "too few" in analyse(few).baseline
    (tmp_path / "base" / "run.json").write_text('{"status": "finished"}')
    loralab("analyse", tmp_path / "base")
    told = " ".join(capsys.readouterr().out.split())
    assert "multiples of the base model's usual loss at the same timesteps, known from 200 of these samples" in told
    assert "learnt ×" in told


def test_losses_that_are_not_finite_are_told_and_do_not_count(tmp_path: Path) -> None:
    folder = log(tmp_path)
    bad = np.zeros(3, RECORD)
    bad["image"], bad["step"], bad["timestep"], bad["loss"] = 4, 41, 500, np.nan
    append(file_of(folder, 0), bad, {})
    found = analyse(folder)
    reasons = {row.path: row.reasons for row in found.rows if row.reasons}
    assert reasons["/data/04.png"] == ["3 of 43 losses are not finite"]
    assert set(reasons) == {"/data/04.png", "/data/07.png"}
    assert found.steps == (1, 40)


def test_a_log_that_begins_late_or_is_damaged_says_so(tmp_path: Path) -> None:
    folder = log(tmp_path)
    file = file_of(folder, 0)
    late = np.zeros(40, RECORD)
    late["image"], late["step"], late["timestep"], late["loss"] = np.arange(40) % 20, 500, 500, 0.1
    file.write_bytes(file.read_bytes()[:-5])
    append(file, late, {i: LoggedImage(f"/data/{i}.png", "", "", []) for i in range(20)})
    found = analyse(folder)
    assert found.samples == 40
    assert found.notes == [
        "losses/0.log is damaged in part: 40 samples could be read",
        "the log begins at step 500: that of the run it resumed from was not found",
    ]


def test_what_was_measured_counts_for_the_adapter_that_was_measured(tmp_path: Path) -> None:
    """The hard image was learnt by half, the others not at all, and the caption of one misleads."""
    folder = log(tmp_path)
    random = np.random.default_rng(1)
    rows = [
        {"path": row.path, "caption": row.caption, "learnt": (0.01 * random.standard_normal(5)).tolist(), "fit": fit}
        for row in analyse(folder).rows
        for fit in [(0.05 * random.standard_normal(5) + (1.2 if row.path == "/data/03.png" else -0.3)).tolist()]
    ]
    rows[0]["learnt"] = [-np.log(2)] * 5
    (folder / "losses" / "measured.json").write_text(
        json.dumps({"adapter": "a.safetensors", "digest": "1", "images": rows})
    )
    found = analyse(folder)
    assert found.measured
    assert {row.path for row in found.rows if row.reasons} == {"/data/07.png", "/data/03.png"}
    (hard,) = (row for row in found.rows if row.path == "/data/07.png")
    assert hard.learnt.value == pytest.approx(0.5)
    assert hard.learnt.low < 0.5 < hard.learnt.high
    (folder / "run.json").write_text(json.dumps({"status": "finished", "digests": {"a.safetensors": "2"}}))
    found = analyse(folder)
    assert not found.measured
    assert found.notes == ["losses/measured.json is of an earlier adapter of this run; measure again"]


def test_what_cannot_be_analysed_is_refused_in_words(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    old = shutil.copytree(run, tmp_path / "old", ignore=shutil.ignore_patterns("losses"))
    for folder, words in ((tmp_path / "none", "run.json"), (old, "has no log of losses")):
        loralab("analyse", folder, code=1)
        told = capsys.readouterr().err
        assert words in told
        assert "Traceback" not in told
    (old / "losses").mkdir()
    (old / "losses" / "0.log").write_bytes(b"\0" * 100)
    loralab("analyse", old, code=1)
    assert "has no log of losses" in capsys.readouterr().err
