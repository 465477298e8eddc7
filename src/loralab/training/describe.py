"""Gathers what an adapter file says of its making from the objects of a run."""

from __future__ import annotations

import random
import time
from functools import cached_property
from typing import Any

from loralab.adapters.base import is_spatial
from loralab.adapters.inject import AdapterSet
from loralab.data.module import DataModule
from loralab.data.tags import folder_name
from loralab.models.family import Family
from loralab.training.metadata import Data, Dates, Model, Progress, base_facts, metadata


class Describe:
    """describe(epoch, step) is the metadata of a file saved after so many epochs and optimizer steps."""

    def __init__(self, settings: dict[str, Any], family: Family, adapters: AdapterSet, data: DataModule) -> None:
        self.settings, self.family, self.adapters, self.data = settings, family, adapters, data
        self.started, self.session = time.time(), random.SystemRandom().getrandbits(32)

    def __call__(self, epoch: int, step: int) -> dict[str, str]:
        length = self.settings["trainer"]
        progress = Progress(epoch, step, length["max_epochs"], length["max_steps"])
        dated = self.settings["output"]["dates"]
        dates = Dates(self.started, time.time(), self.session) if dated else None
        return metadata(self.settings, self._model, self._data, progress, self._base, dates)

    @cached_property
    def _base(self) -> dict[str, str]:
        return base_facts(self.family.base, self.settings["model"].get("vae"))

    @cached_property
    def _model(self) -> Model:
        adapters = [adapter for _, adapter in self.adapters]
        first = next((adapter for adapter in adapters if not is_spatial(adapter.layer)), adapters[0])
        family, rank = self.family, first.method.rank_of(first.tensors)
        alpha = float(first.alpha) / first.method.effective_alpha(1.0, rank or 1)  # as it was set
        return Model(family.name, family.prediction_type, family.zero_terminal_snr, alpha, rank)

    @cached_property
    def _data(self) -> Data:
        facts = self.data.summary()
        folders: tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]] = ({}, {})
        for item in self.data.plan.index:
            name, of_kind = folder_name(item), folders[item.is_reg]
            of_kind[name] = (item.repeats, of_kind.get(name, (0, 0))[1] + 1)
        return Data(
            images=facts["training_draws"],
            reg_images=facts["draws"] - facts["training_draws"],
            held_out=facts["held_out"],
            batches=facts["batches"],
            folders=folders[False],
            reg_folders=folders[True],
            tags=self.data.tag_frequency(),
            buckets=[((row["size"][0], row["size"][1]), row["draws"]) for row in facts["buckets"]],
        )
