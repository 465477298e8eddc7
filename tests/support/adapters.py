"""What tests do with adapters that no program does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from loralab.adapters.inject import AdapterSet
from loralab.adapters.kinds import Group, problems_of, sort_out
from loralab.errors import UserError


@contextmanager
def merged(adapters: AdapterSet) -> Iterator[None]:
    """Within it the changes are in the base's weights, and the adapters don't run. Not for quantised weights."""
    originals = {name: adapter.layer.weight.detach().clone() for name, adapter in adapters}
    with torch.no_grad():
        for _, adapter in adapters:
            adapter.layer.weight += adapter.delta().to(adapter.layer.weight.dtype)
    try:
        with adapters.enabled(False):
            yield
    finally:
        with torch.no_grad():
            for name, adapter in adapters:
                adapter.layer.weight.copy_(originals[name])


def grouped(state: Mapping[str, Tensor]) -> dict[str, Group]:
    """The adapters of a state of the kohya layout by module name; a UserError where it is not one."""
    groups, faults = sort_out(state)
    if faults:
        raise UserError(*problems_of(faults, len(state), "adapter.weights"))
    return groups
