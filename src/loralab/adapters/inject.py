"""Adapters on the modules of a model: the one thing that training changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralab.adapters import file
from loralab.adapters.base import Adapter, Layer, Method, Moment, is_spatial, weight_shape
from loralab.adapters.kinds import Group, fits, some, sort_out, suffix
from loralab.adapters.layouts import Layout, to_comfyui, to_diffusers
from loralab.adapters.targets import Site, Targets
from loralab.errors import user_error
from loralab.models.family import Family
from loralab.models.registry import named, of_adapter
from loralab.models.target import Target
from loralab.rng import generator


@dataclass(frozen=True, slots=True)
class Norms:
    """Norms of the layers' changes, after the limit was applied; () each, on their device."""

    mean: Tensor
    largest: Tensor
    limited: Tensor
    """How many had to be shrunk."""


class AdapterSet(nn.Module):
    """All adapters of a model, by their names in files. Its state dict holds them and nothing of the base."""

    def __init__(self, adapters: Mapping[str, Adapter], sites: Mapping[str, Site], targets: Targets) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict(adapters)
        self.sites = dict(sites)
        self.targets = targets
        self.fresh: list[str] = []
        """Those that the file to start from lacks."""
        self.notes: list[str] = []
        """Notes for the user about that file."""
        self.moment = Moment()
        for name, adapter in self:
            adapter.requires_grad_(self.rate(name, 1.0) != 0)
            if not self.sites[name].part.startswith("text_encoder"):
                adapter.moment = self.moment

    def __iter__(self) -> Iterator[tuple[str, Adapter]]:
        yield from self.adapters.items()  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.adapters)

    def rate(self, name: str, lr: float | None) -> float | None:
        """The learning rate of an adapter, where the optimizer's is `lr`; None where the optimizer finds its own."""
        site = self.sites[name]
        if site.lr_factor == 0:
            return 0.0
        rate = lr if site.lr is None else site.lr
        return None if rate is None else rate * site.lr_factor

    def parameter_groups(self, lr: float | None) -> list[dict[str, Any]]:
        """Optimizer groups {params, lr, name} of what is trained.

        Raises a UserError where everything is frozen, or where LoRA+ has no rate to multiply.
        """
        if lr is None and self.targets.loraplus_ratio:
            found = "cannot be combined with optimizer.lr=null: there is no learning rate to multiply"
            raise user_error("targets.loraplus_ratio", found, "set optimizer.lr, or targets.loraplus_ratio=null")
        groups: dict[str, dict[str, Any]] = {}
        for name, adapter in self:
            rate = self.rate(name, lr)
            for tensor_name, tensor in adapter.tensors.items() if rate != 0 else ():
                plus = self.targets.loraplus_ratio if tensor_name in adapter.method.starts_at_zero else None
                group = self.sites[name].group + ("/plus" if plus else "")
                new = {"params": [], "lr": None if rate is None else rate * (plus or 1.0), "name": group}
                groups.setdefault(group, new)["params"].append(tensor)
        if not groups:
            raise user_error("targets", "every learning rate is 0: nothing would be trained", "raise one of them")
        return list(groups.values())

    def state(self, layout: Layout = "kohya") -> dict[str, Tensor]:
        """All tensors by their keys in a file, alphas among them in the kohya layout; fp32."""
        state = {}
        for name, adapter in self:
            told = adapter.method.in_file(adapter.values, adapter.alpha)
            state |= {f"{name}.{suffix(n)}": tensor.detach().clone() for n, tensor in told.items()}
        if layout == "diffusers":
            return to_diffusers(sort_out(state, values=False)[0], self.table)
        return to_comfyui(state, self.table) if layout == "comfyui" else state

    @property
    def table(self) -> dict[str, list[Target]]:
        """The adapted modules by part."""
        table: dict[str, list[Target]] = {}
        for site in self.sites.values():
            table.setdefault(site.part, []).append(site.target)
        return table

    def load(self, groups: Mapping[str, Group], name: str) -> None:
        """Takes the adapters of a file called `name`; its ranks and alphas count. Before an optimizer is made.

        Modules that it lacks stay as they are. Raises a UserError for modules that have no adapter here, for another
        kind of adapter, for tensors of another model's shapes, or for adapters that cannot learn.
        """
        strange = [module for module in groups if module not in self.adapters]
        if strange:
            raise user_error(
                "adapter.weights",
                f"contains modules that this run does not adapt: {some(strange)}",
                self._hint(strange),
            )
        check_start(groups, type(next(iter(self))[1].method))
        before = {module: _size_in_words(self.adapters[module]) for module in groups}
        for module, group in groups.items():
            adapter: Adapter = self.adapters[module]  # type: ignore[assignment]
            check_shape(module, group, adapter.layer)
            adapter.put(group.tensors, group.alpha)
            adapter.requires_grad_(self.rate(module, 1.0) != 0)
        after = {module: _size_in_words(self.adapters[module]) for module in groups}
        other = [module for module in groups if before[module] != after[module]]
        if other:
            count, ours, theirs = f"{len(other)} of {len(groups)} modules", before[other[0]], after[other[0]]
            self.notes.append(f"{name}: {count} keep the file's {theirs}; the settings' {ours} is ignored")
        self.fresh = [module for module, _ in self if module not in groups]
        if fresh := self.fresh:
            self.notes.append(
                f"{name} lacks {len(fresh)} of {len(self)} modules, which start from scratch: {some(fresh, 2)}"
            )
        if further := [module for module, site in self.sites.items() if not site.asked]:
            self.notes.append(
                f"{name} contains {len(further)} modules outside targets, which are trained, too: {some(further, 2)}"
            )

    def _hint(self, strange: list[str]) -> str:
        row = of_adapter(strange)
        for part, known in row.parts.items():
            key = "unet" if part == row.denoiser else "text_encoder"
            if any(name.startswith(known.prefix) for name in strange) and not getattr(self.targets, key):
                return f"to keep the file's {known.words} part, frozen: targets=both targets.{key}_lr=0"
        return "use the model family and the targets.patterns that the file was trained with"

    def at_timesteps(self, timesteps: Tensor | None) -> None:
        """Tells the denoiser's adapters which timesteps (B,) the samples have that come next; None: they don't say."""
        self.moment.timesteps = timesteps

    def set_strength(self, strength: float) -> None:
        """From now on so much of each change is applied: 0 is the base alone, 1 as trained."""
        for _, adapter in self:
            adapter.strength, adapter.active = strength, strength != 0

    @contextmanager
    def enabled(self, active: bool) -> Iterator[None]:
        """Within it the adapters act, or the frozen base runs alone."""
        before = {name: adapter.active for name, adapter in self}
        for _, adapter in self:
            adapter.active = active
        try:
            yield
        finally:
            for name, adapter in self:
                adapter.active = before[name]

    @torch.no_grad()
    def limit_norms(self) -> Norms | None:
        """Applies the upper bounds on norms, after an optimizer step; None where there is none."""
        limits = {adapter: adapter.method.norm_limit(adapter.layer) for _, adapter in self}
        if not any(limits.values()):
            return None
        limited = torch.stack([adapter.limit_norm(limit) for adapter, limit in limits.items() if limit]).sum()
        norms = torch.stack([adapter.norm() for _, adapter in self])
        return Norms(norms.mean(), norms.max(), limited)

    def remove(self) -> None:
        """Restores every base layer's own forward."""
        for _, adapter in self:
            adapter.detach_from_layer()


