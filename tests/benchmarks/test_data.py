"""benchmarks/data.py measures what it says: all images are seen, and every figure is there."""

import argparse

import pytest

from benchmarks import data


def measured(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.measure(parser.parse_args(list(words)))


def test_index_and_sampler_grow(tmp_path) -> None:
    found = measured("--images", "30", "1200", "--pictures", "0", f"--folder={tmp_path}")
    assert [row["images"] for row in found["index"]] == [30, 1200]
    for row in found["index"]:
        assert row["cold"]["images"] == row["warm"]["images"] == row["images"]
    for row in found["sampler"]:
        assert row["images"] / 4 <= row["batches"] < row["images"] / 4 + 40, "a part batch for each bucket at most"
    if (peak := found["index"][-1]["cold"]["peak_mb"]) is not None:
        assert 10 < peak < 200, "of its own process: this one holds torch"
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.slow
def test_cache_loader_and_step_are_compared(tmp_path) -> None:
    found = measured("--images", "--pictures=6", "--resolution=64", "--rounds=1", "--workers=1", f"--folder={tmp_path}")
    assert found["cache_share_of_vae_speed"] > 0
    assert [(row["latents"], row["workers"]) for row in found["loader"]] == [
        ("disk", 0), ("disk", 1), ("memory", 0), ("memory", 1)
    ]  # fmt: skip
    assert found["step_samples_per_second"] > 0
