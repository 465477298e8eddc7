"""Gathers the metadata of an adapter file from the objects of a run."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from loralab.adapters.base import is_spatial
from loralab.adapters.inject import AdapterSet
from loralab.data.module import DataModule
from loralab.data.tags import folder_name
from loralab.models.family import Family
from loralab.training.metadata import RECIPE, Data, Dates, Model, Progress, base_facts, metadata


class Describe:
    """describe(epoch, step) gives the metadata of a file saved after that many epochs and optimizer steps.

    recipe: the settings in this project's own terms, from which a run can be repeated (see settings.recipe).
    """

    def __init__(
        self,
        settings: dict[str, Any],
        recipe: Mapping[str, Any],
        family: Family,
        adapters: AdapterSet,
        data: DataModule,
    ) -> None:
        self.settings, self.recipe = settings, recipe
        self.family, self.adapters, self.data = family, adapters, data
        self.started, self.session = time.time(), random.SystemRandom().getrandbits(32)

    def __call__(self, epoch: int, step: int) -> dict[str, str]:
        dated = self.settings["output"]["dates"]
        dates = Dates(self.started, time.time(), self.session) if dated else None
        told = metadata(self.settings, self._model, self._data, self._progress(epoch, step), self._base, dates)
        return told | {RECIPE: json.dumps(self.recipe, sort_keys=True)}

    def _progress(self, epoch: int, step: int) -> Progress:
        trainer = self.data.trainer
        assert trainer is not None, "files are written only while a trainer is attached"
        batches = trainer.num_training_batches  # type: ignore[attr-defined]
        updates = math.ceil(batches / trainer.accumulate_grad_batches)
        steps = int(trainer.estimated_stepping_batches)  # type: ignore[attr-defined]
        return Progress(epoch, step, math.ceil(steps / updates), steps, trainer.world_size)

    @cached_property
    def _base(self) -> dict[str, str]:
        return base_facts(self.family.base, self.settings["model"].get("vae"))

    @cached_property
    def _model(self) -> Model:
        adapters = [adapter for _, adapter in self.adapters]
        first = next((adapter for adapter in adapters if not is_spatial(adapter.layer)), adapters[0])
        told = first.method.in_file(first.values, first.alpha)
        family, rank = self.family, first.method.rank_of(told)
        alpha = float(told.get("alpha", first.alpha)) / first.method.effective_alpha(1.0, rank or 1)  # as it was set
        return Model(family.name, family.process.prediction, family.process.zero_terminal_snr, alpha, rank)

    @cached_property
    def _data(self) -> Data:
        facts = self.data.summary()
        folders: tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]] = ({}, {})
        reg_images = 0
        for item in self.data.plan.index:
            name, of_kind = folder_name(item), folders[item.is_reg]
            of_kind[name] = (item.repeats, of_kind.get(name, (0, 0))[1] + 1)
            reg_images += item.repeats * item.is_reg
        return Data(
            images=facts["training_draws"],
            reg_images=reg_images,
            held_out=facts["held_out"],
            batches=facts["batches"],
            folders=folders[False],
            reg_folders=folders[True],
            tags=self.data.tag_frequency(),
            buckets=[((row["size"][0], row["size"][1]), row["draws"]) for row in facts["buckets"]],
            aspect_error=self._aspect_error(),
        )

    def _aspect_error(self) -> float:
        errors = [
            abs(bucket[0] / bucket[1] - item.width / item.height) for item, bucket, _ in self.data.plan.draws.entries()
        ]
        return sum(errors) / len(errors)
