"""Where runs log, and by which names they are found: shared folders, Weights & Biases, the profile."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loralab.report.loggers import placed, run_name
from loralab.training.run_state import RunState


def records(file: Path) -> Iterator[Any]:
    """What wandb has written: protocol buffers in the blocks of LevelDB's log format, behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def history(found: list[Any]) -> dict[str, list[Any]]:
    """Every curve's values by name."""
    curves: dict[str, list[Any]] = {}
    for record in found:
        for item in record.history.item:
            curves.setdefault(item.key or ".".join(item.nested_key), []).append(json.loads(item.value_json))
    return curves


def of_wandb(folder: Path) -> tuple[str, str, list[str], dict[str, Any], dict[str, list[Any]]]:
    """Name, group, tags, settings and curves of a run, from what is written offline."""
    (file,) = folder.rglob("*.wandb")
    found = list(records(file))
    (run,) = [r.run for r in found if r.WhichOneof("record_type") == "run"][:1]
    assert (run.entity, run.notes) == ("somebody", "hello")
    assert [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"] == [0]
    assert list((file.parent / "files" / "media").rglob("*.png"))
    settings = {i.key: json.loads(i.value_json) for r in found for i in r.run.config.update if i.key != "_wandb"}
    settings |= {i.key: json.loads(i.value_json) for r in found for i in r.config.update if i.key != "_wandb"}
    return run.display_name, run.run_group, list(run.tags), settings, history(found)


def of_mlflow(database: Path) -> Iterator[tuple[Any, set[str]]]:
    """The runs and their pictures, from the database."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    (experiment,) = client.search_experiments(filter_string="name = 'loralab'")
    for run in client.search_runs([experiment.experiment_id]):
        yield run, {Path(file.path).name.partition("+")[0] for file in client.list_artifacts(run.info.run_id, "images")}


@pytest.mark.skipif(
    not all(map(find_spec, ("wandb", "mlflow", "joblib"))), reason="pip install wandb mlflow hydra-joblib-launcher"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of mlflow's
@pytest.mark.slow
@pytest.mark.ci
def test_all_loggers_get_the_same(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back from what each wrote offline, of two runs at once: names, group, tags, settings, curves, pictures."""
    for name, value in {"WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "all.yaml").write_text("defaults: [tensorboard, csv, wandb, mlflow]\n")
    wandb = ("logger.wandb.offline=true", "logger.wandb.tags=[three]", "logger.wandb.notes=hello")
    pictures = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.prompts=['a: star']")
    swept = ("-m", "sweep=parallel", "optimizer.lr=1e-4,1e-3", f"hydra.sweep.dir={tmp_path / 'lab'}")
    usual = ("trainer.log_every_n_steps=1", "logger.wandb.entity=somebody", "run.name=mine", "run.tags=[one,two]")
    train("logger=all", *wandb, *pictures, *swept, *usual)
    stored = {run.info.run_name: (run, drawn) for run, drawn in of_mlflow(tmp_path / "mlflow.db")}
    for number, rate in enumerate(("1e-4", "1e-3")):
        folder, called = tmp_path / "lab" / str(number), f"mine_{number}_lr={rate}"
        name, group, tags, settings, curves = of_wandb(folder)
        run, drawn = stored.pop(called)
        assert (name, group, tags) == (called, "lab", ["three", "one", "two"])
        assert (run.info.status, run.data.tags["group"], run.data.tags["tags"]) == ("FINISHED", "lab", "one, two")
        assert len(curves["loss_step"]) == 3
        assert curves["lr/unet"][-1] == run.data.metrics["lr/unet"] == float(rate)
        (listed,) = folder.glob(f"csv/lr={rate}/hparams.yaml")
        assert set(settings) == set(run.data.params) == set(yaml.safe_load(listed.read_text()))
        assert (settings["optimizer.lr"], run.data.params["optimizer.lr"]) == (float(rate), str(float(rate)))
        rows = list(csv.DictReader((listed.parent / "metrics.csv").open()))
        board = EventAccumulator(str(folder / "tensorboard" / f"lr={rate}")).Reload().Tags()
        own = {"trainer/global_step", "_step", "_timestamp", "_runtime", "samples/a: star"}
        assert {n for n in curves if not n.startswith("samples/")} - own == set(run.data.metrics)
        assert set(board["scalars"]) == set(rows[0]) - {"step"} == set(run.data.metrics)
        assert (board["images"], drawn) == (["samples/a: star"], {"samples a star"})
        assert any(n.startswith("samples/a: star") for n in curves)
    assert not stored


def test_runs_in_a_shared_folder_go_by_their_names(train, tmp_path: Path) -> None:
    shared = ("logger=many", f"logger.tensorboard.save_dir={tmp_path / 'logs'}", f"logger.csv.save_dir={tmp_path}")
    usual = ("logger.tensorboard.name=null", "trainer.max_steps=1")
    train(*shared, *usual, name="first")
    train(*shared, *usual, name="second")
    train(*shared, *usual, name="first/again/first")
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["first", "first-2", "second"]
    assert all(list((tmp_path / "logs" / name).glob("events*")) for name in names)
    assert sorted(path.name for path in (tmp_path / "csv").iterdir()) == names


@pytest.mark.parametrize(
    ("folder", "own", "called", "name"),
    [
        ("/x/outputs/2026-01-02/10-11-12", [], None, "2026-01-02_10-11-12"),
        ("/x/multirun/2026-01-02/10-11-12/3", ["optimizer.lr=1e-4"], None, "2026-01-02_10-11-12_3_lr=1e-4"),
        ("/x/mine", [], None, "mine"),
        ("/x/mine", [], "baseline", "baseline"),
        ("/x/lab/0", ["output.folder=/a/b"], None, "0_folder=-a-b"),
        ("/x/lab/0", ["objective/loss=l1", "+a.b=c:d?"], "base", "base_0_objective-loss=l1_b=c-d-"),
        ("/x/lab/0", [f"a.b={'é' * 300}"], None, f"0_b={'é' * 98}"),
    ],
)
def test_the_name_of_a_run(folder: str, own: list[str], called: str | None, name: str) -> None:
    assert run_name(Path(folder), own, called, Path("/x/lab") if own else None) == name


def test_what_a_user_has_said_stands() -> None:
    run = RunState(Path("/x/run"), {"run": {"name": "r", "tags": ["two", "one"]}})
    assert placed({"save_dir": "logs", "name": "a", "version": "b"}, run, None) == {}
    assert placed({"save_dir": None, "name": "a", "version": "b"}, run, None) == {"save_dir": "/x/run"}
    wandb = {"save_dir": "w", "project": "p", "name": "a", "group": "g", "tags": ["one"]}
    assert placed(wandb, run, Path("/x")) == {"tags": ["one", "two"]}
    mlflow = {"save_dir": "w", "experiment_name": "p", "run_name": None, "tags": {"group": "g"}}
    assert placed(mlflow, run, Path("/x")) == {"run_name": "r_run", "tags": {"group": "g", "tags": "two, one"}}


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_the_profile_is_written(train, profiler: str, capsys: pytest.CaptureFixture) -> None:
    folder = train("debug=profile", f"trainer.profiler={profiler}", "trainer.max_steps=2")
    assert "optimizer_step" in (folder / "fit-profile.txt").read_text()
    assert str(folder / "fit-profile.txt") in capsys.readouterr().out
