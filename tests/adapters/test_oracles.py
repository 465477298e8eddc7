"""Adapters against PEFT and LyCORIS: the same tensors, the same change of the weight, the same output."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from loralab.adapters.base import Adapter, Method
from loralab.adapters.boft import BOFT
from loralab.adapters.dora import DoRA
from loralab.adapters.ia3 import IA3
from loralab.adapters.inject import inject
from loralab.adapters.kinds import suffix
from loralab.adapters.loha import LoHa
from loralab.adapters.lokr import LoKr, split
from loralab.adapters.lora import LoRA
from loralab.adapters.oft import OFT
from loralab.adapters.oft_v2 import OFTv2
from loralab.adapters.residual import OLoRA, PiSSA
from loralab.adapters.t_lora import TLoRA
from loralab.adapters.targets import Targets
from loralab.models.families.sd import load
from tests.support.adapters import grouped

LAYERS = {
    "linear": lambda: nn.Linear(24, 40),
    "pointwise": lambda: nn.Conv2d(24, 40, 1, bias=False),
    "conv": lambda: nn.Conv2d(24, 40, 3, stride=2, padding=1),
}
METHODS = {
    "lora": LoRA(rank=4, alpha=3.0),
    "dora": DoRA(rank=4, alpha=3.0),
    "loha": LoHa(rank=4, alpha=3.0),
    "lokr": LoKr(rank=2, alpha=3.0),
    "lokr_whole": LoKr(rank=2, alpha=3.0, full_matrix=True),
    "lokr_both": LoKr(rank=2, alpha=3.0, decompose_both=True),
    "lokr_factor": LoKr(rank=2, alpha=3.0, factor=4),
    "oft": OFT(rank=4),
    "oft_rescaled": OFT(rank=4, rescaled=True),
    "boft": BOFT(rank=10),
    "boft_rescaled": BOFT(rank=10, rescaled=True),
}


def build(layer: nn.Module, method: Method) -> Adapter:
    """An adapter as after training: every tensor counts."""
    draw = torch.Generator().manual_seed(3)
    tensors = method.create(layer, method.rank, draw)
    tensors = {name: t + 0.1 * torch.randn(t.shape, generator=draw) for name, t in tensors.items()}
    return Adapter(layer, method, tensors, method.alpha or float(method.rank))


def make_layer(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return LAYERS[name]().requires_grad_(False)


def make_input(layer: nn.Module) -> torch.Tensor:
    shape = (2, 5, 24) if isinstance(layer, nn.Linear) else (2, 24, 8, 6)
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def close(a, b, **tolerance):
    torch.testing.assert_close(a, b, **(tolerance or {"atol": 2e-5, "rtol": 1e-4}))


def in_file(adapter: Adapter) -> dict[str, torch.Tensor]:
    """A file's tensors of one module, `a`."""
    told = adapter.method.in_file(adapter.values, adapter.alpha)
    return {f"a.{suffix(name)}": tensor.detach() for name, tensor in told.items()}


def lycoris_weight(module, weight: torch.Tensor) -> torch.Tensor:
    """The weight with LyCORIS' adapter. Its get_diff_weight scales LoHa and LoKr twice (4.1.3), its forward once."""
    if hasattr(module, "get_weight"):
        return weight + module.get_weight(weight.shape)
    return module.get_merged_weight()[0]


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize("name", METHODS)
def test_lycoris_loads_it_and_agrees(name, layer_name):
    from lycoris.modules import get_module, make_module

    layer = make_layer(layer_name)
    x, weight = make_input(layer), layer.weight.clone()
    adapter = build(layer, METHODS[name])
    state = in_file(adapter)
    theirs = make_layer(layer_name)
    with torch.no_grad():
        kind, values = get_module(state, "a")
        module = make_module(kind, values, "a", theirs)
        close(weight + adapter.delta(), lycoris_weight(module, weight))
        module.apply_to()
        close(layer(x), theirs(x))


def wrapped(layer_name: str, config):
    from peft import get_peft_model

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make_layer(layer_name)

        def forward(self, x):
            return self.layer(x)

    return get_peft_model(Model(), config)


