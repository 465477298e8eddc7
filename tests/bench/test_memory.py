"""`loralab bench memory` counts what a training step holds: closed forms, bitsandbytes' own tensors, a real process."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loralab.bench import memory, shapes
from loralab.memory.quantized import quantized_bytes
from loralab.memory.storages import Storages

MIB = 2**20


def measured(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    memory.add_arguments(parser)
    return memory.measure(parser.parse_args(list(words)))


def test_storages_are_counted_until_they_are_freed() -> None:
    """Two products of 1 MiB, one of them freed; a view costs nothing; the gradient of a product keeps its factors."""
    with FakeTensorMode(), Storages() as storages:
        a = torch.ones(512, 512)
        assert storages.now == MIB
        assert storages.more_in(lambda: (a @ a).T @ a) == 2 * MIB
        assert storages.now == MIB
        weight = nn.Parameter(torch.ones(512, 512))
        kept = (a * 2) @ weight
        assert storages.now == 4 * MIB, "a, the weight, the product, and the factor that the weight's gradient needs"
        del kept
        assert storages.now == 2 * MIB


@pytest.mark.parametrize("size", [(64, 128), (96, 40), (640, 1280)])
def test_quantized_weights_have_bitsandbytes_size(size: tuple[int, int]) -> None:
    bnb, functional = pytest.importorskip("bitsandbytes.nn"), pytest.importorskip("bitsandbytes.functional")
    linear = nn.Linear(*size, bias=False)
    weight = bnb.Params4bit(linear.weight.data.clone(), requires_grad=False, quant_type="nf4").to("cpu")
    state = weight.quant_state
    held = [weight.data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    assert quantized_bytes(linear, "nf4") == sum(tensor.nbytes for tensor in held)
    eight, rows, _ = functional.int8_vectorwise_quant(linear.weight.data.half())
    assert quantized_bytes(linear, "int8") == eight.nbytes + rows.nbytes


@pytest.mark.parametrize("elements", [16, 4095, 4096, 320 * 16, 10240 * 16])
def test_optimizer_state_has_bitsandbytes_size(elements: int) -> None:
    optim = pytest.importorskip("bitsandbytes.optim")
    for name, make in (("adamw", torch.optim.AdamW), ("adamw8bit", optim.AdamW8bit)):
        weight = nn.Parameter(torch.zeros(elements))
        optimizer = make([weight], lr=1e-3)
        weight.grad = torch.ones(elements)
        optimizer.step()
        held = [t for key, t in optimizer.state[weight].items() if isinstance(t, torch.Tensor) and "qmap" not in key]
        assert shapes.optimizer_bytes(elements, name) == sum(tensor.nbytes for tensor in held if tensor.dim())


@pytest.mark.slow
def test_what_makes_a_step_smaller() -> None:
    """SD 1.5 has 859.5 M parameters in its UNet, 123.1 M in its text encoder and 83.7 M in its VAE (in fp32)."""
    found = measured("--resolution", "256", "512")
    assert found["weights_gb"]["bf16"] == round((2 * (859_520_964 + 123_060_480) + 4 * 83_653_863) / 2**30, 2)
    kept = {(r["resolution"], r["gradient_checkpointing"]): r["activations_and_gradients_gb"] for r in found["steps"]}
    assert 3.5 < kept[512, False] / kept[256, False] < 4.1, "nearly as many as pixels"
    assert kept[512, True] < 0.3 * kept[512, False]
    for row in found["steps"]:
        assert row["step_gb"]["nf4"] < row["step_gb"]["int8"] < row["step_gb"]["bf16"]


REAL = """
import sys
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.bench import shapes
from loralab.training.memory_advice import peak_gigabytes
import diffusers.models.unets.unet_2d_condition, diffusers.models.autoencoders.autoencoder_kl, torch, transformers
shapes.text_class("text_encoder")
empty = peak_gigabytes(torch.device("cpu"))
family = shapes.full_size("sd1", "fp32")
adapters = inject(family, LoRA(rank=16), Targets())
shapes.train_step(family, 512, 1, "32-true")
print(peak_gigabytes(torch.device("cpu")) - empty)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process's memory is counted otherwise")
def test_the_count_is_what_a_process_needs() -> None:
    """A real step of SD 1.5 in fp32 at 512 px on this CPU, 7 GB."""
    ran = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True)
    found = measured("--resolution", "512", "--precision", "32-true", "--dtype", "fp32")
    counted = found["steps"][0]["step_gb"]["fp32"] - found["optimizer_gb"]
    assert 0.75 < counted / float(ran.stdout) <= 1, "kernels and the heap take more, never less"
