"""Seeds of torch's own generators."""

from __future__ import annotations

import torch

from loralab.rng import seed_default


def test_they_are_seeded_as_torch_does() -> None:
    before = torch.get_rng_state()
    try:
        for seed in (0, 5, 2**63 - 1):
            torch.manual_seed(seed)
            expected = torch.rand(3), torch.randn(17)
            seed_default(seed, torch.device("cpu"))
            for ours, theirs in zip((torch.rand(3), torch.randn(17)), expected, strict=True):
                assert torch.equal(ours, theirs)
    finally:
        torch.set_rng_state(before)
