"""Writes the page of a report and, beside it, the pictures that it shows."""

from __future__ import annotations

import shutil
from pathlib import Path

from loralab import signals
from loralab.errors import Problem, UserError
from loralab.report import grids
from loralab.report.contents import contents, folder_name
from loralab.report.gather import gather
from loralab.report.page import interactive
from loralab.report.pictures import put
from loralab.report.run import Run
from loralab.report.scored import Judge
from loralab.report.training_images import FOLDER, remove_others, training_images
from loralab.writing import atomic_path

TITLE = "loralab report"


def write(page: Path, folders: list[Path], setting: str, metric: str | None = None, judge: Judge | None = None) -> str:
    """Writes the page of the runs in or below some folders, its pictures into NAME_files beside it.

    Returns what it holds, in words. setting: which gave its place. metric, judge: see contents. Raises a UserError
    where there is no run.
    """
    found, damaged = gather(folders)
    runs = [*{run.folder.resolve(): run for run in found}.values()]
    if not runs:
        raise UserError(*(Problem(folder, why, "give the folder of a run") for folder, why in damaged.items()))
    media = page.with_name(f"{page.stem}_files")
    values, shown = contents(runs, damaged, media.name, metric, judge)
    for run, drawn in zip(runs, shown, strict=True):
        signals.check()
        values["notes"] += [f"{run.folder}: {words}" for words in put(run.folder, drawn, media / folder_name(run))]
    for run, entry in zip(runs, values["runs"], strict=True):
        signals.check()
        entry["images"], unread = training_images(run.folder, media)
        values["notes"] += [f"{run.folder}: {words}" for words in unread]
    values["grids"], broken = grids.put(folders, (run.folder for run in runs), media)
    values["notes"] += broken
    with atomic_path(page, setting) as beside:
        beside.write_text(interactive("report.html", "report", TITLE, values), encoding="utf8")
    _remove_others(media, runs)
    remove_others(media, [entry["images"] for entry in values["runs"]])
    words = [f"{len(runs)} run{'s' * (len(runs) > 1)}", f"{sum(map(len, shown))} pictures"]
    return ", ".join([*words, *([f"{len(values['notes'])} notes"] if values["notes"] else [])])


def _remove_others(media: Path, runs: list[Run]) -> None:
    """The pictures of runs that are not on the page any more."""
    names = {folder_name(run) for run in runs} | {FOLDER, grids.FOLDER}
    for folder in media.iterdir() if media.is_dir() else ():
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
