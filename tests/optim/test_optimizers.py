"""Every optimizer of conf/optimizer on the CPU: it descends, continues to the bit, and says what it cannot do."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import Parameter

from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.errors import UserError
from loralab.optim import schedules
from loralab.optim.build import build_optimizer, eight_bit, is_adaptive
from loralab.optim.schedule_free import evaluation_weights
from loralab.schema.third_party import RANGES, misfit
from tests import ROOT

CONF = ROOT / "conf"
NAMES = sorted(file.stem for file in (CONF / "optimizer").glob("*.yaml"))
ON_CPU = [name for name in NAMES if not name.startswith("paged")]
EIGHT_BIT = [name for name in ON_CPU if name.endswith("8bit")]
ADAPTIVE = ["dadapt_adam", "prodigy"]
LR = 0.05


def settings(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        changed = [f"optimizer.{override}" for override in overrides]
        return compose(overrides=[f"+suggested.lr={LR}", f"+optimizer={name}", *changed]).optimizer


def parameters() -> list[Parameter]:
    """Shaped like an adapter's: one tensor large enough for 8 bits, a small one, and one that starts at 0."""
    numbers = torch.Generator().manual_seed(3)
    shapes = (64, 80), (8, 40), (40, 8)
    tensors = [torch.randn(*shape, generator=numbers) for shape in shapes]
    return [Parameter(tensors[0]), Parameter(tensors[1]), Parameter(torch.zeros_like(tensors[2]))]


def build(name: str, weights: list[Parameter], *overrides: str, **rates: float) -> torch.optim.Optimizer:
    node = settings(name, *overrides)
    one, other = rates.get("unet", node.lr), rates.get("text_encoder", node.lr)
    groups = [
        {"params": weights[:1], "lr": one, "name": "unet"},
        {"params": weights[1:], "lr": other, "name": "text_encoder"},
    ]
    return build_optimizer(instantiate(node, _convert_="all"), groups)


def train(optimizer: torch.optim.Optimizer, weights: list[Parameter], steps: range) -> float:
    """Steps towards 1 in every element, on noisy gradients that are a function of the step."""
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in steps:
        numbers = torch.Generator().manual_seed(step)
        for weight in weights:
            weight.grad = weight.detach() - 1 + 0.1 * torch.randn(weight.shape, generator=numbers)
        optimizer.step()
    return distance(weights)


def distance(weights: list[Parameter]) -> float:
    return sum(((weight.detach() - 1) ** 2).sum().item() for weight in weights)


def flat(weights: list[Parameter]) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize("name", ON_CPU)
def test_it_descends(name: str) -> None:
    weights = parameters()
    before = distance(weights)
    assert train(build(name, weights), weights, range(200 if name in ADAPTIVE else 60)) < 0.5 * before


@pytest.mark.parametrize("name", ON_CPU)
def test_it_continues_to_the_bit_from_a_state_file(name: str) -> None:
    weights = parameters()
    optimizer = build(name, weights)
    train(optimizer, weights, range(7))
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weights": [weight.detach() for weight in weights]}, file)
    train(optimizer, weights, range(7, 15))

    file.seek(0)
    state = torch.load(file, weights_only=True)  # so nothing of hydra's is in it
    resumed = [Parameter(weight) for weight in state["weights"]]
    continued = build(name, resumed)
    continued.load_state_dict(state["optimizer"])
    train(continued, resumed, range(7, 15))
    assert torch.equal(flat(resumed), flat(weights))


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_eight_bit_state_is_uint8_and_counted(name: str) -> None:
    weights = parameters()
    optimizer = build(name, weights)
    assert eight_bit(optimizer) == (1, 3)
    train(optimizer, weights, range(2))
    assert [optimizer.state[weight]["state1"].dtype for weight in weights] == [
        torch.uint8,
        torch.float32,
        torch.float32,
    ]
    everything = build(name, parameters(), "min_8bit_size=0")
    assert eight_bit(everything) == (3, 3)
    assert eight_bit(build("adamw", parameters())) == (0, 3)


def test_eight_bits_follow_thirty_two() -> None:
    """Same path within the grain of 8 bits, so the quantised state is really the state that steps."""
    eight, full = parameters(), parameters()
    train(build("adamw8bit", eight), eight, range(30))
    train(build("adamw", full), full, range(30))
    moved = (flat(full) - flat(parameters())).norm()
    assert 0 < (flat(eight) - flat(full)).norm() < 0.05 * moved


def test_lion_steps_by_the_sign_of_its_momentum() -> None:
    """Chen et al. 2023, arXiv 2302.06675, algorithm 2."""
    weights, expected = parameters(), [weight.detach().clone() for weight in parameters()]
    momentum = [torch.zeros_like(weight) for weight in expected]
    train(build("lion", weights), weights, range(5))
    for step in range(5):
        numbers = torch.Generator().manual_seed(step)
        for weight, memory in zip(expected, momentum, strict=True):
            gradient = weight - 1 + 0.1 * torch.randn(weight.shape, generator=numbers)
            weight -= LR * (0.9 * memory + 0.1 * gradient).sign()
            memory.mul_(0.99).add_(gradient, alpha=0.01)
    assert torch.allclose(flat(weights), torch.cat([weight.flatten() for weight in expected]), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ON_CPU if name not in ADAPTIVE])
