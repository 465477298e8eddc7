"""Norms and gates in half precision as one operation each: against fp64, and a UNet of them against torch's own.

Where there is no GPU, Triton's interpreter runs the kernels in a process of its own: python -m tests.models.test_fused
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loralab.models import fused
from loralab.models.families import anima, sdxl
from loralab.models.fused import ChannelsLastTransformer, FrozenGroupNorm, geglu, group_norm, set_fused
from loralab.models.memory_format import set_memory_format
from tests import ROOT

TINY = str(ROOT / "src" / "loralab" / "assets" / "tiny")
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""How far from a number the nearest of half precision is at most, in parts of it."""
SMALL = [(2, 64, 4, (8, 8)), (1, 96, 8, (13, 7)), (2, 30, 3, (9, 1)), (1, 40, 4, (40, 5)), (2, 32, 2, (1, 1))]
"""Of images: how many, channels, groups, height and width."""
LARGE = [
    (4, 320, 32, (64, 64)),
    (2, 640, 32, (32, 48)),
    (1, 2560, 32, (8, 8)),
    (3, 960, 32, (31, 33)),
    (1, 320, 32, (128, 136)),
]
GATES = [(2, 7, 600), (1, 5, 2, 64), (3, 2560)]


def outputs(function: Any, x: Tensor, toward: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient with regard to the input."""
    x = x.detach().requires_grad_()
    out = function(x)
    (gradient,) = torch.autograd.grad(out, x, toward.to(out))
    return out.detach(), gradient


def assert_rounded_once(found: Tensor, wanted: Tensor, of_fp32: float = 2**-18) -> None:
    """As near to fp64 as a half can be; of_fp32: what fp32 itself may be off by, in parts of the largest."""
    allowed = 1.01 * ROUNDING[found.dtype] * wanted.abs() + of_fp32 * wanted.abs().max() + 1e-7
    excess = (found.double() - wanted).abs() - allowed
    assert excess.max() <= 0, f"{int((excess > 0).sum())} of {found.numel()} are off by up to {excess.max():.2e} more"


def of_norm(
    size: tuple[int, int, int, tuple[int, int]], half: torch.dtype, device: str, silu: bool, mean: float = 3
) -> tuple[Tensor, Tensor, Any, Any]:
    """Pixels around a mean and a gradient for what is made of them, and two group norms: ours, and that of fp64."""
    count, channels, groups, side = size
    draw = torch.Generator(device).manual_seed(0)
    numbers = {"generator": draw, "device": device}
    x = (torch.randn(count, *side, channels, **numbers) * 2 + mean).to(half).movedim(-1, 1)
    toward = torch.randn(count, *side, channels, **numbers).to(half).movedim(-1, 1)
    weight, bias = (torch.randn(channels, **numbers) for _ in range(2))

    def ours(x: Tensor) -> Tensor:
        return group_norm(x, groups, weight.to(half), bias, 1e-5, silu)

    def exact(x: Tensor) -> Tensor:
        out = F.group_norm(x.double(), groups, weight.to(half).double(), bias.double(), 1e-5)
        return F.silu(out) if silu else out

    return x, toward, ours, exact


def check_norm(size: tuple[int, int, int, tuple[int, int]], half: torch.dtype, device: str, silu: bool) -> None:
    x, toward, ours, exact = of_norm(size, half, device, silu)
    found, again, wanted = outputs(ours, x, toward), outputs(ours, x, toward), outputs(exact, x.double(), toward)
    for each, same, right in zip(found, again, wanted, strict=True):
        assert_rounded_once(each, right)
        assert torch.equal(each, same)
        assert each.is_contiguous(memory_format=torch.channels_last)
    for each, other in zip(found, outputs(ours, x.contiguous(), toward.contiguous()), strict=True):
        assert torch.equal(each, other), "the layout is none of the result's business"


def check_far_mean(half: torch.dtype, device: str) -> None:
    """Of squares in fp32 the variance would be lost."""
    x, toward, ours, exact = of_norm((1, 64, 4, (24, 24)), half, device, False, mean=1000)
    for found, wanted in zip(outputs(ours, x, toward), outputs(exact, x.double(), toward), strict=True):
        assert_rounded_once(found, wanted, of_fp32=2**-13)


def check_gate(size: tuple[int, ...], half: torch.dtype, device: str) -> None:
    draw = torch.Generator(device).manual_seed(0)
    x = (2 * torch.randn(size, generator=draw, device=device)).to(half)
    toward = torch.randn(*size[:-1], size[-1] // 2, generator=draw, device=device).to(half)

    def exact(x: Tensor) -> Tensor:
        hidden, gate = x.chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    found, again = outputs(geglu, x, toward), outputs(geglu, x, toward)
    for each, same, right in zip(found, again, outputs(exact, x.double(), toward), strict=True):
        assert_rounded_once(each, right)
        assert torch.equal(each, same)


def unet(linear: bool = True) -> nn.Module:
    """SDXL's in miniature; linear: its transformers begin and end with products, else with convolutions, as in SD 1."""
    made: Any = sdxl.miniature(TINY, kernels="torch", attention="sdpa").denoiser
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = type(made).from_config({**made.config, "use_linear_projection": linear})
    return made.eval().requires_grad_(False)


def of_unet(model: nn.Module, half: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Output and gradient of a UNet on fixed latents, under autocast in half precision if so."""
    weight = next(model.parameters())
    device, dtype = weight.device.type, weight.dtype

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(sum(size))).to(device, dtype)

    states, pooled, sizes, time = random(1, 77, 80), random(1, 48), random(1, 6), torch.tensor([500], device=device)

    def predict(x: Tensor) -> Tensor:
        with torch.autocast(device, half, enabled=half is not None):
            return model(x, time, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample.float()

    return outputs(predict, random(1, 4, 16, 16), random(1, 4, 16, 16) / 32)


def check_unet(half: torch.dtype, device: str, linear: bool) -> None:
    """It is as near to fp64 as torch's own."""
    plain = nn.Module.to(unet(linear), device, half)
    exact = of_unet(copy.deepcopy(plain).double())  # a GPU rounds products of fp32
    set_memory_format(plain, torch.channels_last)
    ours = copy.deepcopy(plain)
    set_fused(ours)
    for found, theirs, right in zip(of_unet(ours, half), of_unet(plain, half), exact, strict=True):
        assert not torch.equal(found, theirs), "nothing was computed otherwise"
        error, usual = ((each.double() - right.double()).norm().item() for each in (found, theirs))
        assert 0 < error <= 1.1 * usual, (error, usual)


@pytest.mark.gpu
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("half", ROUNDING, ids=str)
@pytest.mark.parametrize("size", SMALL + LARGE, ids=str)
def test_a_group_norm_is_rounded_once(size: tuple, half: torch.dtype, silu: bool) -> None:
    check_norm(size, half, "cuda", silu)


@pytest.mark.gpu
@pytest.mark.parametrize("half", ROUNDING, ids=str)
def test_a_far_mean_does_not_hide_the_variance(half: torch.dtype) -> None:
    check_far_mean(half, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("half", ROUNDING, ids=str)
@pytest.mark.parametrize("size", [*GATES, (4, 4096, 2560)], ids=str)
def test_a_gate_is_rounded_once(size: tuple[int, ...], half: torch.dtype) -> None:
    check_gate(size, half, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("half", ROUNDING, ids=str)
def test_a_unet_is_as_near_to_fp64_as_that_of_torch(half: torch.dtype, linear: bool) -> None:
    assert fused.works(torch.device("cuda"))
    check_unet(half, "cuda", linear)


@pytest.mark.gpu
def test_more_than_two_to_the_31_numbers() -> None:
    """Each image is computed on its own: the last as if there were no others."""
    x, toward = (torch.empty(16, 320, 672, 672, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    x, toward = (each.to(memory_format=torch.channels_last).normal_() for each in (x, toward))
    assert x.numel() > 2**31
    weight = bias = torch.ones(320, device="cuda")

    def ours(x: Tensor) -> Tensor:
        return group_norm(x, 32, weight, bias, 1e-5, True)

    for found, wanted in zip(outputs(ours, x, toward), outputs(ours, x[-1:], toward[-1:]), strict=True):
        assert torch.equal(found[-1:], wanted)


@pytest.mark.gpu
def test_weights_that_train_get_their_gradients() -> None:
    model = nn.GroupNorm(4, 64, device="cuda", dtype=torch.bfloat16)
    ours, x = copy.deepcopy(model), torch.randn(2, 64, 8, 8, device="cuda", dtype=torch.bfloat16)
    ours.__class__ = FrozenGroupNorm
    for norm in (model, ours):
        norm(x).square().sum().backward()
    assert model.weight.grad is not None
    assert torch.equal(ours.weight.grad, model.weight.grad)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("half", [None, torch.bfloat16], ids=str)
def test_on_a_cpu_it_is_exactly_as_it_was(half: torch.dtype | None, linear: bool) -> None:
    plain = unet(linear)
    ours = copy.deepcopy(plain)
    for _ in range(2):  # the second time changes nothing
        set_fused(ours)
    assert list(ours.state_dict()) == list(plain.state_dict())
    for found, wanted in zip(of_unet(ours, half), of_unet(plain, half), strict=True):
        assert torch.equal(found, wanted)


def test_which_layers_are_switched() -> None:
    model = unet()
    before = Counter(type(layer).__name__ for layer in model.modules())
    set_fused(model)
    after = Counter(type(layer).__name__ for layer in model.modules())
    blocks, transformers = before["ResnetBlock2D"], before["Transformer2DModel"]
    assert after - before == Counter(
        FrozenGroupNormSiLU=2 * blocks + 1,
        SiLUOfEmbedding=blocks,
        Identity=1,
        FrozenGroupNorm=transformers,
        FrozenLayerNorm=before["LayerNorm"],
        FusedGEGLU=before["GEGLU"],
    )
    assert min(blocks, transformers, before["LayerNorm"], before["GEGLU"]) > 0
    assert not after["GroupNorm"]
    assert after["Transformer2DModel"] == transformers, "LyCORIS finds them by this name"
    assert sum(type(layer) is ChannelsLastTransformer for layer in model.modules()) == transformers


def test_what_has_other_layers_keeps_them() -> None:
    """A shift and a scale between norm and SiLU, another activation, another architecture."""
    shifted = ResnetBlock2D(in_channels=32, temb_channels=16, time_embedding_norm="scale_shift")
    mish = ResnetBlock2D(in_channels=32, temb_channels=16, non_linearity="mish")
    for model in (shifted, mish, anima.miniature().denoiser, nn.SiLU()):
        before = [type(layer) for layer in model.modules()]
        set_fused(model)
        assert [type(layer) for layer in model.modules()] == before


def test_when_a_layer_is_computed_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        x, frozen = torch.empty(2, 4, device="cuda", dtype=torch.bfloat16), torch.empty(4, device="cuda")
        trained = torch.empty(4, device="cuda", requires_grad=True)
    is_so = fused._is_in_half
    assert is_so(x, frozen, None)
    assert not is_so(x, frozen, trained)
    assert not is_so(x.float(), frozen)
    assert not is_so(torch.empty(2, 4, dtype=torch.bfloat16))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    for precision, expected in ((torch.bfloat16, True), (torch.float16, False)):
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda _, precision=precision: precision)
        assert is_so(x) is expected
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.bfloat16)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not is_so(x)


@pytest.mark.slow
def test_by_the_interpreter() -> None:
    pytest.importorskip("triton")
    variables = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def interpreted() -> None:
    """The interpreter does not round to bf16, it cuts off: fp16 alone."""
    half = torch.float16
    for size, silu in product(SMALL, (True, False)):
        check_norm(size, half, "cpu", silu)
    check_far_mean(half, "cpu")
    for size in GATES:
        check_gate(size, half, "cpu")
    vars(fused).update(_is_in_half=lambda x, *_: x.dtype == half, works=lambda _: True)
    for linear in (True, False):
        check_unet(half, "cpu", linear)


def allow_loops() -> None:
    """The interpreter makes bounds of loops from arrays, which numpy has refused since 2.4."""
    from triton.runtime import interpreter  # pyright: ignore[reportMissingImports]

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda scalar: scalar.handle.data.item())

    interpreter._patch_lang_tensor = patched


if __name__ == "__main__":
    allow_loops()
    interpreted()
