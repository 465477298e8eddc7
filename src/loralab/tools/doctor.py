"""`loralab doctor OVERRIDE…`: looks at images as a training with these settings would, without a model or a GPU."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loralab.data import tags
from loralab.data.buckets import Buckets
from loralab.data.draws import BatchSize, Draws, Entry
from loralab.data.geometry import Size, crop_corner
from loralab.data.index import Folder, Index, OnError, scan
from loralab.data.plan import Fitting, fixed_caption, fixed_rules
from loralab.data.sampler import BucketSampler
from loralab.data.store import cache_folder
from loralab.data.validation import Validation, held_out
from loralab.errors import UserError, user_error
from loralab.tools import tokens
from loralab.tools.doctor_report import BucketRow, Finding, Level, Report, Row, Totals, failed
from loralab.tools.looks import look_at, near_duplicates
from loralab.types import Fit, Item

HEAVY_CROP = 0.2
"""Share of an image's area that is cut off, from which on it is told."""
COMMON = 30
"""So many tags are listed."""


@dataclass(frozen=True)
class Data:
    """The settings of a training that decide what it makes of its images."""

    folders: Sequence[Folder]
    sizes: Sequence[Size]
    buckets: Buckets = field(default_factory=Buckets)
    batch: BatchSize = field(default_factory=lambda: BatchSize(1))
    accumulate: int = 1
    """Batches in an optimizer step."""
    validation: Validation = field(default_factory=Validation)
    on_error: OnError = "skip"
    min_size: int | None = None
    max_size: int | None = None
    max_tokens: int = 75
    """model.max_token_length"""
    cache_folder: str | None = None


def examine(data: Data, counter: tokens.Counter, *, decode: bool = True) -> Report:
    """What a training would make of the images, and what is odd about them.

    counter: of tokens. decode: whether images are decoded, which finds damage within and those that look alike. Where
    training would fail the report says why and is `fatal`.
    """
    report = Report()
    try:
        _examine(data, counter, decode, report)
    except UserError as error:
        return failed(error, report)
    return report


def _examine(data: Data, counter: tokens.Counter, decode: bool, report: Report) -> None:
    index = scan(data.folders, data.cache_folder, data.on_error, min_size=data.min_size, max_size=data.max_size)
    if decode:
        index = index.hashed(data.cache_folder, data.on_error)
        index = _decodable(index, data, report)
    count = _Captions(data, counter)
    index, _ = Fitting(data.folders, count.fit).select(index)
    out = [] if data.validation.folder else held_out(index, data.validation.share)
    left = sorted(set(range(len(index))) - set(out))
    draws = Draws(index, data.sizes, data.buckets, data.batch, left)
    sampler = BucketSampler(draws, 0, accumulate=data.accumulate, full_only=data.buckets.partial == "drop")
    report.images = [*(_row(entry, count) for entry in draws.entries()), *map(_skipped_row, index.skipped)]
    report.buckets = list(_buckets(draws, sampler, data))
    report.totals = Totals(len(left), len(draws), len(sampler), len(index.skipped))
    report.tags = tags.occurrences(draws.training_items(), data.folders)
    report.findings += _findings(data, index, report, counter)
    if out:
        report.findings.append(Finding("held_out", "note", f"{len(out)} images are held out for validation"))
    if not draws.training or not len(sampler):
        raise user_error(
            "data.folder", "no batch is left to train on", "see what is left out, and data.buckets.partial"
        )


def _decodable(index: Index, data: Data, report: Report) -> Index:
    """The index less what cannot be decoded; duplicates are told on the way."""
    items = list(index)
    looks = look_at([item.path for item in items], [item.digest for item in items], cache_folder(data.cache_folder))
    damaged = {position: look.problem for position, look in enumerate(looks) if look.problem}
    report.findings += _duplicates(items, near_duplicates(looks))
    if damaged and data.on_error == "stop":
        paths = [items[position].path for position in damaged]
        report.findings.append(Finding("damaged", "error", "images cannot be decoded, and data.on_error=stop", paths))
    return index.without(damaged)


def _duplicates(items: list[Item], groups: list[list[int]]) -> Iterator[Finding]:
    same: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        same[item.digest].append(item.path)
    copies = [paths for paths in same.values() if len(paths) > 1]
    for paths in copies:
        yield Finding("duplicates", "warning", f"{len(paths)} files hold the same image", paths)
    for group in groups:
        if len({items[position].digest for position in group}) > 1:
            paths = [items[position].path for position in group]
            yield Finding("near_duplicates", "warning", f"{len(paths)} images look alike", paths)
    both = {item.digest for item in items if item.is_reg} & {item.digest for item in items if not item.is_reg}
    if both:
        paths = [path for digest in sorted(both) for path in same[digest]]
        yield Finding("duplicates", "warning", f"{len(both)} images are for training and for regularisation", paths)


