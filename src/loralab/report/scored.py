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
from loralab.files import printable
from loralab.report.pictures import Picture, pictures
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


def references_of(settings: Mapping[str, Any]) -> list[Path]:
    """Those of an earlier run, by its settings with dotted keys. Raises a UserError where they are gone."""
    tree = OmegaConf.create()
    for key, value in settings.items():
        if key.startswith("data."):
            OmegaConf.update(tree, key, value)
    data: Any = OmegaConf.to_container(tree).get("data")  # type: ignore[union-attr]
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
