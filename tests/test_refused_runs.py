"""What only shows once the data or the base is known: told as a user's mistake, before the first step."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loralab import cli


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.limit_train_batches=0.0001", "trainer.limit_train_batches: 0.0001 of"),
        ("trainer.overfit_batches=0.001", "trainer.overfit_batches: 0.001 of"),
    ],
)
def test_a_share_of_the_batches_that_is_none(override: str, words: str, train, capsys) -> None:
    train(override, code=1)
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("prediction_type", "told"), [("sample", "sample"), ("flow_prediction", "flow")])
def test_a_base_that_predicts_something_else(
    prediction_type: str, told: str, random_base: Path, tmp_path: Path, train, capsys
):
    base = shutil.copytree(random_base, tmp_path / "base")
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": prediction_type}))
    train(f"model.base={base}", code=1)
    said = capsys.readouterr().err
    assert f"model.prediction_type: {base} predicts '{told}'" in said
    assert not (tmp_path / "run").exists(), "before anything is loaded or written"


def test_an_option_without_a_meaning_for_what_the_base_predicts(tmp_path: Path, train, capsys) -> None:
    """The base says what it predicts, or the setting does."""
    train("objective/weighting=scaled_v", code=1)
    train("objective/weighting=[v_like,min_snr]", "model.prediction_type=v_prediction", code=1)
    said = capsys.readouterr().err
    assert "objective.weighting.scaled_v: needs a model that predicts v, but this one predicts epsilon" in said
    assert "objective.weighting.v_like: needs a model that predicts epsilon, but this one predicts v" in said
    assert not (tmp_path / "run").exists(), "before anything is loaded or written"


@pytest.mark.parametrize("words", [["--steps", "0"], ["--warmup", "0"], ["--rounds", "0"], ["--batch-size", "-1"]])
def test_benchmarks_need_steps(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "train", *words])
    assert stop.value.code == 2
    assert f"argument {words[0]}: invalid value {words[1]}; valid: at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.max_steps=1"], "trainer.max_steps=1: is set by the benchmark itself"),
        (["--resolution=100"], "--resolution: invalid value 100"),
        (["--folder=nowhere"], "--folder: 'nowhere' is not a folder"),
        pytest.param(
            ["--device=cuda"],
            "--device: no CUDA device found",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
@pytest.mark.parametrize("kind", ["train", "start"])
def test_what_no_benchmark_can_measure(kind: str, words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", kind, *words])
    assert stop.value.code == 1
    assert said in capsys.readouterr().err


def test_a_benchmark_whose_training_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loralab.cli", "bench", "train", "--steps=1", "--warmup=1", "optimizer.lr=-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "optimizer.lr: invalid value -1" in done.stderr
    assert "loralab train: failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_step_whose_adapters_are_all_left_out(train) -> None:
    assert (train("adapter.module_dropout=0.999") / "adapter.safetensors").is_file()


def test_a_limit_of_time(train, capsys) -> None:
    folder = train("trainer.max_time=00:00:00:01", "trainer.max_steps=100000", "trainer.log_every_n_steps=1000")
    assert (folder / "adapter.safetensors").is_file()
    train("trainer.max_time=3h", name="refused", code=1)
    assert "trainer.max_time: invalid value '3h'" in capsys.readouterr().err