def peft_config(name: str):
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    common = {"r": METHODS[name].rank, "target_modules": ["layer"]}
    if name == "loha":
        return LoHaConfig(**common, alpha=3.0)
    if name == "lokr":
        return LoKrConfig(**common, alpha=3.0)
    return LoraConfig(**common, lora_alpha=3.0, use_dora=name == "dora")


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize("name", ["lora", "dora", "loha", "lokr"])
def test_peft_agrees(name, layer_name):
    layer = make_layer(layer_name)
    x = make_input(layer)
    adapter = build(layer, METHODS[name])
    model = wrapped(layer_name, peft_config(name))
    theirs = model.base_model.model.layer
    spelled = {"lora_down": "lora_A", "lora_up": "lora_B", "dora_scale": "lora_magnitude_vector"}
    with torch.no_grad():
        for tensor_name, tensor in adapter.tensors.items():
            slot = getattr(theirs, spelled.get(tensor_name, tensor_name))["default"]
            slot = getattr(slot, "weight", slot)
            slot.copy_(tensor.reshape(slot.shape))
        close(layer(x), model(x))
        if name != "dora":
            close(adapter.delta(), theirs.get_delta_weight("default"))
    if name == "dora":  # gradients, the norm taken as a constant
        layer(x).square().sum().backward()
        model(x).square().sum().backward()
        for tensor_name, tensor in adapter.tensors.items():
            slot = getattr(theirs, spelled[tensor_name])["default"].weight
            close(tensor.grad.reshape(slot.shape), slot.grad, atol=1e-3, rtol=1e-3)


def test_tucker_forms_of_others():
    """LyCORIS' cores with the kernel, which are read and merged, and trained where they are LoRA's."""
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    for kind, method in ((LoConModule, LoRA), (LohaModule, LoHa), (LokrModule, LoKr)):
        layer = make_layer("conv")
        module = kind("a", layer, lora_dim=2, alpha=3.0, use_tucker=True)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
            state = {f"a.{key}": value.clone() for key, value in module.state_dict().items()}
            group = grouped(state)["a"]
            assert group.kind is method
            assert any(name.endswith(("mid", "t1", "t2")) for name in group.tensors)
            expected = lycoris_weight(module, layer.weight) - layer.weight
            close(group.change(layer.weight.shape), expected)
            x = make_input(layer)
            plain = layer(x)
            Adapter(layer, method(rank=1), group.tensors, group.alpha)
            added = torch.nn.functional.conv2d(x, expected, None, 2, 1)
            close(layer(x), plain + added, atol=1e-4, rtol=1e-3)


PRESET = """
enable_conv = true
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
"""
"""What LyCORIS takes of SD 1.x and 2.x unless told otherwise: every layer."""


@pytest.mark.parametrize(
    ("algorithm", "settings", "kind"),
    [
        ("lora", {}, LoRA),
        ("lora", {"use_tucker": True}, LoRA),
        ("loha", {}, LoHa),
        ("lokr", {"factor": 4}, LoKr),
        ("lora", {"dora_wd": True}, DoRA),
        ("lora", {"dora_wd": True, "wd_on_output": False}, DoRA),
        ("diag-oft", {}, OFT),
        ("diag-oft", {"rescaled": True}, OFT),
        ("boft", {"rescaled": True}, BOFT),
        ("ia3", {}, IA3),
    ],
)
def test_files_of_lycoris(algorithm, settings, kind, random_base, tmp_path):
    """A whole UNet's file that LyCORIS wrote has here the effect that it has there; and it is saved as it was."""
    from lycoris.kohya import create_network

    family = load(str(random_base), attention="eager", resolution=64)
    (tmp_path / "preset.toml").write_text(PRESET)
    settings = {**settings, "conv_dim": 3, "conv_alpha": 1.0, "preset": str(tmp_path / "preset.toml")}
    network = create_network(1.0, 4, 2.0, None, [], family.denoiser, algo=algorithm, **settings)
    draw = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 77, 32, generator=draw)
    path = tmp_path / "theirs.safetensors"
    with torch.no_grad():
        before = family.denoiser(noisy, 5, text).sample
        network.apply_to(None, family.denoiser, False, True)
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
        theirs = family.denoiser(noisy, 5, text).sample
        network.save_weights(str(path), torch.float32, {})
        network.restore()
        adapters = inject(family, kind(rank=2, weights=str(path)), Targets(text_encoder=False)).eval()
        ours = family.denoiser(noisy, 5, text).sample
    close(ours, theirs)
    assert (ours - before).abs().max() > 0.1
    assert adapters.fresh == []
    assert set(adapters.adapters) == {target.kohya for target in family.targets("unet")}
    state, expected = adapters.state(), load_file(path)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


