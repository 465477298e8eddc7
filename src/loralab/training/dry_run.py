"""Forward and backward of a batch that leave nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from loralab.rng import derive

if TYPE_CHECKING:
    from lightning import Trainer
    from torch import Tensor

    from loralab.training.module import LoraModule
    from loralab.types import Batch


def dry_run(trainer: Trainer, module: LoraModule, batch: Batch) -> list[Tensor]:
    """The gradients of the trained tensors that have one, which are not added to theirs. batch: on the device.

    What is random in it is the same each time, and the global generators are left as they are.
    """
    weights = [weight for weight in module.weights.values() if weight.requires_grad]
    with torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
        torch.manual_seed(derive(module.seed, "dry run"))
        with trainer.precision_plugin.forward_context():
            loss = module.losses(batch, module.seed).loss.mean()
        if not loss.requires_grad:  # module dropout disabled every adapter
            return []
        return [each for each in torch.autograd.grad(loss, weights, allow_unused=True) if each is not None]
