"""The moving average of the adapter's weights."""

from __future__ import annotations

import io
from contextlib import suppress

import pytest
import torch
from torch.nn import Parameter

from loralab.training.ema import EMA


def drift(ema: EMA, weights: dict[str, Parameter], steps: range) -> None:
    for step in steps:
        with torch.no_grad():
            for weight in weights.values():
                weight.copy_(torch.full_like(weight, float(step)))
        ema.update(weights)


def fresh() -> dict[str, Parameter]:
    return {"down": Parameter(torch.zeros(3, 2)), "up": Parameter(torch.zeros(2))}


def test_without_warmup_it_is_a_geometric_mean_of_the_past() -> None:
    weights, ema = fresh(), EMA(decay=0.9, warmup=False)
    drift(ema, weights, range(4))  # 0, 1, 2, 3
    expected = 0.1 * 3 + 0.1 * 0.9 * 2 + 0.1 * 0.81 * 1
    assert ema.average["down"].flatten().tolist() == pytest.approx([expected] * 6)


def test_the_warmup_forgets_the_start() -> None:
    weights, ema = fresh(), EMA(decay=0.999)
    drift(ema, weights, range(2))
    assert ema.average["up"][0].item() == pytest.approx(1 - 2 / 11)
    drift(ema, weights, range(2, 50))
    slow = EMA(decay=0.999, warmup=False)
    drift(slow, fresh(), range(50))
    assert ema.average["up"][0] > 35 > 3 > slow.average["up"][0]


def test_it_takes_the_weights_place_and_gives_it_back() -> None:
    weights, ema = fresh(), EMA(decay=0.5, warmup=False)
    drift(ema, weights, range(3))
    with suppress(KeyboardInterrupt), ema.swapped(weights):
        assert weights["up"].tolist() == ema.average["up"].tolist() == [1.25, 1.25]
        raise KeyboardInterrupt  # in the middle of a preview
    assert weights["up"].tolist() == [2, 2]


def test_it_continues_to_the_bit() -> None:
    weights, ema = fresh(), EMA()
    drift(ema, weights, range(5))
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    continued = EMA()
    continued.load_state_dict(torch.load(file, weights_only=True))
    for each in (ema, continued):
        drift(each, fresh(), range(5, 9))
    assert torch.equal(ema.average["down"], continued.average["down"])


def test_it_is_kept_in_fp32() -> None:
    weights = {"up": Parameter(torch.zeros(2, dtype=torch.bfloat16))}
    ema = EMA()
    drift(ema, weights, range(3))
    assert ema.average["up"].dtype == torch.float32
    with ema.swapped(weights):
        assert weights["up"].dtype == torch.bfloat16
