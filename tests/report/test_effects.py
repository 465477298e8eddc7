"""The statistics of losses, on losses whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from loralab.report.effects import (
    Effects,
    Residuals,
    against_base,
    effects,
    learnt_by_log,
    outliers,
    residuals,
    tag_effects,
)


def losses(truth: np.ndarray, visits: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, timesteps and losses of a run: exponentially smaller and more scattered at noisy timesteps."""
    random = np.random.default_rng(seed)
    images = np.repeat(np.arange(len(truth)), visits)
    timesteps = random.uniform(0, 1000, len(images))
    scatter = 0.2 + 0.5 * timesteps / 1000
    logs = -timesteps / 180 + truth[images] + scatter * random.standard_normal(len(images))
    return images, timesteps, np.exp(logs)


def found(truth: np.ndarray, visits: int, seed: int) -> Effects:
    images, timesteps, values = losses(truth, visits, seed)
    return effects(residuals(timesteps, values), images, len(truth))


def test_planted_images_are_found_and_no_others() -> None:
    """Two hard ones and an easy one among forty that differ by a tenth."""
    for seed in range(5):
        truth = 0.1 * np.random.default_rng(100 + seed).standard_normal(40)
        truth[[3, 17]], truth[30] = 1.0, -1.0
        far = outliers(found(truth, 60, seed))
        assert np.flatnonzero(far.high).tolist() == [3, 17]
        assert np.flatnonzero(far.low).tolist() == [30]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    hits = []
    for seed in range(10):
        truth = 0.3 * np.random.default_rng(100 + seed).standard_normal(40)
        guess = found(truth, 30, seed)
        hits += (np.abs(guess.mean - np.median(guess.mean) - truth + np.median(truth)) < 1.96 * guess.error).tolist()
    assert 0.92 < np.mean(hits) < 0.98


def compared(gains: np.ndarray, visits: int, share: float, seed: int) -> tuple[np.ndarray, ...]:
    """Images, their difficulties, timesteps, losses, and their ratios to the base model's, known of a share of them."""
    random = np.random.default_rng(seed)
    difficulties = 0.3 * random.standard_normal(len(gains))
    images = np.repeat(np.arange(len(gains)), visits)
    timesteps = random.uniform(0, 1000, len(images))
    base = -6 * (timesteps / 1000) ** 0.4 + difficulties[images] + 0.4 * random.standard_normal(len(images))
    ratios = gains[images] + 0.3 * (timesteps / 500 - 1) + 0.1 * random.standard_normal(len(images))
    known = random.random(len(images)) < share
    return images, difficulties, timesteps, np.exp(base + ratios), np.where(known, np.exp(ratios), np.nan)


def usual(timesteps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The median of the hundred values at the nearest timesteps, another way."""
    order = np.argsort(timesteps)
    place = np.argsort(order)
    windows = np.clip(place[:, None] + np.arange(-50, 50), 0, len(values) - 1)
    return np.median(values[order][windows], 1)


def test_few_known_losses_of_the_base_model_tell_its_usual_loss() -> None:
    """By a tenth of the samples, each image's loss is found as a multiple of what the base model has at its timesteps,
    as if all its losses were known."""
    for seed in range(5):
        gains = np.full(40, -0.5)
        gains[3] = 0.0
        images, difficulties, timesteps, losses, ratios = compared(gains, 40, 0.1, seed)
        guess = effects(against_base(residuals(timesteps, losses), timesteps, ratios), images, 40)
        truth = difficulties - np.median(difficulties) + gains
        assert np.mean(guess.mean - truth) == pytest.approx(0, abs=0.1)
        base = np.log(losses) - np.log(compared(gains, 40, 1.0, seed)[-1])
        whole = effects(Residuals(np.log(losses) - usual(timesteps, base), np.ones(len(losses))), images, 40)
        assert np.abs(guess.mean - whole.mean).max() < 0.1
        plain = residuals(timesteps, losses)
        halved = against_base(plain, timesteps, np.full(len(losses), 0.5))
        assert halved.value == pytest.approx(plain.value + np.log(0.5)), "all losses are half of the base model's"


def test_what_is_learnt_of_an_image_does_not_depend_on_its_difficulty() -> None:
    hits, errors = [], []
    for seed in range(10):
        gains = -0.5 + 0.3 * np.random.default_rng(50 + seed).standard_normal(40)
        images, _, timesteps, _, ratios = compared(gains, 20, 0.5, seed)
        known = np.isfinite(ratios)
        found = learnt_by_log(timesteps[known], ratios[known], images[known], 40)
        hits += (np.abs(found.mean - gains) < 1.96 * found.error).tolist()
        errors += found.error.tolist()
    assert np.mean(hits) > 0.9
    assert np.mean(errors) < 0.15


@pytest.mark.parametrize(("images", "spread"), [(12, 0.0), (20, 0.3), (60, 0.3), (60, 0.0)])
def test_a_run_without_outliers_has_a_false_alarm_in_one_of_twenty(images: int, spread: float) -> None:
    """400 runs: at most 5 %, up to three standard errors of that."""
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        errors = random.uniform(0.05, 0.2, images)  # images are not visited equally often
        means = spread * random.standard_normal(images) + errors * random.standard_normal(images)
        far = outliers(Effects(means, errors, np.full(images, 9)))
        alarms += bool(far.high.any() or far.low.any())
    assert alarms / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_few_samples_make_no_outliers_and_wide_intervals() -> None:
    truth = np.zeros(40)
    truth[3] = 1.0
    few, many = found(truth, 2, 0), found(truth, 200, 0)
    assert not outliers(few).high[[0, 1, 2, *range(4, 40)]].any()
    assert few.error[0] == pytest.approx(10 * many.error[0], rel=0.3)
    assert not outliers(found(truth[:7], 200, 0)).high.any(), "of seven images none is unusual"


def test_tags_are_told_apart_and_rare_ones_shrunk() -> None:
    random = np.random.default_rng(2)
    means = 0.2 * random.standard_normal(60)
    tags = [[f"rare{i // 2}" for _ in range(2)] + (["hard"] if i < 20 else []) + ["all"] for i in range(60)]
    means[:20] += 0.5
    rows = {tag.tag: tag for tag in tag_effects(Effects(means, np.full(60, 0.05), np.full(60, 9)), tags)}
    hard = rows.pop("hard")
    raw = means[:20].mean() - means[20:].mean()
    assert hard.mean == pytest.approx(0.5, abs=0.15)
    assert hard.mean - 1.96 * hard.error > 0
    assert abs(hard.mean) > 0.8 * abs(raw)
    assert "all" not in rows, "there are no images without it"
    assert {tag.images for tag in rows.values()} == {2}
    for i in range(10, 30):
        own = means[2 * i : 2 * i + 2].mean() - np.delete(means, [2 * i, 2 * i + 1]).mean()
        assert abs(rows[f"rare{i}"].mean) < 0.7 * abs(own) + 1e-9


def test_tags_without_an_effect_have_none() -> None:
    random = np.random.default_rng(3)
    wrong = 0
    for _ in range(50):
        means = 0.3 * random.standard_normal(40)
        tags = [[f"t{j}" for j in range(8) if random.random() < 0.3] for _ in range(40)]
        rows = tag_effects(Effects(means, np.full(40, 0.05), np.full(40, 9)), tags)
        wrong += any(abs(tag.mean) > 1.96 * tag.error for tag in rows)
    assert wrong <= 5, "of 400 tags, shrunk to what all of them say"
