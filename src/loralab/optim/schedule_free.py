"""Optimizers that keep an average of the weights beside those they step (schedule-free, arXiv 2405.15682)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim import Optimizer


@contextmanager
def evaluation_weights(optimizer: Optimizer) -> Iterator[None]:
    """The weights to preview, validate and export with; other optimizers have but one kind.

    The way back restores the very bits: computing them back from the average would round, and a run that looked at
    its weights would differ from one that did not.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    stepped = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        with torch.no_grad():
            for parameter, value in zip(parameters, stepped, strict=True):
                parameter.copy_(value)
