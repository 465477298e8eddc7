"""Learning-rate curves against sd-scripts' numbers, diffusers and closed forms."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.optim import SGD

from loralab.errors import UserError
from loralab.optim import schedules
from tests import GOLDEN, ROOT

CASES = json.loads((GOLDEN / "schedulers.json").read_text())
OURS = {
    "cosine_with_min_lr": (schedules.cosine, {"end_ratio": 0.1}),
    "polynomial": (schedules.polynomial, {"power": 2}),
}


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates])


def curve(schedule: Any, total_steps: int = 100, steps: int = 100, lr: float = 1e-4, **settings: Any) -> list[float]:
    """The rate in force at each optimizer step, and after the last."""
    of = optimizer(lr)
    scheduler = schedule(of, total_steps, **settings)
    rates = [of.param_groups[0]["lr"]]
    for _ in range(steps):
        of.step()
        scheduler.step()
        rates.append(of.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case["name"], *case["args"]]))
def test_curves_are_those_of_sd_scripts(case: dict) -> None:
    schedule, settings = OURS.get(case["name"], (None, {}))
    if schedule is None:
        schedule = getattr(schedules, case["name"].removesuffix("_with_warmup"))
    warmup = int(case["args"][1]) if "--lr_warmup_steps" in case["args"] else None
    if case["name"] == "polynomial":
        settings = {**settings, "end_ratio": 1e-7 / 1e-4}  # there it ends at 1e-7, here at 0 unless told
    assert curve(schedule, warmup_steps=warmup, **settings) == pytest.approx(case["lr"], rel=1e-6, abs=1e-16)
    if warmup:
        by_share = curve(schedule, warmup_ratio=warmup / 100, **settings)
        assert by_share == curve(schedule, warmup_steps=warmup, **settings)


@pytest.mark.parametrize("cycles", [1, 3, 4])
def test_restarts_are_those_of_diffusers(cycles: int) -> None:
    oracle = optimizer(1e-4)
    scheduler = get_scheduler(
        "cosine_with_restarts", oracle, num_warmup_steps=7, num_training_steps=90, num_cycles=cycles
    )
    expected = [scheduler.get_last_lr()[0]]
    for _ in range(90):
        oracle.step()
        scheduler.step()
        expected.append(scheduler.get_last_lr()[0])
    found = curve(schedules.cosine_with_restarts, 90, 90, warmup_steps=7, num_cycles=cycles)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-16)


def test_decaying_curves_end_at_their_share_and_stay() -> None:
    for schedule in (schedules.linear, schedules.cosine, schedules.cosine_with_restarts, schedules.polynomial):
        assert curve(schedule, 20, 25)[-6:] == pytest.approx([0] * 6, abs=1e-12)
        assert curve(schedule, 20, 25, end_ratio=0.25)[-6:] == pytest.approx([2.5e-5] * 6)


def test_linear() -> None:
    assert curve(schedules.linear, 10, 10, lr=1.0, warmup_steps=2) == pytest.approx(
        [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]
    )


def test_step() -> None:
    assert curve(schedules.step, 9, 9, lr=1.0, gamma=0.5) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert curve(schedules.step, 9, 5, lr=1.0, step_size=2, gamma=0.1) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_waits_for_the_loss_to_stop_falling() -> None:
    of = optimizer(1.0, 0.1)
    scheduler = schedules.plateau(of, 100, factor=0.5, patience=1)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0):
        scheduler.step(loss)
        rates.append([group["lr"] for group in of.param_groups])
    assert rates == [[1, 0.1]] * 3 + [[0.5, 0.05]] * 2 + [[0.25, 0.025]] * 2


def test_every_group_keeps_its_own_rate() -> None:
    of = optimizer(1.0, 0.1)
    scheduler = schedules.cosine(of, 10)
    for _ in range(5):
        of.step()
        scheduler.step()
    assert [group["lr"] for group in of.param_groups] == pytest.approx([0.5, 0.05])


@pytest.mark.parametrize("total", [0, 1, 2])
def test_very_short_runs(total: int) -> None:
    for name in ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "step"):
        rates = curve(getattr(schedules, name), total, 3, warmup_ratio=1.0)
        assert all(0 <= rate <= 1e-4 for rate in rates)


def test_a_warmup_share_is_rounded_down() -> None:
    for ratio, total, expected in ((0.29, 100, 29), (0.1, 55, 5), (0.0, 10, 0)):
        rates = curve(schedules.constant, total, total, warmup_ratio=ratio)
        assert rates.index(1e-4) == expected


def test_two_kinds_of_warmup_are_refused() -> None:
    with pytest.raises(UserError, match=r"scheduler\.warmup_steps"):
        schedules.cosine(optimizer(1.0), 10, warmup_ratio=0.1, warmup_steps=3)


def test_which_schedules_may_be_prolonged() -> None:
    def horizon(schedule: Any, **settings: Any) -> int | None:
        return schedule(optimizer(1.0), 100, **settings).horizon

    for open_ended in (schedules.constant, schedules.inverse_sqrt):
        assert horizon(open_ended, warmup_steps=5) is None
        assert horizon(open_ended, warmup_ratio=0.05) == 100, "the warm-up would be another"
    assert horizon(schedules.step, step_size=10) is None
    assert horizon(schedules.step) == 100
    assert horizon(schedules.cosine) == horizon(schedules.linear) == horizon(schedules.polynomial) == 100


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "conf/scheduler").glob("*.yaml")))
def test_every_option_continues_where_it_was(name: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        make = instantiate(compose(overrides=[f"+scheduler={name}"]).scheduler)
    losses = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]

    def advance(of: SGD, scheduler: Any, losses: list[float]) -> list[float]:
        rates = []
        for loss in losses:
            of.step()
            scheduler.step(*[loss] * (name == "plateau"))
            rates.append(of.param_groups[0]["lr"])
        return rates

    of = optimizer(1.0)
    whole = advance(of, make(optimizer=of, total_steps=12), losses)
    of = optimizer(1.0)
    scheduler = make(optimizer=of, total_steps=12)
    parts = advance(of, scheduler, losses[:7])
    resumed = optimizer(1.0)
    continued = make(optimizer=resumed, total_steps=12)
    resumed.load_state_dict(of.state_dict())
    continued.load_state_dict(scheduler.state_dict())
    assert parts + advance(resumed, continued, losses[7:]) == whole
    assert len(set(whole)) > 1 or name in ("constant", "constant_with_warmup", "inverse_sqrt")
