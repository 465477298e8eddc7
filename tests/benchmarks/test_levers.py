"""The levers that are measured on a GPU alone do what they say."""

import torch

from benchmarks.levers import Setup, on_gpu


def test_what_is_measured_on_a_gpu_runs_on_a_cpu_too() -> None:
    torch.manual_seed(0)
    *others, fp8 = on_gpu(Setup("cpu", 1, (4, 2), torch.float32))
    for lever in others:
        lever.without()
        lever.with_it()
    plain, packed = fp8.without(), fp8.with_it()
    assert (plain - packed).norm() < 0.05 * plain.norm()