@pytest.mark.parametrize("layer_name", LAYERS)
def test_dora_of_inputs(layer_name):
    """A magnitude for each input, as UIs take it: its start, the file's change, the output, the gradients."""
    from lycoris.modules.locon import LoConModule

    layer, theirs = make_layer(layer_name), make_layer(layer_name)
    module = LoConModule("a", theirs, lora_dim=4, alpha=3.0, weight_decompose=True, wd_on_out=False)
    method = DoRA(rank=4, alpha=3.0, magnitude="input")
    close(method.create(layer, 4, torch.Generator())["dora_scale"], module.dora_scale.data)
    adapter = build(layer, method)
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            module.get_parameter(suffix(name)).copy_(tensor)
        change = grouped({f"a.{key}": value for key, value in module.state_dict().items()})["a"].change(
            theirs.weight.shape, theirs.weight
        )
        close(theirs.weight + change, module.get_merged_weight()[0])
        close(change, adapter.delta())
    x = make_input(layer)
    module.apply_to()
    close(layer(x), theirs(x))
    gradients = torch.autograd.grad(layer(x).square().sum(), list(adapter.parameters()))
    numeric = numerical_gradient(adapter, lambda: layer(x).square().sum(), "dora_scale")
    close(dict(zip(adapter.tensors, gradients, strict=True))["dora_scale"], numeric, atol=0.05, rtol=0.05)


def numerical_gradient(adapter: Adapter, loss, name: str, step: float = 1e-2) -> torch.Tensor:
    """Of a loss by one tensor, by central differences."""
    tensor = adapter.tensors[name].data
    found = torch.zeros(tensor.numel())
    with torch.no_grad():
        for i in range(tensor.numel()):
            value = tensor.view(-1)[i].item()
            ends = []
            for moved in (value + step, value - step):
                tensor.view(-1)[i] = moved
                ends.append(loss())
            tensor.view(-1)[i] = value
            found[i] = (ends[0] - ends[1]) / (2 * step)
    return found.reshape(tensor.shape)


def test_split():
    from lycoris.functional import factorization

    for width in (1, 2, 24, 127, 128, 250, 320, 360, 512, 640, 768, 1280, 2048, 10240):
        for factor in (None, 4, 8, 16):
            assert split(width, factor) == factorization(width, factor or -1), (width, factor)


@pytest.mark.parametrize(("kind", "rank"), [(OFT, 4), (BOFT, 10)])
def test_constraint(kind, rank):
    """LyCORIS' bound on the rotations: kept to by training here, written into files there."""
    from lycoris.modules import get_module, make_module

    layer = make_layer("linear")
    adapter = build(layer, kind(rank=rank, constraint=0.02))
    before, state = layer.weight + adapter.delta(), in_file(adapter) | {"a.alpha": torch.tensor(0.02)}
    limit = adapter.method.norm_limit(layer)
    assert limit == 0.02 * 40
    assert adapter.limit_norm(limit)
    with torch.no_grad():
        module = make_module(*get_module(state, "a"), "a", make_layer("linear"))
        expected = lycoris_weight(module, layer.weight)
        close(layer.weight + adapter.delta(), expected)
        close(layer.weight + grouped(state)["a"].change(layer.weight.shape, layer.weight), expected)
        assert (before - expected).abs().max() > 0.05
    assert in_file(adapter)["a.alpha"] == 0, "programs differ in what they make of it"


def test_rotations_keep_angles():
    """What OFT is for: products of a block's rows with each other, and all norms of a rotated weight, are as before."""
    layer = make_layer("linear")
    turned = layer.weight + build(layer, OFT(rank=4)).delta()
    assert (turned - layer.weight).abs().max() > 0.1
    close(turned.T @ turned, layer.weight.T @ layer.weight)


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize("block_share", [False, True])
def test_rotations_of_inputs(block_share, layer_name):
    """PEFT's on linear layers; on convolutions its rotation, multiplied to the weight as OneTrainer does."""
    from peft import OFTConfig
    from peft.tuners.oft.layer import OFTRotationModule

    layer = make_layer(layer_name)
    adapter = build(layer, OFTv2(rank=4, block_share=block_share))
    x, values = make_input(layer), adapter.tensors["oft_R"]
    with torch.no_grad():
        if layer_name == "linear":
            config = OFTConfig(oft_block_size=4, target_modules=["layer"], block_share=block_share)
            model = wrapped(layer_name, config)
            model.base_model.model.layer.oft_R["default"].weight.copy_(values)
            close(layer(x), model(x))
            return
        width = layer.weight[0].numel()
        rotation = OFTRotationModule(len(values), 6, 4, width, block_share=block_share)
        rotation.weight.copy_(values)
        expected = layer.weight.flatten(1) @ rotation.get_weight()
        close(layer.weight + adapter.delta(), expected.reshape(layer.weight.shape))
        scaled = {"oft_R": values * 6**0.5, "oft_R.scaled_oft": torch.tensor(1)}  # OneTrainer's other form
        group = grouped({f"a.{suffix(name)}": tensor for name, tensor in scaled.items()})["a"]
        close(group.change(layer.weight.shape, layer.weight), adapter.delta())


