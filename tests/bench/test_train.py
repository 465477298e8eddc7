"""`loralab bench train`: what its figures are made of."""

import json

import pytest
import torch

from loralab import cli
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
    assert found["loralab"]["seconds_between_steps"] < found["loralab"]["seconds_per_step"]
    assert 0.0004 < found["tflop_per_step"] < 0.001  # forward and backward of 4 M parameters at 8×8, and of the text
