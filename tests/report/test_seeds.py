"""How sure a difference over seeds is: known cases, and how often the interval covers the truth."""

from __future__ import annotations

import numpy as np
import pytest

from loralab.report.seeds import compared, groups, interval, mean_and_spread


def test_of_two_pairs_it_is_students() -> None:
    """mean ± t(1 degree of freedom) · s / √2, by hand: 0.2 ± 12.706 · 0.0707 · √2 / √2 … of 0.1 and 0.3."""
    found = interval([0.1, 0.3])
    assert found.pairs == 2
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 12.706 * 0.1, 0.2 + 12.706 * 0.1), rel=1e-3)
    assert not found.distinguishable


def test_equal_differences_leave_no_doubt() -> None:
    found = interval([0.5, 0.5, 0.5])
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))
    assert found.distinguishable
    assert not interval([0.0, 0.0]).distinguishable, "the same results"


def test_of_many_pairs_it_is_the_normal_one() -> None:
    """The closed form for large N: mean ± 1.96 · s / √N."""
    differences = np.random.default_rng(1).exponential(size=400)
    found, reach = interval(differences.tolist()), 1.96 * differences.std() / 20
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((reach, reach), rel=0.1)


@pytest.mark.parametrize("pairs", [2, 3, 5, 20])
def test_the_interval_covers_the_truth(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loralab.report.seeds.RESAMPLES", 1000)
    draws = np.random.default_rng(2).normal(0.3, 1.0, (400, pairs))
    found = [interval(row.tolist()) for row in draws]
    covered = np.mean([each.low <= 0.3 <= each.high for each in found])
    assert covered > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400), f"{covered:.3f}: of twenty differences one may look real"


def test_pairs_are_those_of_the_same_seed() -> None:
    one, other = {0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.5, 0: 0.6, 3: 0.0}
    found = compared(one, other)
    assert found
    assert (found.pairs, found.mean) == (2, pytest.approx(0.45))
    assert compared({0: 1.0}, {0: 2.0}) is None
    assert compared({0: 1.0, 1: 1.0}, {2: 2.0, 3: 2.0}) is None


def test_groups_differ_in_nothing_but_the_seed_and_names() -> None:
    settings = [
        {"seed": 0, "optimizer.lr": 0.1, "output.name": "a"},
        {"seed": 0, "optimizer.lr": 0.2, "output.name": "b"},
        {"seed": 1, "optimizer.lr": 0.1, "output.name": "c"},
        {"seed": 1, "optimizer.lr": 0.2, "data.caption": "d"},
    ]
    assert groups(settings) == [0, 1, 0, 2]
    assert mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_spread([1.0]) == (1.0, None)
