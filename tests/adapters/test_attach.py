"""Adapters of finished files on a model, at any strength."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from loralab.adapters.attach import attach
from loralab.adapters.dora import DoRA
from loralab.adapters.inject import inject
from loralab.adapters.kinds import sort_out
from loralab.adapters.loha import LoHa
from loralab.adapters.lokr import LoKr
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.errors import UserError
from tests.support.tools import answer

KINDS = {
    "lora": LoRA(rank=4, alpha=2.0, conv_rank=3),
    "dora": DoRA(rank=4, alpha=2.0),
    "loha": LoHa(rank=2, alpha=1.0, conv_rank=2),
    "lokr": LoKr(rank=2, alpha=1.0, conv_rank=2),
    "loha with magnitudes": LoHa(rank=2, alpha=1.0),
}


def groups_of(family, name):
    """What a file of a kind holds, as after training; in the last one are magnitudes that only other trainers write."""
    adapters = inject(family, KINDS[name], Targets())
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    state = adapters.state()
    if "magnitudes" in name:
        norms = {f"{module}.dora_scale": a.layer.weight.flatten(1).norm(dim=1) * 1.1 for module, a in adapters}
        state |= {key: norm.reshape(-1, 1) for key, norm in norms.items()}
    adapters.remove()
    return sort_out(state)[0]


@contextmanager
def merged(family, groups, strength):
    """The base with so much of each change added to its weights."""
    before = {}
    for part, module in family.parts().items():
        for target in family.targets(part):
            if target.kohya in groups:
                weight = module.get_submodule(target.path).weight
                before[target.kohya] = weight, weight.detach().clone()
    with torch.no_grad():
        for name, (weight, old) in before.items():
            weight += strength * groups[name].change(weight.shape, old)
        yield
        for weight, old in before.values():
            weight.copy_(old)


@pytest.mark.parametrize("name", KINDS)
def test_half_a_strength_is_half_of_the_merged_change(name, random_family):
    groups = groups_of(random_family, name)
    plain = answer(random_family)
    adapters = attach(random_family, groups, "FILE")
    try:
        whole = answer(random_family)
        for strength in (1.0, 0.5, -0.5):
            adapters.set_strength(strength)
            attached = answer(random_family)
            with adapters.enabled(False), merged(random_family, groups, strength):
                torch.testing.assert_close(attached, answer(random_family), atol=2e-5, rtol=2e-5)
        adapters.set_strength(0.0)
        assert torch.equal(answer(random_family), plain)
        assert (whole - plain).abs().max() > 1e-3
    finally:
        adapters.remove()


def test_several_kinds_and_zeros_are_taken_as_they_are(random_family):
    lora, loha = groups_of(random_family, "lora"), groups_of(random_family, "loha")
    mixed = {name: group for i, name in enumerate(lora) for group in [(lora, loha)[i % 2].get(name)] if group}
    for tensor in next(iter(mixed.values())).tensors.values():
        tensor.zero_()
    attach(random_family, mixed, "FILE").remove()


def test_what_does_not_fit_is_refused_and_nothing_is_changed(random_family):
    groups = groups_of(random_family, "lora")
    plain = answer(random_family)
    name, group = next((n, g) for n, g in groups.items() if n.endswith("attn2_to_k"))
    wide = {**group.tensors, "lora_down": torch.zeros(group.tensors["lora_down"].shape[0], 768)}
    for wrong in ({name: type(group)(group.kind, wide, 1.0)}, {"lora_unet_nowhere": group}):
        with pytest.raises(UserError, match=r"FILE: .*(768|nowhere)"):
            attach(random_family, {**groups, **wrong}, "FILE")
        assert torch.equal(answer(random_family), plain)