class _Captions:
    """Captions without anything random, and their tokens."""

    def __init__(self, data: Data, counter: tokens.Counter) -> None:
        self.rules, self.counter, self.most = fixed_rules(data.folders), counter, data.max_tokens
        self._counts: dict[str, int] = {}

    def text(self, item: Item) -> str:
        return fixed_caption(item, self.rules)

    def count(self, text: str) -> int:
        if text not in self._counts:
            self._counts[text] = self.counter.count(text)
        return self._counts[text]

    def fit(self, text: str) -> Fit:
        count = self.count(text)
        return Fit(max(1, -(-min(count, self.most) // 75)), max(0, count - self.most))


def _row(entry: Entry, captions: _Captions) -> Row:
    item, bucket, resized = entry
    top, left = crop_corner(resized, bucket)
    text = captions.text(item)
    size = (item.width, item.height)
    return Row(item.path, *size, bucket, resized, (left, top), item.repeats, text, captions.count(text), None)


def _skipped_row(skipped: tuple[str, str]) -> Row:
    return Row(skipped[0], None, None, None, None, None, 0, "", 0, skipped[1])


def _buckets(draws: Draws, sampler: BucketSampler, data: Data) -> Iterator[BucketRow]:
    images = Counter(entry.bucket for entry in draws.entries())
    samples: Counter[Size] = Counter()
    batches: Counter[Size] = Counter()
    for group, count in zip(draws.groups, sampler.counts.tolist(), strict=True):
        size = draws.batch(group.bucket)
        samples[group.bucket] += count
        batches[group.bucket] += count // size if data.buckets.partial == "drop" else -(-count // size)
    for bucket in sorted(images):
        yield BucketRow(bucket, images[bucket], samples[bucket], batches[bucket])


def _findings(data: Data, index: Index, report: Report, counter: tokens.Counter) -> Iterator[Finding]:
    """What is worth saying about an index and the rows made of it."""
    used = [row for row in report.images if row.bucket is not None]
    everything = range(len(index))
    yield from _skipped(index)
    yield from _about(
        "upscaled", "warning", "are enlarged to fill their bucket", (r.path for r in used if _scale(r) > 1)
    )
    cropped = (row.path for row in used if _cut(row) > HEAVY_CROP)
    yield from _about("cropped", "warning", f"lose more than {HEAVY_CROP:.0%} of their area to the crop", cropped)
    cut = (row.path for row in used if row.tokens > data.max_tokens)
    yield from _about("cut_captions", "warning", f"have captions of over {data.max_tokens} tokens, which are cut", cut)
    silent = (index[i].path for i in everything if index.origin(i) == "none")
    yield from _about("no_caption", "warning", "have no caption", silent)
    empty = (index[i].path for i in everything if index.origin(i) == "file" and not index[i].caption)
    yield from _about("empty_caption", "note", "have an empty caption file", empty)
    turned = (index[i].path for i in everything if index.turned(i))
    yield from _about("turned", "note", "are turned or mirrored by their EXIF orientation", turned)
    yield from _odd_kinds(index)
    yield from _triggers(data, index)
    yield from _misplaced(data)
    yield from (Finding("index", "note", note) for note in index.notes)
    yield Finding("tags", "note", _most_common(report.tags))
    yield Finding("tokens", "note", _lengths(used, counter))
    batches = report.totals.batches_per_epoch
    steps = -(-batches // data.accumulate)
    yield Finding("epoch", "note", f"{report.totals.repeated} samples, {batches} batches and {steps} steps an epoch")


def _about(kind: str, level: Level, words: str, paths: Iterable[str]) -> Iterator[Finding]:
    """One finding about images, where there are any."""
    found = list(dict.fromkeys(paths))
    if found:
        yield Finding(kind, level, f"{len(found)} images {words}", found)


def _skipped(index: Index) -> Iterator[Finding]:
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for path, reason in index.skipped:
        by_reason[reason].append(path)
    for reason, paths in by_reason.items():
        yield Finding("skipped", "warning", f"{len(paths)} left out: {reason}", paths)


def _odd_kinds(index: Index) -> Iterator[Finding]:
    """Images that are converted before they can be used."""
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for position in range(len(index)):
        by_kind[index.kind(position)].append(index[position].path)
    for kind, paths in sorted(by_kind.items()):
        mode = kind.split()[-1]
        if words := _ODD.get(mode, "16 or more bits" if mode.startswith(("I", "F")) else None):
            yield Finding("converted", "note", f"{len(paths)} images are {kind} ({words})", paths)


def _triggers(data: Data, index: Index) -> Iterator[Finding]:
    """How many captions hold the trigger word, as they are written."""
    for source, folder in enumerate(data.folders):
        trigger = folder.captions.trigger
        if trigger:
            own = [item for item in index if item.source == source]
            without = [item.path for item in own if trigger not in item.caption]
            words = f"the trigger word '{trigger}' is written in {len(own) - len(without)} of {len(own)} captions"
            yield Finding("trigger", "note", words + (", and put before the others" if without else ""), without)


def _misplaced(data: Data) -> Iterator[Finding]:
    """The folder of one subject given in the place of the folder that holds it."""
    for folder in data.folders:
        name = Path(folder.path).name
        if re.fullmatch(r"\d+_.+", name) and folder.repeats == 1:
            words = f"{folder.path} is itself called N_name, which only counts for its sub-folders"
            yield Finding("misplaced", "warning", f"{words}: did you mean {Path(folder.path).parent}?")


def _most_common(counts: Counter[str]) -> str:
    listed = ", ".join(f"{tag} ×{count}" for tag, count in counts.most_common(COMMON))
    return f"{len(counts)} different tags: {listed}" if counts else "no tags"


def _lengths(rows: Sequence[Row], counter: tokens.Counter) -> str:
    counts = sorted(row.tokens for row in rows)
    words = f"captions have {counts[0]} to {counts[-1]} tokens, half of them {counts[len(counts) // 2]} or less"
    return words + ("" if counter.source else "; estimated, for want of the model's vocabulary")


def _scale(row: Row) -> float:
    """How much an image is enlarged."""
    assert row.resized is not None
    assert row.width is not None
    return row.resized[0] / row.width


def _cut(row: Row) -> float:
    """The share of the area that the crop takes away."""
    assert row.resized is not None
    assert row.bucket is not None
    return 1 - row.bucket[0] * row.bucket[1] / (row.resized[0] * row.resized[1])


_ODD = {
    "CMYK": "for print",
    "P": "palette",
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "RGBA": "with an alpha channel",
    "PA": "palette with transparency",
}
