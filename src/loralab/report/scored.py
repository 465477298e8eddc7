"""The scores of the pictures that a run has drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from loralab.data.epoch.planner import Planner
from loralab.data.validation import sample
from loralab.errors import UserError
from loralab.files import printable
from loralab.report.curves import Curve
from loralab.report.pictures import Picture, pictures
from loralab.report.run import Run
from loralab.types import Fit, Item

if TYPE_CHECKING:
    from loralab.scorers.embeddings import Embeddings

REFERENCES = 64
"""Pictures are compared with at most so many training images, chosen by their names."""
_SEED = re.compile(r" Seed: -?\d+,(?=[^\n]*\Z)")

Scored = dict[int, dict[str, float]]
"""Training step → score → value."""


def references(items: Iterable[Item]) -> list[Path]:
    """The training images that pictures are compared with."""
    found = [*items]
    return [Path(found[i].path) for i in sample(found, range(len(found)), REFERENCES)]


class Judge:
    """Scores the pictures of finished or unfinished runs by one scorer. What it has embedded before, it knows."""

    def __init__(self, scorer: str) -> None:
        self.scorer = scorer
        self._embeddings: dict[str | None, Embeddings] = {}
        self._references: dict[str, list[Path]] = {}

    def __call__(self, run: Run) -> tuple[dict[str, Curve], list[str]]:
        """The curve of each score; and what could not be scored, in words."""
        if not pictures(run.folder)[0]:
            return {}, ["has no pictures to score"]
        data = data_of(run.settings)
        training_images, missing = self._training_images(data)
        found, unread = scored(run.folder, training_images, self._with(data.get("cache_folder")))
        names = dict.fromkeys(name for scores in found.values() for name in scores)
        return {n: {step: s[n] for step, s in found.items() if n in s} for n in names}, [*missing, *unread]

    def _training_images(self, data: dict[str, Any]) -> tuple[list[Path], list[str]]:
        """Those of the same data settings are looked for once."""
        key = repr(data)
        try:
            if key not in self._references:
                self._references[key] = references_of(data)
        except (UserError, KeyError, TypeError) as error:
            why = error.problems[0].found if isinstance(error, UserError) else "its settings are incomplete"
            return [], [f"not compared with its training images: {why}"]
        return self._references[key], []

    def _with(self, cache_folder: str | None) -> Embeddings:
        from torch import cuda, device

        from loralab.scorers.embeddings import Embeddings

        if cache_folder not in self._embeddings:
            place = device("cuda" if cuda.is_available() else "cpu")
            self._embeddings[cache_folder] = Embeddings(self.scorer, cache_folder, place)
        return self._embeddings[cache_folder]


def data_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The node `data` of settings with dotted keys."""
    tree = OmegaConf.create()
    for key, value in settings.items():
        if key.startswith("data."):
            OmegaConf.update(tree, key, value)
    return OmegaConf.to_container(tree).get("data", {})  # type: ignore[union-attr, return-value]


def references_of(data: Mapping[str, Any]) -> list[Path]:
    """The training images of an earlier run, by its node `data`. Raises a UserError where they are gone."""
    planner = Planner.of_settings(data)
    return references(planner.plan(planner.scan(), lambda text: Fit(1, 0)).draws.training_items())


def scored(run: Path, training_images: Sequence[Path], embeddings: Embeddings) -> tuple[Scored, list[str]]:
    """The scores of each training step with pictures; and what could not be read, in words."""
    import torch

    from loralab.scorers.scores import scores

    drawn, unread = pictures(run)
    files = {picture: run / "samples" / f"{picture.name}.png" for picture in drawn}
    wanted = [*files.values(), *(training_images if drawn else [])]
    known = embeddings.images(wanted)
    unread += [f"{printable(str(file))} cannot be read" for file in wanted if file not in known]
    compared = [known[file] for file in training_images if file in known]
    found: Scored = {}
    for step, group in groupby(drawn, lambda picture: picture.step):
        if readable := [picture for picture in group if files[picture] in known]:
            found[step] = scores(
                torch.stack([known[files[picture]] for picture in readable]),
                embeddings.texts([words(picture) for picture in readable]),
                [_SEED.sub("", picture.prompt) for picture in readable],
                torch.stack(compared) if compared else None,
            )
    return found, unread


def words(picture: Picture) -> str:
    """What was to be drawn, without the settings that follow it."""
    return picture.prompt.partition("\nNegative prompt:")[0]


def in_words(scores: Mapping[str, float]) -> str:
    return " · ".join(f"{name} {value:.4f}" for name, value in scores.items())
