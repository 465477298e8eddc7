"""One battery over every adapter YAML."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch
from hydra.utils import instantiate

from loralab.adapters import file
from loralab.adapters.base import Adapter
from loralab.adapters.inject import AdapterSet, inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.models.families.sd import load
from loralab.schema.compose import compose
from tests import ROOT
from tests.support.adapters import merged
from tests.support.names import CASES, golden, modules, targets

RESIDUAL = {"pissa": "lora", "olora": "lora", "pissa iterations=4": "lora"}
"""What their files are."""
CONF = ROOT / "conf" / "adapter"
KINDS = [*sorted(path.stem for path in CONF.glob("*.yaml")), "dora magnitude=input", "oft rescaled=true"]
KINDS += ["pissa iterations=4", "t_lora orthogonal=true"]


def method(name: str, **changes):
    """What the YAML builds, for a rank of 4, with further settings."""
    return instantiate({**settings(name), **changes})


@cache
def settings(name: str) -> dict:
    name, *further = name.split()
    return compose([f"adapter={name}", "adapter.rank=4", *(f"adapter.{setting}" for setting in further)]).tree[
        "adapter"
    ]


@pytest.fixture(scope="module")
def loaded(random_base):
    return load(str(random_base), attention="eager", resolution=64)


@pytest.fixture
def family(loaded):
    """A copy, which takes an eighth of the time of loading it."""
    return deepcopy(loaded)


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(5)
    return (
        torch.randn(2, 4, 8, 12, generator=draw),
        torch.tensor([10, 700]),
        torch.randint(0, 500, (2, 77), generator=draw),
    )


def predict(family, batch):
    noisy, timesteps, ids = batch
    hidden = family.text_encoders["text_encoder"](ids).last_hidden_state
    return family.denoiser(noisy, timesteps, hidden.to(noisy.dtype)).sample


def scramble(adapters: AdapterSet, seed: int = 1) -> None:
    """Makes every tensor count, as after training."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_at_the_start(kind, family, batch):
    with torch.no_grad():
        before = predict(family, batch)
        adapters = inject(family, method(kind), Targets())
        close(predict(family, batch), before)
        assert all(parameter.dtype == torch.float32 for parameter in adapters.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_merged_weight(kind, family, batch):
    adapters = inject(family, method(kind, alpha=2.0), Targets())
    scramble(adapters)
    with torch.no_grad():
        plain = predict(family, batch)
        with adapters.enabled(False):
            base = predict(family, batch)
        with merged(adapters):
            close(predict(family, batch), plain)
        assert (plain - base).abs().max() > 1e-2
        adapters.remove()
        close(predict(family, batch), base, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", file.FORMATS)
def test_saved_and_loaded_is_the_same(kind, format, family, batch, tmp_path):
    adapters = inject(family, method(kind, alpha=3.0, rs_lora=True), Targets())
    scramble(adapters)
    path = tmp_path / f"adapter.{format}"
    file.save(path, adapters.state(), {"ss_network_dim": "4"}, "fp32")
    with torch.no_grad():
        expected = predict(family, batch)
        adapters.remove()
        again = inject(family, method(RESIDUAL.get(kind, kind), rank=7, weights=str(path)), Targets())
        close(
            predict(family, batch), expected, 2e-5 if kind in RESIDUAL else 0
        )  # one product, or the difference of two
    assert again.fresh == []
    first = path.read_bytes()
    file.save(path, again.state(), {"ss_network_dim": "4"}, "fp32")
    assert path.read_bytes() == first


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_moves_and_the_base_does_not(kind, family, batch):
    base = {name: tensor.clone() for part in family.parts().values() for name, tensor in part.state_dict().items()}
    adapters = inject(family, method(kind), Targets())
    start = adapters.state()
    optimizer = torch.optim.AdamW(adapters.parameter_groups(1e-2), weight_decay=0)
    family.denoiser.enable_gradient_checkpointing()
    for _ in range(3):
        predict(family, batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = adapters.state()
    fixed = ("alpha", "on_input")
    still = [key for key in start if not key.endswith(fixed) and torch.equal(start[key], moved[key])]
    assert still == []
    now = {name: tensor for part in family.parts().values() for name, tensor in part.state_dict().items()}
    assert now.keys() == base.keys()
    assert all(torch.equal(base[name], now[name]) for name in base)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_checkpointing_are_the_same(kind, family, batch):
    adapters = inject(family, method(kind, dropout=0.3, rank_dropout=0.2, module_dropout=0.1), Targets())
    scramble(adapters)
    gradients = []
    for checkpointing in (False, True):
        family.denoiser.train()
        if checkpointing:
            family.denoiser.enable_gradient_checkpointing()
        adapters.zero_grad()
        torch.manual_seed(3)
        predict(family, batch).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in adapters.parameters() if parameter.grad is not None])
    assert len(gradients[0]) > 20
    for plain, recomputed in zip(*gradients, strict=True):
        close(recomputed, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_precisions(kind, family, batch):
    """fp32 masters on a bf16 base, and under autocast; close to what fp32 gives."""
    adapters = inject(family, method(kind), Targets())
    scramble(adapters)
    with torch.no_grad():
        exact = predict(family, batch)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = predict(family, batch)
        for part in family.parts().values():
            part.bfloat16()
        noisy, timesteps, ids = batch
        low = predict(family, (noisy.bfloat16(), timesteps, ids))
        with adapters.enabled(False):
            base = predict(family, (noisy.bfloat16(), timesteps, ids))
    assert low.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in adapters.parameters())
    spread = exact.std()
    assert (mixed.float() - exact).std() < 0.03 * spread
    assert (low.float() - exact).std() < 0.05 * spread
    least = 0.08 if kind == "ia3" else 0.2  # its vectors scale, and change less here; more than the precision does
    assert (base.float() - exact).std() > least * spread


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RESIDUAL])
def test_norms_are_limited(kind, family, batch):
    adapters = inject(family, method(kind, max_norm=0.5), Targets())
    scramble(adapters)
    before = {name: adapter.norm().item() for name, adapter in adapters}
    deltas = {name: type(a.method).delta(a.tensors) * a.scale for name, a in adapters}
    assert all(abs(before[name] - deltas[name].norm().item()) < 1e-4 * before[name] for name in before)
    norms = adapters.limit_norms()
    assert norms.limited == sum(norm > 0.5 for norm in before.values()) > 0
    assert norms.largest <= 0.5 + 1e-5
    for name, adapter in adapters:
        direction = type(adapter.method).delta(adapter.tensors) * adapter.scale
        close(direction, deltas[name] * min(1, 0.5 / before[name]))


