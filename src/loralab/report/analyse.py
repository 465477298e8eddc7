"""`loralab analyse RUN`: which images and tags a run learns best and worst, those to be looked at first on top."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from loralab.files import as_json, printable
from loralab.report.analysis import Analysis, ImageRow, Ratio, TagRow, analyse, name_of
from loralab.report.run import read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, also of one that still trains")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="length of each list (10); 0: all images")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def main(args: argparse.Namespace) -> None:
    found = analyse(read(args.run).folder)
    if args.json:
        print(as_json(asdict(found)))
        return
    console = Console()
    for title, table in _tables(found, args.top):
        console.print(Text(title, style="bold"), table, sep="\n", end="\n\n")
    for words in _words(found):
        console.print(Text(printable(words)))


def _tables(found: Analysis, top: int) -> Iterable[tuple[str, Table]]:
    first = [row for row in found.rows if row.reasons]
    others = found.rows[len(first) :]
    count = top or len(others)
    if first:
        yield "Look at these first", _images(first)
    if top and len(others) > 2 * top:
        yield f"The hardest of the other {len(others)} images", _images(others[:count])
        yield "The easiest", _images(others[: -count - 1 : -1])
    else:
        yield "All other images, the hardest first" if first else "All images, the hardest first", _images(others)
    if found.tags:
        tags = found.tags if len(found.tags) <= 2 * count else [*found.tags[:count], *found.tags[-count:]]
        yield "Tags: their images against those without, the hardest first", _tags(tags)


def _images(rows: Iterable[ImageRow]) -> Table:
    numbers = [Column(head, justify="right", no_wrap=True) for head in ("loss ×", "95 %", "change ×", "samples")]
    table = Table(Column("image", overflow="fold", min_width=20), *numbers, Column("caption", overflow="fold"))
    for row in rows:
        figures = (_number(row.loss.value), _interval(row.loss), _number(row.change.value), str(row.samples))
        words = "; ".join([*row.reasons, row.caption.strip()])
        table.add_row(*(Text(printable(cell)) for cell in (name_of(row.path), *figures, words)))
    return table


def _tags(tags: Iterable[TagRow]) -> Table:
    numbers = [Column(head, justify="right", no_wrap=True) for head in ("images", "loss ×", "95 %", "change ×", "95 %")]
    table = Table(Column("tag", overflow="fold"), *numbers)
    for tag in tags:
        figures = [words for ratio in (tag.loss, tag.change) for words in (_number(ratio.value), _interval(ratio))]
        table.add_row(*(Text(printable(cell)) for cell in (tag.tag, str(tag.images), *figures)))
    return table


def _words(found: Analysis) -> Iterable[str]:
    yield (
        f"{found.samples} samples of {len(found.rows)} images, steps {found.steps[0]} to {found.steps[1]}. Losses are "
        "multiples of what is usual in this run at the same timesteps; change is that from the first to the last third "
        f"of the run{'' if found.change is None else f', of the median image {found.change:.2f}'}."
    )
    if found.limit is None:
        yield "There are too few images to call any of them unusual."
    yield from (f"note: {note}" for note in found.notes)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(ratio: Ratio) -> str:
    return "–" if ratio.low is None or ratio.high is None else f"{ratio.low:.2f}–{ratio.high:.2f}"
