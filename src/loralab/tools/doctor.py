"""`loralab doctor OVERRIDE…`: looks at images as a training with these settings would, without a model or a GPU."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from loralab.config.command_line import checked, prepare
from loralab.config.compose import values
from loralab.data import tags
from loralab.data.augment import Augment
from loralab.data.buckets import Buckets, resolutions
from loralab.data.captions import Captions
from loralab.data.draws import BatchSize, Draws, Entry
from loralab.data.folders import gather
from loralab.data.geometry import Size, crop_corner
from loralab.data.index import Index
from loralab.data.plan import CHUNK, fixed_caption, fixed_rules
from loralab.data.planner import Planner
from loralab.data.sampler import BucketSampler
from loralab.data.store import cache_folder
from loralab.data.validation import Validation
from loralab.errors import UserError
from loralab.files import atomic_path
from loralab.tools import doctor_findings as find
from loralab.tools import tokens
from loralab.tools.doctor_html import to_html
from loralab.tools.doctor_report import BucketRow, Finding, Report, Row, Totals
from loralab.tools.doctor_text import print_report
from loralab.tools.looks import look_at, near_duplicates
from loralab.types import Fit, Item


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: data.folder=PATH …")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures and histograms")
    parser.add_argument("--quick", action="store_true", help="decode nothing: duplicates and inner damage stay unseen")


def main(args: argparse.Namespace) -> int:
    """Exit code 1 where training would fail."""
    overrides, warnings, _ = prepare(own_images(args.overrides))
    settings = values(checked(overrides)[0])
    model, trainer = settings["model"], settings["trainer"]
    planner = planner_of(settings["data"])
    report = examine(
        planner,
        tokens.token_counter(model.get("tokenizer"), model.get("base")),
        max_tokens=model.get("max_token_length") or CHUNK,
        accumulate=trainer.get("accumulate_grad_batches") or 1,
        decode=not args.quick,
    )
    report.findings += [Finding("settings", "note", warning) for warning in warnings]
    if args.html:
        title = f"loralab doctor: {', '.join(folder.path for folder in planner.folders)}"
        with atomic_path(args.html) as beside:
            beside.write_text(to_html(report, title), encoding="utf8")
    if args.json:
        print(report.to_json())
    else:
        print_report(report)
    return 1 if report.fatal else 0


def own_images(overrides: list[str]) -> list[str]:
    """`data.folder=PATH` alone will do: nothing but images is looked at."""
    given = {override.split("=")[0].lstrip("+") for override in overrides}
    return ["data=folder", *overrides] if "data" not in given and given & {"data.folder", "data.folders"} else overrides


def planner_of(data: dict[str, Any]) -> Planner:
    """The planner that training would use under these settings of the data."""
    made = {"captions": Captions, "augment": Augment, "buckets": Buckets, "validation": Validation}
    rules = {name: kind(**{k: v for k, v in data[name].items() if k != "_target_"}) for name, kind in made.items()}
    folders = gather(
        data["folder"],
        data["folders"] or [],
        data["reg_folder"],
        rules["captions"],
        rules["augment"],
        data["mask_folder"],
        data["metadata"],
    )
    return Planner(
        folders,
        resolutions(data["resolution"]),
        BatchSize(data["batch_size"], data["batch_pixels"]),
        rules["buckets"],
        rules["captions"],
        rules["validation"],
        **{name: data[name] for name in ("on_error", "min_image_size", "max_image_size", "cache_folder")},
    )


def examine(
    planner: Planner, counter: tokens.Counter, *, max_tokens: int = CHUNK, accumulate: int = 1, decode: bool = True
) -> Report:
    """What a training would make of the images, and what is odd about them.

    counter: of tokens. max_tokens: of a caption, longer ones are cut. accumulate: batches in an optimizer step.
    decode: whether images are decoded, which finds damage within and those that look alike. Where training would
    fail the report says why and is `fatal`.
    """
    report = Report()
    captions = _Captions(planner, counter, max_tokens)
    try:
        index = replace(planner, hashed=decode).scan()
        index = _decodable(index, planner, report) if decode else index
        report.images = [_skipped_row(*skipped) for skipped in index.skipped]
        plan = planner.plan(index, captions.fit)
        rows = [_row(entry, captions) for entry in plan.draws.entries()]
        report.images = [*rows, *(_skipped_row(*skipped) for skipped in plan.skipped)]
        report.findings += find.of_index(plan.index, plan.skipped)
        report.findings += find.of_rows(rows, max_tokens, estimated=counter.source is None)
        report.findings += find.of_folders(planner.folders, plan.index)
        report.tags = tags.occurrences(plan.draws.training_items(), planner.folders)
        report.findings += find.of_tags(report.tags)
        sampler = planner.sampler(plan, 0, accumulate=accumulate)
        report.findings += [Finding("plan", "note", note) for note in plan.notes(sampler)]
        if plan.held_out:
            report.findings.append(Finding("plan", "note", f"images held out for validation: {plan.held_out}"))
        report.buckets = list(_buckets(plan.draws, sampler, planner.buckets.partial == "drop"))
        batches, used = len(sampler), len({row.path for row in rows})
        report.totals = Totals(used, len(plan.draws), batches, len(plan.skipped))
        words = f"{len(plan.draws)} samples, {batches} batches and {-(-batches // accumulate)} optimizer steps an epoch"
        report.findings.append(Finding("epoch", "note", words))
    except UserError as error:
        report.findings += [Finding("fatal", "error", str(problem)) for problem in error.problems]
    return report


def _decodable(index: Index, planner: Planner, report: Report) -> Index:
    """The index less what cannot be decoded; duplicates are told on the way."""
    items = list(index)
    where = cache_folder(planner.cache_folder)
    looks = look_at([item.path for item in items], [item.digest for item in items], where)
    report.findings += find.of_duplicates(items, near_duplicates(looks))
    damaged = {position: look.problem for position, look in enumerate(looks) if look.problem}
    if damaged and planner.on_error == "stop":
        paths = [items[position].path for position in damaged]
        report.findings.append(Finding("damaged", "error", "images cannot be decoded, and data.on_error=stop", paths))
    return index.without(damaged)


class _Captions:
    """Captions without anything random, and their tokens."""

    def __init__(self, planner: Planner, counter: tokens.Counter, most: int) -> None:
        self.rules, self.counter, self.most = fixed_rules(planner.folders), counter, most
        self._counts: dict[str, int] = {}

    def text(self, item: Item) -> str:
        return fixed_caption(item, self.rules)

    def count(self, text: str) -> int:
        if text not in self._counts:
            self._counts[text] = self.counter.count(text)
        return self._counts[text]

    def fit(self, text: str) -> Fit:
        count = self.count(text)
        return Fit(max(1, -(-min(count, self.most) // CHUNK)), max(0, count - self.most))


def _row(entry: Entry, captions: _Captions) -> Row:
    item, bucket, resized = entry
    top, left = crop_corner(resized, bucket)
    text = captions.text(item)
    size = (item.width, item.height)
    return Row(item.path, *size, bucket, resized, (left, top), item.repeats, text, captions.count(text), None)


def _skipped_row(path: str, reason: str) -> Row:
    return Row(path, None, None, None, None, None, 0, "", 0, reason)


def _buckets(draws: Draws, sampler: BucketSampler, full_only: bool) -> Iterator[BucketRow]:
    images = draws.images
    samples: Counter[Size] = Counter()
    batches: Counter[Size] = Counter()
    for group, count in zip(draws.groups, sampler.counts.tolist(), strict=True):
        size = draws.batch(group.bucket)
        samples[group.bucket] += count
        batches[group.bucket] += count // size if full_only else -(-count // size)
    for bucket in sorted(images):
        yield BucketRow(bucket, images[bucket], samples[bucket], batches[bucket])
