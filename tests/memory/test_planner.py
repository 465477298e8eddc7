"""What is chosen, in which order, and what stays as the user has set it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loralab.command.flags import use_places
from loralab.memory.explicit import is_explicit
from loralab.memory.options import Choice, Option, options
from loralab.memory.planner import choose
from loralab.schema.compose import compose


def option(name: str, *savings: int) -> Option:
    return Option(name, [Choice({name: saving}, "") for saving in savings])


def size(changes: dict) -> int:
    """100 less what each choice saves."""
    return 100 - sum(changes.values())


def chosen(limit: int, *given: Option) -> dict[str, int]:
    choices, needed = choose(given, size, limit)
    settings = {key: value for choice in choices for key, value in choice.settings.items()}
    assert needed == size(settings)
    return settings


CACHE, BLOCKS, DTYPE = option("cache", 5), option("blocks", 10, 20, 30, 40), option("dtype", 30)


def test_nothing_is_chosen_where_all_fits() -> None:
    assert chosen(100, CACHE, BLOCKS, DTYPE) == {}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (95, {"cache": 5}),
        (90, {"blocks": 10}),  # the cache alone is too little, and with the blocks it is not needed
        (85, {"cache": 5, "blocks": 10}),
        (70, {"blocks": 30}),
        (55, {"cache": 5, "blocks": 40}),
        (54, {"blocks": 20, "dtype": 30}),  # the blocks are the costlier of what was added before the dtype
        (25, {"cache": 5, "blocks": 40, "dtype": 30}),
    ],
)
def test_the_cheapest_that_fits(limit: int, expected: dict[str, int]) -> None:
    found = chosen(limit, CACHE, BLOCKS, DTYPE)
    assert size(found) <= limit
    assert found == expected


def test_what_saves_nothing_is_not_chosen() -> None:
    assert chosen(60, option("attention", 0), BLOCKS) == {"blocks": 40}


def test_where_nothing_fits_all_that_helps_is_tried() -> None:
    assert chosen(10, CACHE, option("attention", 0), BLOCKS, DTYPE) == {"cache": 5, "blocks": 40, "dtype": 30}


def names(*overrides: str, device: str = "cpu") -> list[str]:
    composed = compose(list(overrides))
    return [o.name for o in options(composed.tree, device, 15, lambda key: is_explicit(composed, key))]


def test_the_options_in_the_order_of_their_cost() -> None:
    every = ["caches", "attention", "blocks", "dtype", "weights", "batch"]
    pytest.importorskip("bitsandbytes")
    assert names() == every
    assert names(device="cuda") == ["caches", "blocks", "dtype", "weights", "batch"]


@pytest.mark.parametrize(
    ("override", "gone"),
    [
        ("data.cache.latents=memory", "caches"),
        ("data/cache=memory", "caches"),
        ("model.attention=auto", "attention"),
        ("model.gradient_checkpointing=false", "blocks"),
        ("model.dtype=fp32", "dtype"),
        ("trainer.accumulate_grad_batches=1", "batch"),
        ("experiment=low_memory", "blocks"),
    ],
)
def test_what_the_user_has_set_stays(override: str, gone: str) -> None:
    """Also where it is the default."""
    assert gone not in names(override)
    assert gone in names()


def test_a_file_of_the_users_own_counts_as_set(tmp_path: Path) -> None:
    own = tmp_path / "experiment"
    own.mkdir()
    (own / "mine.yaml").write_text("# @package _global_\nmodel: {attention: sdpa, dtype: fp32}\n")
    try:
        use_places({"config_dir": str(tmp_path)}, [])
        assert {"attention", "dtype"}.isdisjoint(names("experiment=mine"))
    finally:
        use_places({}, [])


def test_images_that_vary_are_not_cached() -> None:
    assert "caches" in names("data.folder=x", "data=folder")
    for override in ("data.augment.color=true", "data.augment.random_crop=true"):
        assert "caches" not in names("data.folder=x", "data=folder", override)


@pytest.mark.parametrize(("batch", "parts"), [(1, []), (2, [2]), (8, [2, 4, 8])])
def test_batches_are_trained_in_parts(batch: int, parts: list[int]) -> None:
    composed = compose([f"data.batch_size={batch}"])
    found = {o.name: o.choices for o in options(composed.tree, "cpu", 15, lambda _: False)}
    expected = [{"data.batch_parts": count, "trainer.accumulate_grad_batches": count} for count in parts]
    assert [choice.settings for choice in found.get("batch", [])] == expected
