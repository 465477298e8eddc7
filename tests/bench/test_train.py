"""`loralab bench train` and `start`: what their figures are made of."""

import json

import pytest
import torch

from loralab import cli
from loralab.bench import start
from loralab.bench.laps import Laps
from loralab.bench.peak import peak_flops
from loralab.bench.train import compared


def test_ratios_are_of_one_round_each() -> None:
    def round_of(ours: float, theirs: float) -> dict:
        return {"loralab": {"seconds_per_step": ours}, "plain": {"seconds_per_step": theirs, "flops": 4e9}}

    found = compared([round_of(1, 2), round_of(30, 40), round_of(2, 2)], peak=16e9)
    assert (found["ratio"], found["ratios"]) == (0.75, [0.5, 1.0])
    assert found["loralab"] == {"seconds_per_step": 2, "share_of_peak": 0.125}
    assert found["plain"] == {"seconds_per_step": 2, "share_of_peak": 0.125}


def test_no_product_is_faster_than_the_peak() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e14


@pytest.mark.slow
@pytest.mark.ci
def test_a_step_is_measured_and_its_work_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "train", "--steps=2", "--warmup=1", "--rank=4"])
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"] == found["ratios"][0] == found["ratios"][1] > 0
    for way in ("loralab", "plain"):
        assert found[way]["seconds_per_step"] > 0
        assert 0 < found[way]["share_of_peak"] < 1
    between, waiting = (found["loralab"][f"seconds_{what}"] for what in ("between_steps", "waiting_for_data"))
    assert 0 < waiting < between < found["loralab"]["seconds_per_step"]
    assert 0.0004 < found["tflop_per_step"] < 0.001  # forward and backward of 4 M parameters at 8×8, and of the text


def test_laps_leave_out_the_warm_up() -> None:
    laps = Laps(warmup=2)
    laps.times, laps.pauses = [0.0, 100.0, 102.0, 104.5, 106.0], [50.0, 0.5, 0.25, 0.75]
    found = laps.figures(torch.device("cpu"), images=4)
    assert (found["seconds_per_step"], found["images_per_second"]) == (2, 2)
    assert found["seconds_between_steps"] == 0.5
    laps = Laps(warmup=0)
    laps.lap()
    assert "seconds_per_step" not in laps.figures(torch.device("cpu"), images=4), "there is no other to compare with"


def test_starts_are_compared_within_a_round() -> None:
    def round_of(first: float, again: float, plain: float) -> dict:
        seconds = {"first": first, "next": again, "plain": plain}
        return {run: {"imports": 1.0, "first step": value - 1.0} for run, value in seconds.items()}

    found = start.compared([round_of(10, 2, 8), round_of(12, 3, 6), round_of(6, 4, 6)])
    assert found["plain"] == {"stages": {"imports": 1.0, "first step": 5.0}, "seconds": 6}
    assert (found["first"]["seconds"], found["first"]["ratio"], found["first"]["ratios"]) == (10, 1.25, [1.0, 2.0])
    assert (found["next"]["ratio"], found["next"]["ratios"]) == (0.5, [0.25, 0.667])


@pytest.mark.slow
def test_the_stages_of_each_start_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "start", "--rank=4"])
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    for run in start.RUNS:
        assert {"imports", "index", "model", "caches", "first step"} <= found[run]["stages"].keys()
        assert found[run]["seconds"] == pytest.approx(sum(found[run]["stages"].values()), abs=0.1)
    assert found["next"]["stages"]["caches"] < found["first"]["stages"]["caches"], "8 images are encoded once"
