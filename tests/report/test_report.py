"""`loralab report` on real runs: what its page is given, where it goes, and that a sweep writes it by itself."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import mean, stdev
from subprocess import PIPE, Popen

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.support.board import rows, tensorboard
from tests.support.reports import report, shown, variant
from tests.support.runs import command as train_command
from tests.support.runs import record

USUAL = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.prompts=[a,'</script><b>']")


@pytest.fixture(scope="module")
def run(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with pictures and a validation set; do not write into it."""
    folder = tmp_path_factory.mktemp("report") / "run"
    return train_command(random_base, folder, "data/validation=split", *USUAL, "callbacks.samples.every_n_steps=2")


@pytest.fixture(scope="module")
def sweep(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a sweep whose runs differ by rate and seed only, and what it said; default settings log every
    curve. Do not write into it."""
    home = tmp_path_factory.mktemp("sweep")
    words = ("-m", "optimizer.lr=1e-4,1e-3", "seed=0,1", f"hydra.sweep.dir={home / 'sweep'}", *USUAL)
    words += ("data/validation=split", "trainer.max_steps=10", "data.batch_size=4")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.chdir(home)
        train_command(random_base, home / "unused", *words)
    return home / "sweep", said.getvalue()


def test_a_sweep_writes_its_report(sweep: tuple[Path, str]) -> None:
    page = sweep[0] / "report" / "index.html"
    assert f"report: {page} (4 runs, 16 pictures)" in sweep[1]
    values = shown(page)
    assert values["settings"] == ["optimizer.lr", "seed"]
    assert [run["values"] for run in values["runs"]] == [
        {"optimizer.lr": rate, "seed": seed} for rate in (1e-4, 1e-3) for seed in (0, 1)
    ]
    assert [run["group"] for run in values["runs"]] == [0, 0, 1, 1]
    for run in values["runs"]:
        facts = record(Path(run["folder"]))
        for name, figure in (("validation/loss", facts["metrics"]["validation/loss"]), ("loss", facts["loss"])):
            assert run["figures"][name] == figure
        assert run["figures"]["best"] == pytest.approx(min(run["curves"]["validation/loss"][1]), rel=1e-4)
        assert {"loss", "validation/loss", "validation/trained", "lr/text_encoder"} == set(run["curves"]), "one rate"
        assert "optimizer.lr=" in run["commands"][0]
    means = [sum(values["runs"][i + n]["figures"]["validation/loss"] for n in (0, 1)) / 2 for i in (0, 2)]
    assert [group["mean"] for group in values["groups"]] == pytest.approx(means)
    worse = 1 - values["best"]
    assert values["groups"][worse]["comparison"]["mean"] == pytest.approx(abs(means[0] - means[1]))


def test_a_sweep_prints_its_losses_over_seeds(sweep: tuple[Path, str]) -> None:
    folder, said = sweep
    losses = [record(folder / str(number))["metrics"]["validation/loss"] for number in range(4)]
    rows = {"1e-4": losses[:2], "1e-3": losses[2:]}
    (low, lowest), (high, highest) = sorted(rows.items(), key=lambda row: mean(row[1]))
    apart = [b - a for a, b in zip(lowest, highest, strict=True)]
    reach = 12.706 * stdev(apart) / math.sqrt(2)  # Student's t for two pairs
    bounds = f"(95 %: {mean(apart) - reach:.4f} to {mean(apart) + reach:.4f})"
    same = ", not distinguishable from the lowest" if abs(mean(apart)) <= reach else ""
    assert said.partition("over seeds:\n")[2].splitlines()[:2] == [
        f"    optimizer.lr={low}  {mean(lowest):.4f} ± {stdev(lowest):.4f}",
        f"    optimizer.lr={high}  {mean(highest):.4f} ± {stdev(highest):.4f}  +{mean(apart):.4f} {bounds}{same}",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's
def test_tensorboard_shows_a_sweep_as_one_table(sweep: tuple[Path, str]) -> None:
    """A row for each run, what is swept first, with the metrics of its record; curves and pictures by name."""
    ask = tensorboard(sweep[0], runs=4)
    table = ask("plugin/hparams/experiment")
    assert [info["name"] for info in table["hparamInfos"]][:2] == ["optimizer.lr", "seed"]
    assert {info["name"] for info in table["hparamInfos"] if info["differs"]} == {"optimizer.lr", "seed"}
    metrics = ["validation/loss", "validation/gap", "loss_epoch"]
    assert [info["name"]["tag"] for info in table["metricInfos"]][:3] == metrics
    points = [(rate, seed) for rate in ("1e-4", "1e-3") for seed in (0, 1)]
    names = [f"{n}/tensorboard/lr={rate}_seed={seed}" for n, (rate, seed) in enumerate(points)]
    for row, name, (rate, seed) in zip(rows(ask), names, points, strict=True):
        assert (row["name"], row["sessions"][0]["status"]) == (name, "STATUS_SUCCESS")
        cells = [row["hparams"][key] for key in ("optimizer.lr", "seed", "adapter.rank", "optimizer")]
        assert cells == [float(rate), seed, 4, "AdamW"]
        facts = record(sweep[0] / name[0])
        found = {cell["name"]["tag"]: cell["value"] for cell in row["metricValues"]}
        expected = [facts["metrics"]["validation/loss"], facts["metrics"]["validation/gap"], facts["loss"]]
        assert [found[metric] for metric in metrics] == pytest.approx(expected)
    assert sorted(ask("plugin/scalars/tags")) == names
    assert sorted(ask("plugin/images/tags")[names[0]]) == ["samples/</script><b>", "samples/a"]


def test_a_report_that_fails_costs_the_sweep_nothing(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "report").write_text("in the way")
    train("-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}", "trainer.max_steps=1")
    told = capsys.readouterr()
    assert "sweep: 2 runs: 2 finished" in told.out
    assert "no report" in told.err
    assert "Traceback" not in told.err
    assert (tmp_path / "sweep" / "report").read_text() == "in the way"


def test_a_single_run_is_shown_with_its_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    report(copy)
    assert "1 run, 6 pictures" in capsys.readouterr().out
    values = shown(copy / "report" / "index.html")
    (entry,) = values["runs"]
    assert [(step, prompt) for step, prompt, *_ in entry["pictures"]] == [(s, p) for s in (0, 2, 3) for p in (0, 1)]
    assert [prompt.partition("\n")[0] for prompt in values["prompts"]] == ["a", "</script><b>"]
    moved = (copy / "report").rename(tmp_path / "elsewhere")
    shutil.rmtree(copy)
    for _, _, name, width, height in entry["pictures"]:
        full = (moved / entry["media"] / f"{name}.png").read_bytes()
        assert full == (run / "samples" / f"{name}.png").read_bytes()
        with Image.open(moved / entry["media"] / f"{name}.webp") as thumbnail:
            assert thumbnail.size == (width, height)


def test_what_is_not_as_it_should_be_is_named_and_the_rest_is_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        variant(run, tmp_path / "runs" / name, (2, 1), seed=seed)
    broken = tmp_path / "runs" / "a" / "samples"
    (broken / "step00000000-00.png").write_bytes(b"no picture")
    whole = (broken / "step00000000-01.png").read_bytes()
    (broken / "step00000000-01.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "c" / "run.json").write_text('{"status": "fin')
    facts = json.loads((tmp_path / "runs" / "b" / "run.json").read_text())
    kept = {"status": "running", "overrides": 7, "errors": 5, "loss": None}
    (tmp_path / "runs" / "b" / "run.json").write_text(json.dumps(kept))
    report(tmp_path / "runs", tmp_path / "nowhere", "--out", tmp_path / "page")
    assert "2 runs" in capsys.readouterr().out
    values = shown(tmp_path / "page" / "index.html")
    notes = "\n".join(values["notes"])
    for words in ("c: run.json is damaged", "nowhere: folder not found", "-00.png is damaged", "-01.png is damaged"):
        assert words in notes
    running = values["runs"][1]
    assert running["status"] == "killed", "no process holds its folder"
    assert running["figures"]["validation/loss"] == pytest.approx(facts["metrics"]["validation/loss"], rel=0.6)
    report(tmp_path / "nowhere", code=1)
    assert "folder not found" in capsys.readouterr().err


def test_the_folder_is_new_or_a_reports(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = variant(run, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my page")
    report(folder, "--out", tmp_path / "mine", code=1)
    assert "contains other files" in capsys.readouterr().err
    assert (tmp_path / "mine" / "index.html").read_text() == "my page"
    report(folder)
    report(folder)
    (tmp_path / "file").write_text("")
    report(folder, "--out", tmp_path / "file", code=1)


def test_pictures_follow_their_runs(run: Path, tmp_path: Path) -> None:
    """Those of runs that are gone go, a picture drawn anew is shown anew, and the others are left as they are."""
    runs = [variant(run, tmp_path / "runs" / str(seed), (1, 2), seed=seed) for seed in range(2)]
    report(tmp_path / "runs")
    files = tmp_path / "runs" / "report" / "index_files"
    before = {file: file.stat().st_mtime_ns for file in files.rglob("*.webp")}
    assert len(before) == 4
    shutil.rmtree(runs[1])
    info = PngInfo()
    info.add_itxt("parameters", "anew")
    Image.new("RGB", (600, 300), (10, 200, 30)).save(tmp_path / "anew.png", pnginfo=info)
    os.replace(tmp_path / "anew.png", runs[0] / "samples" / "step00000100-00.png")
    report(tmp_path / "runs")
    after = {file: file.stat().st_mtime_ns for file in files.rglob("*.webp")}
    (entry,) = shown(tmp_path / "runs" / "report" / "index.html")["runs"]
    folder = tmp_path / "runs" / "report" / entry["media"]
    assert set(after) == {folder / "step00000000-00.webp", folder / "step00000100-00.webp"}
    assert after[folder / "step00000000-00.webp"] == before[folder / "step00000000-00.webp"]
    with Image.open(folder / "step00000100-00.webp") as thumbnail:
        assert thumbnail.size == (256, 128)
        pixel = thumbnail.convert("RGB").getpixel((100, 60))
    assert all(abs(got - wanted) < 12 for got, wanted in zip(pixel, (10, 200, 30), strict=True))  # type: ignore[arg-type]


def test_watching_writes_again_when_a_run_goes_on(run: Path, tmp_path: Path) -> None:
    """Until it is interrupted, and only when something has changed."""
    folder = variant(run, tmp_path / "run")
    page = folder / "report" / "index.html"
    words = [sys.executable, "-m", "loralab", "report", str(folder), "--watch", "0.05"]
    with Popen(words, stdout=PIPE, stderr=PIPE, text=True) as watching, ExitStack() as end:
        end.callback(watching.kill)
        assert watching.stdout
        assert watching.stderr
        assert watching.stdout.readline().startswith(f"{page}: 1 run")
        written = page.stat().st_mtime_ns
        time.sleep(0.5)  # ten looks at an unchanged folder
        assert page.stat().st_mtime_ns == written
        (folder / "run.json").write_text(json.dumps(record(folder) | {"status": "interrupted"}))
        assert watching.stdout.readline().startswith(f"{page}: 1 run")
        assert shown(page)["runs"][0]["status"] == "interrupted"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=60) == 128 + signal.SIGINT
        assert "Traceback" not in watching.stderr.read()
