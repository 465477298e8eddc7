"""CUDA graphs: the thousands of kernels of a model's forward and backward, started as one.

Where batches are small a GPU waits for the processor that starts its kernels. A graph holds the kernels of one shape of
what the model is given, with the places in memory that they read and write, and computes what they compute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from loralab.adapters.inject import AdapterSet
from loralab.models.family import Family
from loralab.models.text.clip import Clip
from loralab.schema.tree import get

log = logging.getLogger(__name__)


HINDRANCES: dict[str, tuple[Any, ...]] = {
    "model.offload": (None, 0),
    "model.quantize": (None, "fp8", "int8"),
    "adapter.module_dropout": (None, 0),
}
"""Settings with which a step does not have the same kernels at the same places, by the values with which it has."""


def hindrance(device: torch.device, processes: int, settings: Mapping[str, Any]) -> str | None:
    """What keeps a run from CUDA graphs; None: nothing. settings: the composed configuration."""
    if device.type != "cuda":
        return "trainer.accelerator"
    if processes > 1:
        return "trainer.devices"
    names = [name for name, valid in HINDRANCES.items() if get(settings, name) not in valid]
    if get(settings, "model.gradient_checkpointing"):  # blocks are computed again with other random numbers
        names += [name for name in ("adapter.dropout", "adapter.rank_dropout") if get(settings, name)]
    # code of others may draw random numbers or decide in Python, which a graph would keep as it was
    names += [name for name in ("adapter._target_", "model._target_") if not get(settings, name).startswith("loralab.")]
    return names[0] if names else None


def recorded_parts(family: Family, settings: Mapping[str, Any]) -> list[str]:
    """The parts of a family that are recorded: the denoiser, and CLIP while it is on the device and its blocks are not
    computed again. Other text encoders look at masks of captions to choose their kernels."""
    is_again = get(settings, "model.gradient_checkpointing") is True
    there = {} if is_again else {part: each for part, each in family.encoders.items() if part not in family.resting}
    return [family.row.denoiser, *(part for part, encoder in there.items() if isinstance(encoder, Clip))]


class Graphs:
    """Forward and backward of a family's parts, as CUDA graphs.

    Each is replayed once in a batch at most, from `begin` to `begin`: what it computed is overwritten by the next.
    Without gradients, as for pictures and validation, kernels are started one by one.
    variant: anything else that changes which kernels there are.
    """

    def __init__(
        self, family: Family, parts: Iterable[str], adapters: AdapterSet, variant: Callable[[], Hashable] = lambda: None
    ) -> None:
        self._is_off = False
        self._modules: list[Graphed] = []
        for part in parts:
            on_it = {name: adapter for name, adapter in adapters if adapters.sites[name].part == part}
            idle = {name for name in on_it if not family.reaches(part, adapters.sites[name].target.path)}
            self._modules.append(Graphed(family.parts()[part], nn.ModuleDict(on_it), idle, variant, self.make_room))

    def begin(self) -> None:
        """Before each batch."""
        for module in self._modules:
            module.is_free = not self._is_off

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it kernels are started one by one."""
        self._is_off = True
        self.begin()
        try:
            yield
        finally:
            self._is_off = False

    def make_room(self) -> None:
        """Frees the graphs' memory where there is less of it left: they are recorded anew."""
        held = sum(module.held for module in self._modules)
        if held and torch.cuda.mem_get_info()[0] < held:
            for module in self._modules:
                module.forget()
            torch.cuda.empty_cache()

    def drop(self) -> None:
        """The modules compute as they did; the graphs' memory is freed."""
        for module in self._modules:
            module.drop()
        self._modules.clear()


@dataclass(slots=True)
class Recording:
    """The graphs of one shape."""

    given: list[Tensor]
    outputs: list[Tensor]
    spec: TreeSpec
    """Of the output."""
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph | None
    """None where nothing needs a gradient."""
    output_gradients: list[Tensor | None]
    given_gradients: list[Tensor | None]
    trained: list[bool]
    """Whether a weight has a gradient."""


MOST_SHAPES = 64
"""Of which a module has graphs: each takes memory of the processor, too."""


