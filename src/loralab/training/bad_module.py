"""Where the first value that is not finite comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loralab.training.module import LoraModule
from loralab.types import Batch


@torch.no_grad()
def first_bad_module(module: LoraModule, batch: Batch) -> str | None:
    """The first module whose output is not finite when the loss of the batch is computed; None where there is none."""
    with _watched(module.base) as found, module.trainer.precision_plugin.forward_context():
        module.losses(batch.to(module.device), module.seed)
    return next(iter(found), None)


@contextmanager
def _watched(root: nn.Module) -> Iterator[dict[str, None]]:
    """Yields the names of leaf modules whose output is not finite, in the order of computation."""
    found: dict[str, None] = {}

    def watch(name: str) -> Any:
        def look(leaf: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor) and not out.isfinite().all():
                found[name] = None

        return look

    with ExitStack() as hooks:
        for name, leaf in root.named_modules():
            if not any(True for _ in leaf.children()):
                hooks.callback(leaf.register_forward_hook(watch(name)).remove)
        yield found
