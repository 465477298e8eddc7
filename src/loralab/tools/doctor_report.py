"""What the doctor found, as data and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: its kind, level and text, and the images that it is about."""

    kind: str
    level: Level
    text: str
    images: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One image at one of the sizes that it is trained at, or a skipped image."""

    path: str
    width: int | None
    """Pixels, as displayed; None if unknown."""
    height: int | None
    bucket: tuple[int, int] | None
    """(width, height); None for a skipped image."""
    resized: tuple[int, int] | None
    crop: tuple[int, int] | None
    """(left, top) of the bucket in the resized image."""
    repeats: int
    caption: str
    """As in epoch 1, with nothing random in it."""
    tokens: int
    problem: str | None
    """Why it is skipped."""


@dataclass(frozen=True, slots=True)
class BucketRow:
    resolution: tuple[int, int]
    """(width, height)"""
    images: int
    samples: int
    """Samples per epoch, with repeats and regularisation images."""
    batches: int


@dataclass(frozen=True, slots=True)
class Totals:
    images: int
    """Images that are used."""
    repeated: int
    """Samples per epoch."""
    batches_per_epoch: int
    skipped: int


@dataclass(slots=True)
class Report:
    images: list[Row] = field(default_factory=list)
    buckets: list[BucketRow] = field(default_factory=list)
    totals: Totals = field(default_factory=lambda: Totals(0, 0, 0, 0))
    findings: list[Finding] = field(default_factory=list)
    tags: Counter[str] = field(default_factory=Counter)
    """How often each tag occurs, repeats counted."""

    @property
    def fatal(self) -> bool:
        """Whether training would fail."""
        return any(finding.level == "error" for finding in self.findings)

    def to_json(self) -> str:
        """images: as Row; buckets: resolution, images, batches; totals: as Totals; findings: as Finding."""
        whole = asdict(self)
        del whole["tags"]
        for bucket in whole["buckets"]:
            del bucket["samples"]
        return json.dumps(whole, indent=1)  # ASCII: a file name may contain bytes that are not UTF-8
