"""The calculation of docs/scaling.md."""

from __future__ import annotations

import re

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import scaling
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.bench.shapes import full_size
from tests import ROOT


def test_the_page_has_the_tables() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text("utf8")
    found = re.search(r"<!-- benchmarks/scaling.py -->\n(.*)<!-- end -->", text, re.S)
    assert found
    assert found[1] == scaling.page(), "python benchmarks/scaling.py"


def test_an_exchange_is_bound_by_the_bandwidth_or_by_the_latency() -> None:
    """By hand: of 100 MB 2·3/4 at 1 GB/s, and four messages of 1 ms."""
    training = scaling.Training("", 25_000_000, 0, 1.0, 1, 0)
    slow = scaling.Link(1e9, 1e-3)
    assert training.exchange(1, slow) == 0
    assert training.exchange(16, slow) == pytest.approx(2 * 15 / 16 * 0.1 + 8e-3)
    assert scaling.Training("", 0, 0, 1.0, 1, 0).exchange(1024, slow) == pytest.approx(20e-3)
    efficiencies = [training.efficiency(devices, slow) for devices in scaling.DEVICES]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert efficiencies[0] == 1


def test_the_trained_values_of_a_12_b_transformer() -> None:
    """Of the published block sizes, counted layer by layer: (inputs, outputs)."""
    double = 2 * [*4 * [(3072, 3072)], (3072, 12288), (12288, 3072)]
    single = [*3 * [(3072, 3072)], (3072, 12288), (15360, 3072)]
    counted = sum(16 * (a + b) for a, b in [*19 * double, *38 * single])
    assert scaling.transformer_values() == counted == 65_372_160


@pytest.mark.slow
@pytest.mark.parametrize(("training", "shape"), [*zip(scaling.TRAININGS, ("sd1", "sdxl"), strict=False)])
def test_values_and_parameters_are_those_of_the_models(training: scaling.Training, shape: str) -> None:
    with FakeTensorMode():
        family = full_size(shape, "bf16")
        parameters = sum(p.numel() for part in family.parts().values() for p in part.parameters())
        adapters = inject(family, LoRA(rank=16), Targets(text_encoder=True))
        assert training.values == sum(p.numel() for p in adapters.parameters())
    assert training.base_bytes == pytest.approx(2 * parameters, rel=0.01)
