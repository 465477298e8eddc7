"""benchmarks/denoiser.py measures each way and batch, and all ways do the same work."""

import argparse

import pytest
import torch

from benchmarks import denoiser


@pytest.mark.slow
def test_each_way_and_batch_is_measured() -> None:
    parser = argparse.ArgumentParser()
    denoiser.add_arguments(parser)
    words = "--device cpu --resolution 64 --batches 1 2 --steps 1"
    found = denoiser.measure(parser.parse_args(words.split()))
    assert [(row["way"], row["batch_size"]) for row in found["rows"]] == [
        ("plain", 1), ("plain", 2), ("eager", 1), ("eager", 2)
    ]  # fmt: skip
    assert all(0 < row["share_of_peak"] < 1 for row in found["rows"])


@pytest.mark.slow
def test_plain_and_ours_train_the_same() -> None:
    """As many numbers, and as an adapter changes nothing at first, the same loss."""
    plain, ours = (denoiser.Denoiser("sd1", way, "cpu") for way in ("plain", "eager"))
    assert sum(p.numel() for p in plain.trained) == sum(p.numel() for p in ours.trained)
    losses = []
    for each in (plain, ours):
        torch.manual_seed(1)
        losses.append(each.loss(64, 1)().item())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
