"""Products with frozen weights by oneDNN against torch's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loralab.models import onednn
from loralab.models.onednn import FEW_PIXELS, WORTHWHILE, FrozenConv2d, FrozenLinear, linear, set_kernels

KINDS = [
    pytest.param({"kernel_size": 3, "padding": 1}, id="3x3"),
    pytest.param({"kernel_size": 3, "padding": 1, "stride": 2}, id="downsampling"),
    pytest.param({"kernel_size": 3}, id="without padding"),
    pytest.param({"kernel_size": (3, 5), "padding": (1, 2)}, id="3x5"),
    pytest.param({"kernel_size": 1}, id="1x1"),
    pytest.param({"kernel_size": 1, "bias": False}, id="1x1 without bias"),
    pytest.param({"kernel_size": 1, "stride": 2}, id="1x1 with a stride"),
]
IN, OUT = 512, 480
SIZES = [(1, IN, 9, 12), (2, IN, 8, 8), (3, IN, 16, 16)]
"""Of images; the last has too many pixels for a product."""


@pytest.fixture(autouse=True, params=[False, True], ids=["others", "Intel"])
def _maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the processors of each."""
    monkeypatch.setattr(onednn, "IS_INTEL", request.param)
    assert onednn.WORKS
    assert torch.backends.mkldnn.is_available()


def pair(**kind: object) -> tuple[nn.Conv2d, nn.Conv2d]:
    """torch's own frozen convolution, and ours of the same weights."""
    own = nn.Conv2d(IN, OUT, **kind).requires_grad_(False)  # type: ignore[arg-type]
    ours = copy.deepcopy(own)
    set_kernels(ours, "auto")
    assert type(ours) is FrozenConv2d
    return own, ours


def random(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def outputs(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of a fixed function of it with regard to the input."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_convolution_equals_that_of_torch(kind: dict, size: tuple[int, ...]) -> None:
    own, ours = pair(**kind)
    for found, wanted in zip(outputs(ours, random(*size)), outputs(own, random(*size)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
        assert found.is_contiguous()
    assert ours.state_dict().keys() == own.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_in_bf16(kind: dict) -> None:
    own, ours = pair(**kind)
    x = random(1, IN, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (out, gradient), (wanted, wanted_gradient) = outputs(ours, x), outputs(own, x)
    assert out.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(out, wanted, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(gradient, wanted_gradient, atol=5e-2, rtol=5e-2)


SHAPES = [(64, 1024, 1100), (1024, 640, 16), (1400, 16, 400), (4, 1500, 1500)]


def views(rows: int, columns: int) -> dict[str, Tensor]:
    """A matrix, laid out in every way that a model passes one on."""
    matrix = random(rows, columns)
    wide, tall = torch.zeros(rows, 3 * columns), torch.zeros(3 * rows, columns)
    wide[:, columns : 2 * columns] = matrix
    tall[::3] = matrix
    return {
        "rows": matrix,
        "columns": matrix.t().contiguous().t(),
        "part of wider rows": wide[:, columns : 2 * columns],
        "every third row": tall[::3],
    }


@pytest.mark.parametrize("name", views(1, 1))
@pytest.mark.parametrize(("rows", "inside", "outputs"), SHAPES)
def test_a_product_and_its_gradients_equal_those_of_torch(name: str, rows: int, inside: int, outputs: int) -> None:
    assert rows * inside * outputs >= WORTHWHILE
    found: dict[str, list[Tensor]] = {}
    bias, toward = random(outputs), random(rows, outputs)
    for way, product in (("ours", linear), ("torch", F.linear)):
        x, weight = views(rows, inside)[name].requires_grad_(), views(outputs, inside)[name].requires_grad_()
        out = product(x, weight, bias)
        out.backward(toward)
        assert x.grad is not None
        assert weight.grad is not None
        found[way] = [out.detach(), x.grad, weight.grad]
    for ours, wanted in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-3, rtol=1e-5)


def test_a_strided_bias_and_more_dimensions() -> None:
    x, weight, bias = random(2, 3, 50, 256), random(512, 256), random(512, 2)[:, 0]
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)
    bias = bias.clone().requires_grad_()
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((512,), 300.0))


def test_what_is_not_faster_is_exactly_as_it_was() -> None:
    own, ours = pair(kernel_size=3)
    x = random(1, IN, 20, 20)
    assert FEW_PIXELS < 18 * 18
    assert torch.equal(ours(x), own(x))
    assert torch.equal(ours.double()(x.double()), own.double()(x.double()))
    layer = nn.Linear(8, 8)
    frozen = copy.deepcopy(layer)
    set_kernels(frozen, "auto")
    assert type(frozen) is (nn.Linear if onednn.IS_INTEL else FrozenLinear)
    assert onednn.linear_of(frozen) is (F.linear if onednn.IS_INTEL else linear)
    assert torch.equal(frozen(random(4, 8)), layer(random(4, 8)))
    grouped, dilated = nn.Conv2d(IN, 1024, 3, groups=2), nn.Conv2d(IN, IN, 3, dilation=2)
    around, small = nn.Conv2d(IN, IN, 3, padding_mode="circular", padding=1), nn.Conv2d(64, 64, 3)
    model = nn.Sequential(grouped, dilated, around, small)
    set_kernels(model, "auto")
    assert {type(layer) for layer in model} == {nn.Conv2d}
    kept = nn.Sequential(nn.Conv2d(32, 48, 3), nn.Linear(2, 2))
    set_kernels(kept, "torch")
    assert [type(layer) for layer in kept] == [nn.Conv2d, nn.Linear]


@pytest.mark.parametrize(("rows", "width", "is_own"), [(256, 1024, True), (257, 1024, False), (256, 1023, False)])
def test_on_intels_processors_only_few_rows_times_a_large_weight(
    rows: int, width: int, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(onednn, "product", lambda *of: used.append(of) or onednn._computed(*of))
    x, weight = random(rows, 1024), random(width, 1024)
    out = linear(x, weight)
    assert bool(used) == (is_own or not onednn.IS_INTEL)
    assert used or torch.equal(out, F.linear(x, weight))