def test_parts_have_their_own_rate(name: str) -> None:
    weights = parameters()
    train(build(name, weights, unet=0.0), weights, range(3))
    assert torch.equal(weights[0], parameters()[0])
    assert not torch.equal(weights[1], parameters()[1])


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_optimizers_refuse_several_rates(name: str) -> None:
    with pytest.raises(UserError, match=r"unet 1, text_encoder 0\.5") as error:
        build(name, parameters(), text_encoder=0.5)
    assert "targets.text_encoder_lr" in str(error.value)
    weights = parameters()
    assert is_adaptive(build(name, weights, text_encoder=0.0)), "a part may be left out"
    assert not is_adaptive(build("adamw", weights))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_optimizers_bear_a_warmup_from_zero(name: str) -> None:
    weights = parameters()
    optimizer = build(name, weights)
    schedule = schedules.constant(optimizer, 200, warmup_steps=5)
    for step in range(200):
        train(optimizer, weights, range(step, step + 1))
        schedule.step()
    assert distance(weights) < 0.5 * distance(parameters())
    assert optimizer.param_groups[0]["d"] > 1e-4, "the step size was found"


def test_an_optimizer_of_its_own_rates_is_given_none(random_family) -> None:
    adapters = inject(random_family, LoRA(rank=1), Targets(text_encoder_lr=0.0))
    try:
        groups = adapters.parameter_groups(None)
        assert [(group["name"], group["lr"]) for group in groups] == [("unet", None)], "frozen parts stay out"
        build_optimizer(instantiate(settings("adafactor", "lr=null", "relative_step=true")), groups)
    finally:
        adapters.remove()


@pytest.mark.parametrize(("name", "lr"), [*((name, 1.0) for name in ADAPTIVE), ("adafactor", None)])
def test_a_ratio_of_rates_needs_rates(random_family, name: str, lr: float | None) -> None:
    """LoRA+ with optimizers that find their own."""
    adapters = inject(random_family, LoRA(rank=1), Targets(loraplus_ratio=16.0))
    own = () if lr else ("lr=null", "relative_step=true")
    try:
        with pytest.raises(UserError, match=r"different learning rates|targets\.loraplus_ratio"):
            build_optimizer(instantiate(settings(name, *own)), adapters.parameter_groups(lr))
    finally:
        adapters.remove()


def test_paged_optimizers_refuse_a_cpu() -> None:
    for name in sorted(set(NAMES) - set(ON_CPU)):
        with pytest.raises(UserError, match="need a GPU"):
            build(name, parameters())


def test_adafactor_finds_its_own_rate_where_it_is_told_to() -> None:
    weights = parameters()
    own = "lr=null", "relative_step=true", "scale_parameter=true", "warmup_init=true"
    optimizer = build("adafactor", weights, *own)
    schedules.constant(optimizer, 10)  # a schedule can be put on top
    assert train(optimizer, weights, range(5)) != distance(parameters())
    with pytest.raises(UserError, match="relative_step"):
        build("adafactor", parameters(), "relative_step=true")


@pytest.mark.parametrize("groups", [[], [{"params": [], "lr": 1.0, "name": "unet"}]])
def test_nothing_to_train_is_an_error(groups: list) -> None:
    with pytest.raises(UserError, match="targets"):
        build_optimizer(torch.optim.AdamW, groups)


def test_no_rate_above_zero_is_an_error() -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        build("adamw", parameters(), unet=0.0, text_encoder=0.0)


def test_any_import_path() -> None:
    weights = parameters()
    node = OmegaConf.create({"_target_": "torch.optim.NAdam", "_partial_": True, "lr": LR})
    optimizer = build_optimizer(instantiate(node), [{"params": weights, "lr": LR, "name": "unet"}])
    assert train(optimizer, weights, range(60)) < 0.5 * distance(parameters())


def test_looking_at_schedule_free_weights_leaves_no_trace() -> None:
    weights, undisturbed = parameters(), parameters()
    optimizer, other = build("schedulefree", weights), build("schedulefree", undisturbed)
    train(optimizer, weights, range(10))
    train(other, undisturbed, range(10))
    stepped = flat(weights)
    with evaluation_weights(optimizer):
        averaged = flat(weights)
        assert not torch.equal(averaged, stepped)
    assert torch.equal(flat(weights), stepped)
    train(optimizer, weights, range(10, 20))
    train(other, undisturbed, range(10, 20))
    assert torch.equal(flat(weights), flat(undisturbed))


def test_other_optimizers_have_one_kind_of_weights() -> None:
    weights = parameters()
    optimizer = build("adamw", weights)
    train(optimizer, weights, range(3))
    stepped = flat(weights)
    with evaluation_weights(optimizer):
        assert torch.equal(flat(weights), stepped)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_values_are_in_range(name: str) -> None:
    node = settings(name)
    for key, limits in RANGES["optimizer"].items():
        value = node.get(key)
        for number in value if OmegaConf.is_list(value) else [value]:
            assert number is None or number in limits, key


@pytest.mark.parametrize(
    ("key", "value"), [("beta1", [0.5]), ("beta3", []), ("lr", [0.1]), ("t_alpha", [3]), ("betas", [0.9, 2])]
)
def test_a_list_is_no_number(key: str, value: list[float]) -> None:
    """Nor where the YAML writes null."""
    assert misfit(f"optimizer.{key}", value, [0.9, 0.999] if key == "betas" else None)


def test_ranges_are_those_the_constructors_keep() -> None:
    limits = RANGES["optimizer"]
    for key, bad in (("lr", -1.0), ("eps", -1e-8), ("weight_decay", -0.1)):
        assert bad not in limits[key]
        with pytest.raises(ValueError, match="Invalid"):
            partial(torch.optim.AdamW, **{key: bad})(parameters())
    assert 1.0 not in limits["betas"]
    assert 0.999 in limits["betas"]
