"""The settings of a training as its adapter file holds them: enough to repeat the run on other images."""

from __future__ import annotations

from typing import Any

from loralab.settings.save import leaves, several
from loralab.settings.section import below

LEFT_OUT = (
    *("allow", "logger", "resume", "resume_root", "resume_force", "experiment", "debug", "sweep"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.profiler"),
    "trainer.max_time",
    *("model.base", "model.vae", "model.tokenizer", "adapter.weights", "output.folder"),
    *("data.folder", "data.folders", "data.reg_folder", "data.mask_folder", "data.metadata", "data.validation.folder"),
    *("data.cache", "data.cache_folder", "data.num_workers", "data.persistent_workers"),
    *("suggested.pictures", "suggested.prompts", "suggested.guidance", "trainer.log_every_n_steps"),
    *(f"callbacks.{name}" for name in ("state", "progress", "monitor", "hparams", "interrupt", "samples", "export")),
    "callbacks.tag_occurrence",
)
"""Paths, the machine, what is watched: they say nothing about the adapter, and equal trainings give equal files."""


def recipe(tree: dict[str, Any], choices: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`choices` made in the groups and `values` of the settings, of a composed configuration (plain values)."""
    chosen = several(tree) | choices
    return {
        "choices": {group: option for group, option in chosen.items() if option is not None and not _left_out(group)},
        "values": {key: value for key, value in leaves(tree) if not _left_out(key)},
    }


def _left_out(name: str) -> bool:
    return any(below(name.replace("/", "."), other) for other in LEFT_OUT)