def inject(family: Family, method: Method, targets: Targets, seed: int = 0) -> AdapterSet:
    """Puts adapters on a model's modules, as new ones or as `method.weights` has them.

    Every adapter's start is drawn from a generator of its own, so it doesn't depend on which others there are.
    Modules of a kind that is not targeted are adapted, too, where the file has them (convolutions).
    """
    parts = family.parts()
    table = {part: family.targets(part) for part in parts}
    weights = file.load(method.weights, table) if method.weights else None
    groups = weights.groups if weights else {}
    adapters, sites = {}, {}
    for site in targets.choose(table, family.block_count, method.conv_rank is not None, groups):
        layer = parts[site.part].get_submodule(site.target.path)
        assert isinstance(layer, Layer), f"{site.path} cannot be adapted"
        if adapter := _adapter(layer, site, method, seed):
            adapters[site.name], sites[site.name] = adapter, site
    adapter_set = AdapterSet(adapters, sites, targets)
    if weights and method.weights:
        adapter_set.notes += weights.notes
        adapter_set.load(groups, Path(method.weights).name)
    return adapter_set


def _adapter(layer: Layer, site: Site, method: Method, seed: int) -> Adapter | None:
    """An adapter for a layer; None where its rank is 0."""
    rank, alpha = _size(site, method, is_spatial(layer))
    if rank == 0:
        return None
    method = method.at(site.target, alpha)
    tensors = method.create(layer, rank, generator(seed, "adapter", site.name))
    return Adapter(layer, method, tensors, method.effective_alpha(alpha, rank))


