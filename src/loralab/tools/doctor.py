"""`loralab doctor PATH…`: checks images as a training with these settings would use them, without a model or a GPU."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from loralab.command.flags import add_places, use_places_of
from loralab.command.prepare import prepare
from loralab.data import tags
from loralab.data.epoch.draws import Draws, Entry
from loralab.data.epoch.plan import fixed_caption, fixed_rules
from loralab.data.epoch.planner import Planner
from loralab.data.epoch.sampler import BucketSampler
from loralab.data.geometry import Size, crop_corner
from loralab.data.sources.mounts import in_shards
from loralab.errors import Problem, UserError
from loralab.files import cache_folder
from loralab.models.registry import USUAL, of_model
from loralab.models.text.tokens import Measure
from loralab.places import check_place
from loralab.schema.settings import written
from loralab.tools import doctor_findings as find
from loralab.tools.doctor_html import to_html
from loralab.tools.doctor_report import BucketRow, Finding, Report, Row, Totals
from loralab.tools.doctor_text import print_report
from loralab.tools.looks import look_at, near_duplicates
from loralab.types import Fit, Item
from loralab.urls import is_url, plain, unusable_url
from loralab.writing import atomic_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "folders of images, and settings as for train.py: model=sdxl data.resolution=768 …"
    parser.add_argument("overrides", nargs="*", metavar="PATH|OVERRIDE", help=words)
    add_places(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write a page with thumbnails and histograms")
    parser.add_argument("--quick", action="store_true", help="decode no images: finds no duplicates or damaged pixels")


def main(args: argparse.Namespace) -> int:
    """Exit code 1 where training would fail."""
    if args.html:
        check_place(args.html, "--html")
    try:
        report, title = _report(args)
    except UserError as error:
        if not args.json:
            raise
        report, title = Report(findings=[_fatal(problem) for problem in error.problems]), "loralab doctor"
    if args.html:
        text = to_html(report, title)
        with atomic_path(args.html, "--html") as beside:
            beside.write_text(text, encoding="utf8")
    if args.json:
        print(report.to_json())
    else:
        print_report(report)
    return 1 if report.fatal else 0


def _report(args: argparse.Namespace) -> tuple[Report, str]:
    """The report on the images and settings given, and its title."""
    use_places_of(args)
    prepared = prepare(with_paths(args.overrides))
    settings = prepared.composed.tree
    model, trainer, data = settings["model"], settings["trainer"], settings["data"]
    planner = Planner.of_settings(data)
    report = examine(
        planner,
        (of_model(model) or USUAL).measure(model),
        accumulate=trainer.get("accumulate_grad_batches") or 1,
        decode=not args.quick,
    )
    sizes = ", ".join(f"{width}×{height}" for width, height in planner.sizes)
    batch = f"at most {data['batch_pixels']} pixels" if data["batch_pixels"] else data["batch_size"]
    words = f"checked for model={prepared.composed.choices['model']}, resolution {sizes}, batches of {batch}"
    report.findings += [Finding("settings", "note", words)]
    report.findings += [Finding("settings", "note", warning) for warning in prepared.warnings]
    return report, f"loralab doctor: {', '.join(folder.path for folder in planner.folders)}"


def _fatal(problem: Problem) -> Finding:
    return Finding("fatal", "error", str(problem))


_OVERRIDE = re.compile(r"\+{0,2}\w[\w./@:-]*=|~\w")
"""The start of an override; anything else is a path."""


def with_paths(words: list[str]) -> list[str]:
    """The overrides, with the paths among them as settings. Raises a UserError for a path that is not a folder."""
    paths = [word for word in words if os.path.isdir(os.path.expanduser(word)) or not _OVERRIDE.match(word)]
    overrides = [word for word in words if word not in paths]
    if problems := [problem for path in paths for problem in _no_folder(plain(path))]:
        raise UserError(*problems)
    if len(paths) == 1:
        overrides.append(f"data.folder={written(paths[0])}")
    elif paths:
        overrides.append(f"data.folders={written([{'path': path} for path in paths])}")
    return overrides


def _no_folder(path: str) -> Iterator[Problem]:
    """Why a path is neither a folder, nor a URL, nor a tar file."""
    place = os.path.expanduser(path)
    if is_url(path):
        if found := unusable_url(path):
            yield Problem("data.folder", *found)
    elif not os.path.isdir(place) and not in_shards(path):
        found = "is a file, not a folder" if os.path.exists(place) else "folder not found"
        yield Problem(path, found, "give a folder of images")


def examine(
    planner: Planner,
    measure: Measure,
    *,
    accumulate: int = 1,
    decode: bool = True,
) -> Report:
    """How a training would use the images, and what is unusual about them.

    measure: counts captions. accumulate: batches per optimizer step.
    decode: decodes the images, which finds damaged pixels and images that look alike. Where training would fail,
    the report says why and is `fatal`.
    """
    report = Report()
    captions = _Captions(planner, measure)
    try:
        hashing = replace(planner, hashed=decode)
        index, apart = hashing.scan(), hashing.scan_apart()
        report.images = [_skipped_row(*skipped) for skipped in index.skipped]
        damaged = _damaged([*index, *(apart or [])], planner, report) if decode else {}
        plan = planner.plan(index, captions.fit, damaged)
        rows = [_row(entry, captions) for entry in plan.draws.entries()]
        report.images = [*rows, *(_skipped_row(*skipped) for skipped in plan.skipped)]
        report.findings += find.of_index(plan.index, plan.skipped)
        report.findings += find.of_rows(rows, captions.cut(rows), measure.most)
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
        words = (
            f"{len(plan.draws)} samples, {batches} batches and {-(-batches // accumulate)} optimizer steps per epoch"
        )
        report.findings.append(Finding("epoch", "note", words))
    except UserError as error:
        report.findings += [_fatal(problem) for problem in error.problems]
        report.totals = replace(report.totals, skipped=sum(row.problem is not None for row in report.images))
    return report


def _damaged(items: list[Item], planner: Planner, report: Report) -> dict[str, str]:
    """Path → why an image cannot be decoded; adds findings about these and about duplicates to the report."""
    looks = look_at([item.path for item in items], [item.digest for item in items], cache_folder(planner.cache_folder))
    report.findings += find.of_duplicates(items, near_duplicates(looks))
    damaged = {item.path: look.problem for item, look in zip(items, looks, strict=True) if look.problem}
    if damaged and planner.on_error == "stop":
        words = "images that cannot be decoded end the run (data.on_error=stop)"
        report.findings.append(Finding("damaged", "error", words, list(damaged)))
    return damaged


class _Captions:
    """Captions with nothing random in them, and their tokens; each is tokenized once."""

    def __init__(self, planner: Planner, measure: Measure) -> None:
        self.rules, self._of = fixed_rules(planner.all_folders), cache(measure.of)

    def text(self, item: Item) -> str:
        return fixed_caption(item, self.rules)

    def count(self, text: str) -> int:
        return self._of(text)[0]

    def fit(self, text: str) -> Fit:
        return self._of(text)[1]

    def cut(self, rows: list[Row]) -> list[str]:
        """The images whose captions are truncated."""
        return [row.path for row in rows if self.fit(row.caption).lost]


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
