"""What stands in for CUDA graphs where there is no GPU: operations are noted while they run, and run again into the
tensors that they gave. Which memory is used again, and what cannot be recorded, only a GPU shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loralab.callbacks import cuda_graphs
from loralab.training import graphs


class CPUGraph:
    """In the place of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for operation, args, kwargs, given in self.calls:
                for place, tensor in zip(tree_leaves(given), tree_leaves(operation(*args, **kwargs)), strict=True):
                    if isinstance(place, Tensor) and place.data_ptr() != tensor.data_ptr():
                        place.detach().copy_(tensor)


class _Noting(TorchDispatchMode):
    def __init__(self, graph: CPUGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.graph.calls.append((func, args, kwargs or {}, out))
        return out


def use_cpu_graphs(monkeypatch: pytest.MonkeyPatch) -> list[CPUGraph]:
    """From now on runs on a CPU use graphs wherever those on a GPU would; returns what is recorded."""
    recorded: list[CPUGraph] = []

    @contextmanager
    def graph(graph: CPUGraph, **_: object) -> Iterator[None]:
        recorded.append(graph)
        with torch.random.fork_rng(devices=[]), _Noting(graph):  # on a GPU nothing is drawn while it is recorded
            yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", CPUGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    gpu = torch.device("cuda")
    monkeypatch.setattr(cuda_graphs, "hindrance", lambda _, *given: graphs.hindrance(gpu, *given))
    return recorded