def _size(site: Site, method: Method, spatial: bool) -> tuple[int, float]:
    """Rank and alpha at a site: its own, else the adapter's; of k×k convolutions, theirs, else those of the others."""
    rank = _first(site.rank, method.rank)
    alpha = _first(site.alpha, method.alpha, rank)
    if not spatial:
        return rank, alpha
    conv_rank = _first(site.conv_rank, method.conv_rank, rank)
    scale = alpha / rank if rank else 1.0
    return conv_rank, _first(site.conv_alpha, method.conv_alpha, conv_rank * scale)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _size_in_words(adapter: Any) -> str:
    """Rank and alpha; of a LoKr without a rank, what it has in their place."""
    rank = adapter.method.rank_of(adapter.tensors)
    shapes = ", ".join(f"{name} {'×'.join(map(str, tensor.shape))}" for name, tensor in adapter.tensors.items())
    return f"rank {rank}, alpha {float(adapter.alpha):g}" if rank else shapes


def check_start(groups: Mapping[str, Group], wanted: type[Method]) -> None:
    """Raises a UserError where training cannot start from these adapters as those of a kind."""
    for name, group in groups.items():
        if not wanted.recognises(group.tensors):
            found = f"contains {group.kind.__name__} adapters ({name}), but this run trains {wanted.__name__}"
            path = group.kind.import_path()
            ours = path.startswith("loralab.")
            remedy = f"set adapter={group.kind.__name__.lower()}" if ours else f"set adapter._target_={path}"
            if not group.kind.can_be_trained:
                found = f"{name} is a {group.kind.__name__}, which can be merged but not trained"
                remedy = "merge it into a base model with loralab merge"
            raise user_error("adapter.weights", found, remedy)
    if weak := [name for name, group in groups.items() if group.scale == 0]:
        found = f"alpha is 0 in {len(weak)} of {len(groups)} modules, which cannot learn: {some(weak)}"
        raise user_error("adapter.weights", found, "remove adapter.weights to train from scratch")
    if dead := [name for name, group in groups.items() if group.is_dead]:
        found = f"{len(dead)} of {len(groups)} modules are all zero and cannot learn: {some(dead)}"
        raise user_error("adapter.weights", found, "remove adapter.weights to train from scratch")


def check_shape(name: str, group: Group, layer: Layer, setting: str = "adapter.weights") -> None:
    """Raises a UserError that names `setting` where an adapter changes a weight of another shape than the layer's."""
    shape, expected = group.shape, weight_shape(layer)
    if not fits(shape, expected):
        found = f"{name} changes a weight of shape {tuple(shape)}, but the model's has {tuple(expected)}"
        raise user_error(setting, found, f"use the base model that the file was made for ({named()})")
