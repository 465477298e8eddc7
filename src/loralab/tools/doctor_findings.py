"""The doctor's findings about the images of a training."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import shorten

from loralab.data.captions import mentioned
from loralab.data.folders import Folder
from loralab.data.index.index import Index
from loralab.data.index.walk import Skipped
from loralab.tools.doctor_report import Finding, Level, Row
from loralab.types import Item

HEAVY_CROP = 0.2
"""Share of an image's area: more than this cropped away is a finding."""
COMMON = 30
"""Number of tags that are listed."""

_ODD = {
    "CMYK": "for print",
    "P": "palette",
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "PA": "palette with transparency",
    "RGBA": "with an alpha channel",
    "P+A": "palette with a transparent colour",
    "L+A": "grey with a transparent colour",
    "RGB+A": "with a transparent colour",
}
"""Modes that are converted to RGB."""


def of_rows(rows: Sequence[Row], cut: Sequence[str], max_tokens: int) -> Iterator[Finding]:
    """About images as they are trained on; cut: those whose captions are truncated."""
    enlarged = {row.path: _scale(row) for row in rows if _scale(row) > 1}
    most = max(enlarged.values(), default=1.0)
    yield from _about("upscaled", "warning", f"upscaled to fill the bucket, by a factor of up to {most:.1f}", enlarged)
    cropped = (row.path for row in rows if _cut(row) > HEAVY_CROP)
    yield from _about("cropped", "warning", f"more than {HEAVY_CROP:.0%} of the image cropped away", cropped)
    yield from _about("cut_captions", "warning", f"caption longer than {max_tokens} tokens, truncated", cut)
    counts = sorted(row.tokens for row in rows)
    words = f"captions have {counts[0]} to {counts[-1]} tokens, median {counts[len(counts) // 2]}"
    yield Finding("tokens", "note", words)


def of_index(index: Index, skipped: Sequence[Skipped]) -> Iterator[Finding]:
    """About files: those skipped, those without captions, those that are not plain RGB."""
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in skipped:
        reasons[reason].append(path)
    for reason, paths in reasons.items():
        yield from _about("skipped", "warning", f"skipped: {reason.removeprefix('is ')}", paths)
    silent = _where(index, lambda i: index.origin(i) == "none")
    yield from _about("no_caption", "warning", "no caption", silent)
    empty = _where(index, lambda i: index.origin(i) == "file" and not index[i].caption)
    yield from _about("empty_caption", "note", "empty caption file", empty)
    yield from _about("turned", "note", "rotated or mirrored by the EXIF orientation", _where(index, index.turned))
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for position in range(len(index)):
        kinds[index.kind(position)].append(index[position].path)
    for kind, paths in sorted(kinds.items()):
        mode = kind.split()[-1]
        if words := "16 bits or more" if mode.startswith(("I", "F")) else _ODD.get(mode):
            yield from _about("converted", "note", f"converted to RGB: {kind} ({words})", paths)
    yield from (Finding("index", "note", note) for note in index.notes)


def of_folders(folders: Sequence[Folder], index: Index) -> Iterator[Finding]:
    """About trigger words and misplaced folders."""
    for source, folder in enumerate(folders):
        if trigger := folder.captions.trigger:
            own = [item for item in index if item.source == source]
            without = [item.path for item in own if not mentioned(trigger, [item.caption])]
            words = f"the trigger word '{trigger}' is in {len(own) - len(without)} of {len(own)} captions"
            yield Finding("trigger", "note", words + " and is prepended to the others" * bool(without), without)
        path = Path(folder.path).expanduser().absolute()
        if re.fullmatch(r"\d+_.+", path.name) and folder.repeats == 1:
            words = f"{path} has a name like N_name, which sets repeats only for sub-folders"
            yield Finding("misplaced", "warning", f"{words}: did you mean {path.parent}?")


def of_tags(counts: Counter[str]) -> Iterator[Finding]:
    """About the most frequent tags."""
    if counts:
        listed = ", ".join(f"{shorten(tag, 60, placeholder='…')} ×{count}" for tag, count in counts.most_common(COMMON))
        yield Finding("tags", "note", f"{len(counts)} different tags: {listed}")


def of_duplicates(items: Sequence[Item], alike: Sequence[Sequence[int]]) -> Iterator[Finding]:
    """About identical files and images that look alike; alike: groups of positions in items."""
    same: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        same[item.digest].append(item)
    for copies in same.values():
        if len(copies) > 1:
            words = f"{len(copies)} files contain the same image"
            words += ", both for training and for regularisation" * (len({item.is_reg for item in copies}) > 1)
            yield Finding("duplicates", "warning", words, [item.path for item in copies])
    for group in alike:
        if len({items[position].digest for position in group}) > 1:
            paths = [items[position].path for position in group]
            yield Finding("near_duplicates", "warning", f"{len(paths)} images look alike", paths)


def _about(kind: str, level: Level, words: str, paths: Iterable[str]) -> Iterator[Finding]:
    """One finding about images, if there are any."""
    if found := list(dict.fromkeys(paths)):
        number = f" ({len(found)} images)" if len(found) > 1 else ""
        yield Finding(kind, level, words + number, found)


def _where(index: Index, holds: Callable[[int], bool]) -> Iterator[str]:
    return (index[position].path for position in range(len(index)) if holds(position))


def _scale(row: Row) -> float:
    """The factor by which an image is upscaled."""
    assert row.resized is not None
    assert row.width is not None
    return row.resized[0] / row.width


def _cut(row: Row) -> float:
    """The share of the area that is cropped away."""
    assert row.resized is not None
    assert row.bucket is not None
    return 1 - row.bucket[0] * row.bucket[1] / (row.resized[0] * row.resized[1])