class Graphed:
    """A module's forward by graphs. A shape is recorded when it comes for the second time: once would not pay, and its
    first time makes all that the libraries keep.

    Backward adds to the gradients of the adapters' weights itself: thousands of them take autograd as long as a step.

    idle: the names of adapters that what is read of the outputs does not depend on.
    make_room: called before that first time, which takes memory beside that of the graphs there are.
    """

    def __init__(
        self,
        module: nn.Module,
        adapters: nn.ModuleDict,
        idle: Collection[str],
        variant: Callable[[], Hashable],
        make_room: Callable[[], None],
    ) -> None:
        self.module, self.plain, self.variant, self.make_room = module, module.forward, variant, make_room
        self.adapters: list[Any] = list(adapters.values())
        self._call = _Call(adapters, self.plain)
        trained = {name: weight for name, weight in self._call.named_parameters() if weight.requires_grad}
        self._names, self.weights = list(trained), list(trained.values())
        self._is_cast = [adapters[_adapter(name)].method.in_layer_precision for name in trained]  # pyright: ignore
        self._is_idle = [_adapter(name) in idle for name in trained]
        self._used: dict[torch.dtype, list[Tensor]] = {}
        """By autocast's precision: the weights, of which those that are cast have a copy; one kernel makes them all."""
        device = next(module.parameters()).device
        self._kind = device.type
        self._flat = torch.empty(sum(weight.numel() for weight in self.weights), device=device)
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[Hashable, Recording | None] = {}
        self._root = torch.empty(0, device=device, requires_grad=True)
        """By which autograd comes to a backward."""
        self._read = [*module.parameters(), *self._call.parameters()]
        self._places: list[int] = []
        """Where the graphs read what they are not given."""
        self.held = 0
        """Bytes that the graphs have for themselves."""
        self.is_free = False
        module.forward = self

    def __call__(self, *args: Any, **named: Any) -> Any:
        if not (self.is_free and torch.is_grad_enabled()):
            return self.plain(*args, **named)
        self.is_free = False
        leaves, spec = tree_flatten((args, named, self.adapters[0].moment.timesteps if self.adapters else None))
        key = (spec, *map(_described, leaves), self._state())
        places = [tensor.data_ptr() for tensor in self._read]
        if places != self._places:  # weights were moved, as by a text encoder that needed their room
            self.forget()
            self._places = places
        if key not in self._recordings:
            self.make_room()
            if len(self._recordings) < MOST_SHAPES:
                self._recordings[key] = None
            return self.plain(*args, **named)
        recording = self._recordings[key] or self._recorded(key, leaves, spec)
        if recording is None:
            return self.plain(*args, **named)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        outputs: Any = _Replayed.apply(self, recording, self._root, *tensors)
        return tree_unflatten(outputs, recording.spec)

    def forget(self) -> None:
        """Frees the graphs; the shapes remain known, so that each is recorded when it comes again."""
        self._recordings = dict.fromkeys(self._recordings)
        self.held = 0

    def drop(self) -> None:
        if vars(self.module).get("forward") is self:
            del self.module.forward
        self.forget()

    def _weights_used(self) -> Sequence[Tensor]:
        if not torch.is_autocast_enabled(self._kind):
            return self.weights
        dtype = torch.get_autocast_dtype(self._kind)
        if dtype not in self._used:
            pairs = zip(self.weights, self._is_cast, strict=True)
            self._used[dtype] = [torch.empty_like(one, dtype=dtype) if is_cast else one for one, is_cast in pairs]
        return self._used[dtype]

    def _state(self) -> Hashable:
        """What else decides which kernels there are."""
        is_mixed = torch.is_autocast_enabled(self._kind)
        return is_mixed and torch.get_autocast_dtype(self._kind), self.variant(), *(a.active for a in self.adapters)

    def _recorded(self, key: Hashable, leaves: Sequence[Any], spec: TreeSpec) -> Recording | None:
        before = torch.cuda.memory_reserved()
        try:
            with _without_cast_cache():
                self._recordings[key] = self._record(leaves, spec)
        except RuntimeError as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            log.warning("%s is computed without CUDA graphs: %s", type(self.module).__name__, first)
            self.drop()
            return None
        self.held += max(0, torch.cuda.memory_reserved() - before)
        return self._recordings[key]

    def _record(self, leaves: Sequence[Any], spec: TreeSpec) -> Recording:
        places = [_place(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        given = [place for place in places if isinstance(place, Tensor)]
        # weights of their own, as a node of a weight in autograd's graph belongs to the stream that it is used on first
        used = self._weights_used()
        weights = [weight.detach().requires_grad_() for weight in used]
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, pool=self._pool, capture_error_mode="thread_local"):
            _copy(
                [None if one is weight else weight.detach() for weight, one in zip(self.weights, used, strict=True)],
                used,
            )
            tensors = dict(zip(self._names, weights, strict=True))
            outputs, out_spec = tree_flatten(functional_call(self._call, tensors, tree_unflatten(places, spec)))
        has_gradient = [tensor.requires_grad for tensor in given] + [not is_idle for is_idle in self._is_idle]
        wanted = [output for output in outputs if output.requires_grad]
        if not (wanted and any(has_gradient)):
            return Recording(given, outputs, out_spec, forward, None, [], [], [])
        gradients = [torch.empty_like(output) if output.requires_grad else None for output in outputs]
        with torch.cuda.graph(backward, pool=self._pool, capture_error_mode="thread_local"):
            leaf = [tensor for tensor, has in zip([*given, *weights], has_gradient, strict=True) if has]
            passed = [gradient for gradient in gradients if gradient is not None]
            found = iter(torch.autograd.grad(wanted, leaf, passed, allow_unused=True))
            every = [next(found) if has else None for has in has_gradient]
            of_given, of_weights = every[: len(given)], every[len(given) :]
            _copy(of_weights, self._views(self._flat))
        trained = [one is not None for one in of_weights]
        detached = [output.detach() for output in outputs]
        return Recording(given, detached, out_spec, forward, backward, gradients, of_given, trained)

    def add_gradients(self, recording: Recording) -> None:
        """To those of the weights, in memory of their own: the next replay overwrites what it computes."""
        views = self._views(self._flat.clone())
        rows = zip(self.weights, views, recording.trained, strict=True)
        trained = [(weight, view) for weight, view, is_trained in rows if is_trained]
        if added := [(weight.grad, view) for weight, view in trained if weight.grad is not None]:
            torch._foreach_add_(*map(list, zip(*added, strict=True)))  # pyright: ignore
        for weight, view in trained:
            if weight.grad is None:
                weight.grad = view

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([weight.numel() for weight in self.weights])
        return [part.view(weight.shape) for part, weight in zip(parts, self.weights, strict=True)]


class _Call(nn.Module):
    """A forward, as a module that has the adapters: their tensors can be replaced for a call."""

    def __init__(self, adapters: nn.ModuleDict, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.adapters = adapters
        self._forward = forward

    def forward(self, args: tuple[Any, ...], named: dict[str, Any], timesteps: Tensor | None) -> Any:
        moments: list[Any] = [adapter.moment for adapter in self.adapters.values()]
        before = [moment.timesteps for moment in moments]
        for moment in moments:
            moment.timesteps = timesteps
        out = self._forward(*args, **named)
        for moment, given in zip(moments, before, strict=True):
            moment.timesteps = given
        return out


class _Replayed(torch.autograd.Function):
    """A recording's outputs for other inputs. root: as for Graphed."""

    @staticmethod
    def forward(ctx: Any, graphed: Graphed, recording: Recording, root: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        for place, tensor in zip(recording.given, tensors, strict=True):
            place.copy_(tensor)
        recording.forward.replay()
        ctx.graphed, ctx.recording = graphed, recording
        outputs = tuple(output.detach() for output in recording.outputs)
        has_gradient = recording.output_gradients or [None] * len(outputs)
        ctx.mark_non_differentiable(*(o for o, g in zip(outputs, has_gradient, strict=True) if g is None))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recording: Recording = ctx.recording
        for place, gradient in zip(recording.output_gradients, gradients, strict=True):
            if place is not None:
                place.copy_(gradient)
        assert recording.backward
        recording.backward.replay()
        ctx.graphed.add_gradients(recording)
        return None, None, None, *(None if one is None else one.clone() for one in recording.given_gradients)


@contextmanager
def _without_cast_cache() -> Iterator[None]:
    """Autocast's cache would hold casts of weights that are parts of a graph, or of none."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _described(leaf: Any) -> Hashable:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad


def _place(tensor: Tensor) -> Tensor:
    """A tensor like this of its own."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _copy(tensors: Sequence[Tensor | None], places: Sequence[Tensor]) -> None:
    """Those that there are, into the places of the same numbers."""
    pairs = [(place, tensor) for place, tensor in zip(places, tensors, strict=True) if tensor is not None]
    if pairs:
        with torch.no_grad():
            into, out_of = map(list, zip(*pairs, strict=True))
            torch._foreach_copy_(into, out_of)  # pyright: ignore[reportPrivateImportUsage]


def _adapter(name: str) -> str:
    """Of a weight by its name in `_Call`."""
    return name.split(".")[1]
