"""The plan of a run that has to fit into `memory.limit_gb`: what is chosen, what it costs, what it then takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from loralab.errors import UserError, user_error
from loralab.memory.estimate import Estimate, blocks, estimate
from loralab.memory.limit import SETTING, device_of, limit_gb
from loralab.memory.options import Choice, Option, options
from loralab.memory.planner import choose, first

Tree = dict[str, Any]
STEP = 64
"""Pixels by which a lower resolution is looked for."""


@dataclass(frozen=True)
class Plan:
    """For a run, or for all runs of a sweep."""

    limit_gb: float
    device: str
    choices: tuple[Choice, ...]

    @property
    def overrides(self) -> list[str]:
        return [override for choice in self.choices for override in choice.overrides()]

    def estimate(self, settings: Mapping[str, Any]) -> Estimate:
        """Of a run with these settings, which have the choices in them."""
        return estimate(settings, self.device)

    def told(self, settings: Mapping[str, Any]) -> str:
        """The limit, the estimate by what takes it, and each choice with its cost."""
        found = self.estimate(settings)
        parts = ", ".join(f"{name} {_gb(size)}" for name, size in found.parts.items() if size >= 0.005)
        lines = [f"memory    {_gb(found.gb)} GB estimated of {self.limit_gb:g} GB · in {found.when}: {parts}"]
        lines += [f"memory    {' '.join(choice.overrides())} · {choice.costs}" for choice in self.choices]
        return "\n".join(lines if self.choices else [*lines, "memory    nothing had to be changed"])

    def facts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json keeps."""
        found = self.estimate(settings)
        chosen = [{"settings": choice.settings, "costs": choice.costs} for choice in self.choices]
        about = {"limit_gb": self.limit_gb, "device": self.device, "choices": chosen}
        return {**about, "estimated_gb": round(found.gb, 3), "peak_in": found.when, "parts_gb": found.parts}


def compared(facts: Mapping[str, Any], measured_gb: float) -> str:
    """The measured peak of a run beside the estimated one, in a line."""
    estimated = facts["estimated_gb"]
    off = f"{estimated / measured_gb - 1:+.0%}" if measured_gb else "not measured"
    return f"memory    {_gb(measured_gb)} GB at the peak · {_gb(estimated)} GB estimated ({off})"


def plan(trees: Sequence[Tree], is_explicit: Callable[[str], bool]) -> Plan:
    """For a run with these settings, or for runs that get the same choices, as they are to be compared.

    Raises a UserError where one of them cannot fit, with the smallest changes that would do.
    """
    tree = trees[0]
    device = device_of(tree["trainer"]["accelerator"])
    limit = limit_gb(tree["memory"]["limit_gb"], device)
    limit_bytes = int(limit * 2**30)

    def size(changes: Mapping[str, Any]) -> int:
        return max(estimate(changed(tree, changes), device).bytes for tree in trees)

    count = blocks(tree, device)
    choices, needed = choose(options(tree, device, count, is_explicit), size, limit_bytes)
    if needed > limit_bytes:
        together = {key: value for choice in choices for key, value in choice.settings.items()}
        forbidden = options(tree, device, count, lambda key: not is_explicit(key))
        largest = max((changed(tree, together) for tree in trees), key=lambda tree: estimate(tree, device).bytes)
        remedies = list(_remedies(largest, together, forbidden, size, limit_bytes))
        raise _refusal(limit, estimate(largest, device), together, remedies)
    return Plan(limit, device, tuple(choices))


def changed(tree: Tree, changes: Mapping[str, Any]) -> Tree:
    """The settings with some of them changed, by key."""
    found = deepcopy(tree)
    for key, value in changes.items():
        *parents, name = key.split(".")
        node = found
        for parent in parents:
            node = node[parent]
        node[name] = value
    return found


def _remedies(
    tree: Tree, together: Mapping[str, Any], forbidden: Sequence[Option], size: Callable[..., int], limit: int
) -> Iterator[str]:
    """Single changes with which a run with all choices fits: as little of each as is enough."""
    resolution, rank = tree["data"]["resolution"], tree["adapter"]["rank"]
    candidates = [[choice.settings for choice in option.choices] for option in forbidden]
    if isinstance(resolution, int):
        candidates.append([{"data.resolution": side} for side in range(resolution - STEP, STEP - 1, -STEP)])
    candidates.append([{"adapter.rank": rank >> halvings} for halvings in range(1, rank.bit_length())])
    if (tree["callbacks"].get("samples") or {}).get("enabled"):
        candidates.append([{"callbacks.samples.enabled": False}])
    if tree["targets"].get("text_encoder"):
        candidates.append([{"targets.text_encoder": False}])

    def fits(changes: Mapping[str, Any]) -> bool:
        return size({**together, **changes}) <= limit

    for each in candidates:
        if each and fits(each[-1]):
            yield " ".join(Choice(first(each, fits), "").overrides())


def _refusal(limit: float, found: Estimate, changes: dict[str, Any], remedies: Sequence[str]) -> UserError:
    parts = ", ".join(f"{name} {_gb(part)}" for name, part in found.parts.items() if part >= 0.005)
    also = "".join(f" {override}" for override in Choice(changes, "").overrides())
    words = f"{limit:g} GB, but the run needs {_gb(found.gb)} GB in {found.when} ({parts})"
    words += f", with{also}" if also else ""
    enough = f"{SETTING}={_up(found.gb)}"
    return user_error(SETTING, words, f"set one of: {', '.join([*remedies, enough])}")


def _up(gb: float) -> float:
    """Rounded up to a tenth."""
    return -int(-10 * gb // 1) / 10


def _gb(size: float) -> str:
    return f"{size:.2f}"