@pytest.mark.parametrize("layer_name", LAYERS)
@pytest.mark.parametrize("on_input", [False, True])
def test_factors(on_input, layer_name):
    """(IA)³ as LyCORIS has it, and as PEFT does where no bias is scaled with the output."""
    from lycoris.modules.ia3 import IA3Module
    from peft import IA3Config

    layer = make_layer(layer_name)
    adapter, x = build(layer, IA3(on_input=on_input)), make_input(layer)
    module = IA3Module("a", theirs := make_layer(layer_name), train_on_input=on_input)
    module.load_state_dict({key.removeprefix("a."): value for key, value in in_file(adapter).items()})
    with torch.no_grad():
        module.apply_to()
        close(layer(x), theirs(x))
        close(layer.weight + adapter.delta(), module.get_merged_weight()[0])
    if on_input or layer.bias is None:
        config = IA3Config(target_modules=["layer"], feedforward_modules=["layer"] if on_input else [])
        model = wrapped(layer_name, config)
        slot = model.base_model.model.layer.ia3_l["default"]
        with torch.no_grad():
            slot.copy_(1 + adapter.tensors["weight"].reshape(slot.shape))
            close(layer(x), model(x))


@pytest.mark.parametrize(
    ("method", "init"),
    [(PiSSA(rank=4), "pissa"), (PiSSA(rank=4, alpha=2.0), "pissa"), (OLoRA(rank=4, alpha=2.0), "olora")],
)
def test_starts_from_the_weight(method, init, tmp_path):
    """PEFT's start, output after training, and conversion to a LoRA for the unchanged base."""
    from peft import LoraConfig

    layer = make_layer("linear")
    start = method.create(layer, 4, torch.Generator())
    adapter, x = build(layer, method), make_input(layer)
    config = LoraConfig(r=4, lora_alpha=method.alpha or 4, target_modules=["layer"], init_lora_weights=init)
    model = wrapped("linear", config)
    with torch.no_grad():
        theirs = {"lora_down": model.base_model.model.layer.lora_A, "lora_up": model.base_model.model.layer.lora_B}
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "start")
        model.peft_config["default"].init_lora_weights = init
        for name, modules in theirs.items():
            close(start[name], modules["default"].weight)
            assert start[name].abs().min(1 if name == "lora_down" else 0).values.max() > 0
            moved = start[name] + 0.1 * torch.randn(start[name].shape, generator=torch.Generator().manual_seed(3))
            modules["default"].weight.copy_(moved)
            adapter.tensors[name].copy_(moved)
            adapter.get_buffer(name.replace("lora", "start")).copy_(start[name])
        close(layer(x), model(x))
        assert torch.equal(layer.weight, make_layer("linear").weight), "the base is as it was"
    model.save_pretrained(tmp_path / "end", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    converted = load_file(tmp_path / "end" / "adapter_model.safetensors")
    group = grouped(in_file(adapter))["a"]
    assert (group.kind, group.rank) == (LoRA, 8)
    prefix = "base_model.model.layer.lora_"
    expected = converted[f"{prefix}B.weight"] @ converted[f"{prefix}A.weight"] * (method.alpha or 4) / 4
    close(group.change(layer.weight.shape), expected)
    assert expected.abs().max() > 0.1


def test_rank_by_timestep():
    """LyCORIS' masks, and what they do to the output of a batch of mixed timesteps."""
    from lycoris.modules.tlora import compute_timestep_mask

    times = torch.tensor([0, 1, 250, 499, 500, 777, 998, 999])
    for rank, least, exponent in ((16, 1, 1.0), (16, 8, 1.0), (5, 1, 2.5), (4, 9, 1.0)):
        ours = TLoRA(rank=rank, min_rank=least, exponent=exponent).rank_at(times, rank)
        masks = [compute_timestep_mask(int(t), 1000, rank, min(least, rank), exponent) for t in times]
        assert ours.tolist() == [int(mask.sum()) for mask in masks]
    for layer_name in LAYERS:
        layer = make_layer(layer_name)
        x, plain = make_input(layer), make_layer(layer_name)
        adapter = build(layer, TLoRA(rank=4, alpha=3.0, orthogonal=True))
        for timesteps, ranks in ((None, (4, 4)), (torch.tensor([999, 500]), (1, 2))):
            adapter.moment.timesteps = timesteps
            out = layer(x)
            for sample, rank in enumerate(ranks):
                down, up = (adapter.tensors[name].detach() for name in ("lora_down", "lora_up"))
                state = {"a.lora_down.weight": down[:rank], "a.lora_up.weight": up[:, :rank]}
                change = grouped(state | {"a.alpha": torch.tensor(0.75 * rank)})["a"].change(plain.weight.shape)
                changed = make_layer(layer_name)
                changed.weight += change
                close(out[sample], changed(x)[sample])
