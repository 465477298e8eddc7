"""`loralab report FOLDER…`: a page that compares runs, in a folder of its own that opens offline in any browser."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from loralab import signals
from loralab.errors import UserError, user_error
from loralab.places import check_place
from loralab.report.page import MADE_HERE
from loralab.report.run import LOSS, VALIDATION
from loralab.report.scored import Judge
from loralab.report.write import write
from loralab.scorers.scorer import scorer_problems
from loralab.scorers.scores import SCORES

NAME = "report"
WATCHED = ("run.json", "events.out.tfevents.*", "metrics.csv", "samples/step*.png", "grid*.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words = "run folders, or folders that contain some"
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help=words)
    words = "the folder to write; default: report/ in the given folder, or here where several are given"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=words)
    metrics = (VALIDATION, LOSS, *SCORES)
    words = f"what runs are compared by: {', '.join(metrics)}; default: the first that they have"
    parser.add_argument("--metric", choices=metrics, metavar="METRIC", help=words)
    words = "score the pictures of all runs by a CLIP folder, or by shapes, as report.scorer does while training"
    parser.add_argument("--scorer", metavar="FOLDER", help=words)
    words = "write it again when something has changed; looks every SECONDS (10), until Ctrl-C"
    parser.add_argument("--watch", type=float, nargs="?", const=10.0, metavar="SECONDS", help=words)


def main(args: argparse.Namespace) -> None:
    out = args.out or (args.folders[0] / NAME if len(args.folders) == 1 else Path(NAME))
    check_place(out, "--out", is_folder=True)
    page = out / "index.html"
    if out.is_dir() and any(out.iterdir()) and not _is_report(page):
        raise user_error("--out", f"'{out}' contains other files", "choose a new folder, or that of a report")
    if problems := [*scorer_problems(args.scorer, "--scorer")]:
        raise UserError(*problems)
    judge = Judge(args.scorer) if args.scorer else None
    seen: object = None
    while True:
        if (state := _state(args.folders)) != seen:
            print(f"{page}: {write(page, args.folders, '--out', args.metric, judge)}", flush=True)
            seen = state
        if args.watch is None:
            return
        time.sleep(args.watch)


def of_sweep(folder: Path, metric: str | None = None) -> None:
    """Writes the report of a sweep beside its runs; metric: what these are compared by.

    A failure is printed, and costs neither result nor exit code.
    """
    page = folder / NAME / "index.html"
    try:
        words = write(page, [folder], "hydra.sweep.dir", metric)
        print(f"  report: {page} ({words})", flush=True)
    except signals.Interrupted as interrupted:
        print(f"interrupted by {interrupted}: the report was not written", file=sys.stderr)
    except UserError as error:
        print(f"note: no report: {error.problems[0]}", file=sys.stderr)
    except Exception as error:
        print(f"error: the report could not be written: {type(error).__name__}: {error}", file=sys.stderr)


def _is_report(page: Path) -> bool:
    try:
        return MADE_HERE in page.read_text(encoding="utf8")[:1000]
    except (OSError, ValueError):
        return False


def _state(folders: list[Path]) -> dict[str, tuple[int, int]]:
    """Size and time of each file that a report is made from."""
    files = (file for folder in folders for pattern in WATCHED for file in folder.rglob(pattern))
    facts = ((file, file.stat()) for file in files if file.exists())
    return {str(file): (fact.st_mtime_ns, fact.st_size) for file, fact in facts}