@pytest.mark.parametrize("kind", KINDS)
def test_dropouts_keep_the_mean(kind, family):
    """Averaged over many draws, a layer's output is the one without dropout; with module dropout it is a share."""
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = family.denoiser.get_submodule(path)
    name = "lora_unet_" + path.replace(".", "_")
    for share, dropouts in ((1.0, {"dropout": 0.5}), (1.0, {"rank_dropout": 0.5}), (0.5, {"module_dropout": 0.5})):
        adapters = inject(family, method(kind, **dropouts), Targets(text_encoder=False))
        scramble(adapters)
        with torch.no_grad(), adapters.enabled(False):
            base = layer(x)
        with torch.no_grad():
            full = adapters.eval().adapters[name](x) - base
            torch.manual_seed(0)
            adapters.train()
            draws = torch.stack([layer(x) - base for _ in range(2000)])
        assert draws.std(0).max() > 0.01 * full.std()  # something is dropped
        tolerance = 6 * draws.std(0).max() / 2000**0.5
        close(draws.mean(0), share * full, tolerance.item())
        adapters.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_layers(kind):
    """On 4-bit weights: the adapter's own change is exact, whatever the layer answers."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    low = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="nf4")
    low.load_state_dict(layer.state_dict())
    low = low.to("cpu").requires_grad_(False)
    weight = bitsandbytes.functional.dequantize_4bit(low.weight.data, low.weight.quant_state).float()
    assert 0 < (weight - layer.weight).abs().max() < 0.05
    made = method(kind)
    adapter = Adapter(low, made, made.create(low, 4, torch.Generator().manual_seed(0)), 2.0)
    with torch.no_grad():
        for tensor in adapter.parameters():
            tensor += 0.05 * torch.randn(tensor.shape)
    x = torch.randn(2, 5, 64, requires_grad=True)
    out = low(x)
    expected = torch.nn.functional.linear(x, weight + adapter.delta(), layer.bias)
    close(out, expected, 2e-3)
    out.sum().backward()
    assert all(tensor.grad is not None for tensor in adapter.parameters())


class FullSize:
    """A model of the public size, without memory."""

    def __init__(self, name: str) -> None:
        self._parts = modules(name)
        self._targets = targets(name, self._parts)
        self.block_count = 25

    def parts(self):
        return self._parts

    def targets(self, part: str):
        return self._targets[part]


@pytest.mark.parametrize("case", CASES)
def test_files_of_full_size_are_those_of_sd_scripts(case):
    """Every key and shape of a file for SD 1.5, SD 2.1 and SDXL."""
    conv_rank = 2 if case.endswith("conv") else None
    state = inject(FullSize(CASES[case]), LoRA(rank=4, conv_rank=conv_rank), Targets()).state()
    expected = {}
    for name, (down, up) in golden(case).items():
        expected |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": []}
    assert {key: list(tensor.shape) for key, tensor in state.items()} == expected
