"""`loralab grid RUN_OR_FILE…`: pictures of finished adapters on one sheet, of which only what is missing is drawn."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from loralab.callbacks.contact_sheet import COLUMNS, ROWS, grid, save, thumbnail
from loralab.command.flags import add_places, use_places_of
from loralab.errors import UserError, user_error
from loralab.files import printable
from loralab.grid.cells import Cell, Sheet, sheet
from loralab.grid.choose import checkpoints, given_prompts, seeds, strengths
from loralab.grid.setup import Setup
from loralab.grid.sources import sources
from loralab.grid.store import Store
from loralab.places import check_place
from loralab.report.grids import MADE_HERE, is_grid
from loralab.schema.settings import written
from loralab.signals import Interrupted

NAME = "grid.png"
MOST = 5000
"""Pictures of a grid."""
LARGEST, PIXELS = 512, 24_000_000
"""Pixels of a picture's longer side on the sheet at most, and of all pictures on it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "run folders, or folders that contain some; adapter files; settings as for train.py: model.base=PATH …"
    parser.add_argument("overrides", nargs="+", metavar="RUN|FILE|OVERRIDE", help=words)
    words = "factors of the adapter's change; default: 0.5,1"
    parser.add_argument("--strength", default="0.5,1", metavar="LIST", help=words)
    words = "a prompt, or a file of prompts; repeatable; default: those that the runs have drawn"
    parser.add_argument("--prompts", action="append", default=[], metavar="TEXT|FILE", help=words)
    words = "seeds for each prompt, such as 0,1,2; default: the prompt's own"
    parser.add_argument("--seeds", default="", metavar="LIST", help=words)
    words = "all, last, best, or steps such as 100,500; default: of one run up to 6, of several the last of each"
    parser.add_argument("--checkpoints", metavar="LIST", help=words)
    words = f"the sheet; default: {NAME} in the given folder, or here. The pictures go into a folder beside it"
    parser.add_argument("--out", type=Path, metavar="PNG", help=words)
    words = "class, module or package of your own with the adapter's kind or model family; repeatable"
    parser.add_argument("--allow", action="append", default=[], metavar="NAME", help=words)
    add_places(parser)


def main(args: argparse.Namespace) -> None:
    use_places_of(args)
    paths, overrides = _split(args.overrides, args.allow)
    scales, numbers = strengths(args.strength), seeds(args.seeds) if args.seeds else []
    given, notes = given_prompts(args.prompts)
    out = _out(args.out, paths)
    found, skipped = sources(paths)
    chosen, thinned = checkpoints(found, args.checkpoints)
    setup = Setup(found, overrides)
    prompts = setup.prompts(found, given, numbers)
    if given and (problems := list(setup.too_long(prompts))):
        raise UserError(*problems)
    table = sheet(chosen, scales, prompts, setup.base["model"])
    pages = _pages(table, out)
    store = Store(out.with_suffix(""), setup.base)
    for note in (*notes, *skipped, *thinned):
        print(f"note: {printable(note)}", file=sys.stderr)
    cells = {cell.key(store.base): cell for row in table.rows.values() for cell in row}
    missing = [cell for cell in cells.values() if not store.has(cell)]
    print(f"{len(cells)} pictures, {len(missing)} to draw · {printable(table.title)}", flush=True)
    if missing:
        _draw(missing, setup, store, args.allow)
    for path, page in pages.items():
        _save(page, path, store)
        print(path)
    for old in _parts(out) - pages.keys():
        old.unlink()


def _split(words: list[str], allow: list[str]) -> tuple[list[Path], list[str]]:
    """Paths, and overrides. Raises a UserError where there is no path."""
    paths = [path for word in words if (path := Path(word).expanduser()).exists() or "=" not in word]
    overrides = [word for word in words if not Path(word).expanduser().exists() and "=" in word]
    if not paths:
        raise user_error("RUN|FILE", "there is none among the arguments", "give a run folder or an adapter file")
    return paths, [*overrides, *([f"allow={written(allow)}"] if allow else [])]


def _out(given: Path | None, paths: list[Path]) -> Path:
    """Where the sheet goes. Raises a UserError where it cannot."""
    out = given or (paths[0] / NAME if len(paths) == 1 and paths[0].is_dir() else Path(NAME))
    if out.suffix.lower() != ".png":
        raise user_error("--out", f"'{out}' is no name of a PNG file", "give a name that ends in .png")
    check_place(out, "--out")
    return out


def _pages(table: Sheet, out: Path) -> dict[Path, Sheet]:
    """The sheet in parts that can be looked at, each with its file.

    Raises a UserError for a grid of too many pictures, and where a file exists that is none of ours.
    """
    count = len(table.rows) * len(table.columns)
    if count > MOST:
        words = f"{len(table.rows)} rows × {len(table.columns)} columns are {count} pictures; the limit is {MOST}"
        raise user_error("grid", words, "choose fewer: --checkpoints last, --strength 1, --seeds, --prompts")
    rows = [*table.rows.items()]
    parts = [*product(range(0, len(rows), ROWS), range(0, len(table.columns), COLUMNS))]
    pages: dict[Path, Sheet] = {}
    for number, (y, x) in enumerate(parts, 1):
        path = out if len(parts) == 1 else out.with_name(f"{out.stem}-part{number}{out.suffix}")
        part = {name: row[x : x + COLUMNS] for name, row in rows[y : y + ROWS]}
        title = table.title if len(parts) == 1 else f"{number} of {len(parts)} · {table.title}"
        pages[path] = Sheet(title, table.columns[x : x + COLUMNS], part)
        if path.exists() and not is_grid(path):
            raise user_error("--out", f"'{path}' already exists, and is no grid", "choose another name")
    return pages


def _parts(out: Path) -> set[Path]:
    """The sheets that this or an earlier call with the same place has written."""
    name = re.compile(rf"{re.escape(out.stem)}(-part\d+)?{re.escape(out.suffix)}")
    return {file for file in out.parent.iterdir() if name.fullmatch(file.name) and is_grid(file)}


def _draw(missing: Sequence[Cell], setup: Setup, store: Store, allow: list[str]) -> None:
    """Draws what is missing; where it is interrupted, says what is kept."""
    from loralab.training.quiet import quiet

    quiet()
    from loralab.grid import draw  # torch

    done = 0

    def count() -> None:
        nonlocal done
        done += 1

    checkpoints = [*dict.fromkeys(cell.checkpoint for cell in missing if cell.checkpoint)]
    draw.check(checkpoints, setup, allow)
    try:
        draw.draw(missing, setup, store, count)
    except Interrupted:
        words = f"interrupted: {done} of {len(missing)} pictures were drawn and are kept in {store.folder}"
        print(f"{words}\n  → the same command draws the others", file=sys.stderr)
        raise


def _save(page: Sheet, path: Path, store: Store) -> None:
    rows = {name: [thumbnail(store.get(cell), LARGEST) for cell in cells] for name, cells in page.rows.items()}
    image = grid(rows, page.columns, page.title, LARGEST, PIXELS)
    prompts = dict.fromkeys(cell.described(store.base["model"]) for cells in page.rows.values() for cell in cells)
    texts = {"Software": MADE_HERE, "Title": page.title, "Comment": shlex.join(["loralab", *sys.argv[1:]])}
    save(image, path, "\n\n".join(prompts), "--out", **texts)
