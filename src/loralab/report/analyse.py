"""`loralab analyse RUN`: which images and tags a run learns best and worst, those to be looked at first on top."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from loralab.at_least import at_least
from loralab.errors import user_error
from loralab.files import as_json, printable
from loralab.places import full
from loralab.report.analysis import LEARNT_BY_LOG, Analysis, ImageRow, Ratio, TagRow, analyse, name_of
from loralab.report.measure import MOVED, measure, places
from loralab.report.run import read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, also of one that still trains")
    words = f"where files are now, for --measure: {', '.join(f'{key}=PATH' for key in MOVED)}"
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=words)
    parser.add_argument(
        "--top", type=at_least(0), default=10, metavar="N", help="length of each list (10); 0: all images"
    )
    words = "first measure each image with the base model, without and with adapter and caption, at N (10) timesteps"
    parser.add_argument("--measure", type=at_least(2), nargs="?", const=10, metavar="N", help=words)
    allow = "classes, modules or packages that its settings may name, as allow=[…]; repeatable"
    parser.add_argument("--allow", action="append", default=[], metavar="NAME", help=allow)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def main(args: argparse.Namespace) -> None:
    run = read(full(args.run))
    if args.measure:
        measure(run, args.measure, args.allow, places(args.overrides))
    elif args.overrides:
        raise user_error(args.overrides[0], "has no effect without --measure", "add --measure")
    found = analyse(run.folder)
    if args.json:
        print(as_json(asdict(found)))
        return
    console = Console()
    for title, table in _tables(found, args.top):
        console.print(Text(title, style="bold"), table, sep="\n", end="\n\n")
    for words in _words(found):
        console.print(Text(printable(words)))


def _tables(found: Analysis, top: int) -> Iterable[tuple[str, Table]]:
    worst, best = ("learnt least", "learnt most") if found.measured else ("the hardest", "the easiest")
    first = [row for row in found.rows if row.reasons]
    others = found.rows[len(first) :]
    count = top or len(others)
    if first:
        yield "Look at these first", _images(first)
    if top and len(others) > 2 * top:
        yield f"{worst.capitalize()} of the {'other ' if first else ''}{len(others)} images", _images(others[:count])
        yield best.capitalize(), _images(others[: -count - 1 : -1])
    else:
        yield f"All {'other ' if first else ''}images, {worst} first", _images(others)
    if found.tags:
        tags = found.tags if len(found.tags) <= 2 * count else [*found.tags[:count], *found.tags[-count:]]
        yield f"Tags: their images against those without, {worst} first", _tags(tags)


def _images(rows: list[ImageRow]) -> Table:
    measured, learnt = any(row.fit for row in rows), any(row.learnt for row in rows)
    by_log = ("loss ×", "95 %", *(("learnt ×", "95 %") if learnt else ("change ×", "samples")))
    heads = ("learnt ×", "95 %", "fit ×", "loss ×") if measured else by_log
    table = _table("image", heads, Column("caption", overflow="fold", min_width=16))
    for row in rows:
        if measured:
            figures = (_number(row.learnt), _interval(row.learnt), _number(row.fit), _number(row.loss))
        else:
            by_log = (_number(row.learnt), _interval(row.learnt)) if learnt else (_number(row.change), str(row.samples))
            figures = (_number(row.loss), _interval(row.loss), *by_log)
        _add(table, name_of(row.path), *figures, "; ".join([*row.reasons, " ".join(row.caption.split())]))
    return table


def _tags(tags: list[TagRow]) -> Table:
    measured = any(tag.learnt for tag in tags)
    table = _table(
        "tag",
        ("images", *(["learnt ×", "95 %"] if measured else []), "loss ×", "95 %", *([] if measured else ["change ×"])),
    )
    for tag in tags:
        learnt = (_number(tag.learnt), _interval(tag.learnt)) if measured else ()
        change = () if measured else (_number(tag.change),)
        _add(table, tag.tag, str(tag.images), *learnt, _number(tag.loss), _interval(tag.loss), *change)
    return table


def _table(first: str, numbers: Iterable[str], *more: Column) -> Table:
    columns = [Column(head, justify="right", no_wrap=True) for head in numbers]
    return Table(Column(first, overflow="fold", min_width=16), *columns, *more)


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))


def _words(found: Analysis) -> Iterable[str]:
    yield (
        f"{found.samples} samples of {len(found.rows)} images, steps {found.steps[0]} to {found.steps[1]}. "
        f"{found.baseline} Change is that from the first to the last third of the "
        f"run{'' if found.change is None else f', of the median image {found.change:.2f}'}."
    )
    if not found.measured and any(row.learnt for row in found.rows):
        yield LEARNT_BY_LOG
    if found.measured:
        yield (
            "Learnt is the loss with the adapter as a multiple of the base model's, fit the base model's loss with the "
            "caption as a multiple of that without: above 1, the caption misleads it."
        )
    if found.limit is None:
        yield "There are too few images to call any of them unusual."
    yield from (f"note: {note}" for note in found.notes)


def _number(ratio: Ratio | None) -> str:
    return "–" if ratio is None or ratio.value is None else f"{ratio.value:.2f}"


def _interval(ratio: Ratio | None) -> str:
    return "–" if ratio is None or ratio.low is None or ratio.high is None else f"{ratio.low:.2f}–{ratio.high:.2f}"
