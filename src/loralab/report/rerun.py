"""`loralab rerun RUN`: a run again, from its folder alone, and whether its files are the same."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from loralab.command import start
from loralab.command.prepare import refuse
from loralab.command.rerun import of_folder
from loralab.command.run_folder import RECORD, RunFolder, claim, folder_problems
from loralab.console import is_first
from loralab.errors import UserError, user_error
from loralab.files import digest_file, printable
from loralab.places import full
from loralab.report.diff import INPUTS, differences, in_words
from loralab.report.environment import environment
from loralab.report.run import Run, read
from loralab.schema.compose import Composed
from loralab.scorers.scorer import SETTING, scorer_problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--folder", type=Path, metavar="NEW", help="folder to write into; default: a new one, as usual")
    allow = "classes, modules or packages that its settings may name, as allow=[…]; repeatable"
    parser.add_argument("--allow", action="append", default=[], metavar="NAME", help=allow)


def main(args: argparse.Namespace) -> None:
    """Exits with 0 whether or not the files are the same, with 1 where the run fails."""
    from loralab.launch import task

    earlier = read(full(args.run))
    cfg = of_folder(earlier.folder, args.allow)
    folder = _folder(cfg, args.folder)
    stand_where_it_stood(earlier.folder)
    _say(f"again: {earlier.folder}", *_beforehand(earlier), *_unscored(cfg))
    _from_its_state(cfg, earlier)
    composed = Composed(cfg, list(cfg.hydra.overrides.task), [])
    refuse(composed)
    if is_first():
        if problems := list(folder_problems(composed.tree, folder)):
            raise UserError(*problems)
        place = claim(folder, is_resumed=False)
    else:
        place = folder.path
    start.run(partial(task, is_checked=True, looks=(partial(_compare_inputs, earlier),)), cfg, place, is_trusted=False)
    _say(*_verdict(earlier, read(place)))


def _beforehand(earlier: Run) -> Iterator[str]:
    """What differs between the environment of the run and this one, and what became of it."""
    here = environment()
    found = differences(earlier.part(tuple(here)), here)
    yield "environment: " + ("differs" if found else "the same versions, hardware and git state")
    yield from (f"  {line}" for line in in_words(found))
    if earlier.status != "finished":
        yield f"note: that run is {earlier.status}; this one trains to its end"


def _unscored(cfg: DictConfig) -> Iterator[str]:
    """A scorer that is gone costs the scores alone."""
    if problems := [*scorer_problems(OmegaConf.select(cfg, SETTING))]:
        with open_dict(cfg):
            OmegaConf.update(cfg, SETTING, None)
        yield f"note: the pictures will not be scored: {problems[0].setting}: {problems[0].found}"


def _compare_inputs(earlier: Run, facts: dict[str, Any]) -> None:
    """Says, before the first step, what differs in base model, data and the adapter started from."""
    found = differences(earlier.part(INPUTS), {name: facts[name] for name in INPUTS})
    words = "other content than then; the result will differ:" if found else "the same base model and data"
    _say(f"inputs: {words}", *(f"  {line}" for line in in_words(found)))


def _folder(cfg: DictConfig, given: Path | None) -> RunFolder:
    """Where it is written: a new folder of the usual name, or a given one that contains no run."""
    path = full(given or str(cfg.hydra.run.dir))
    if given and is_first() and (path / RECORD).exists():
        raise user_error("--folder", f"{path} contains the files of another run", "give another folder, or none")
    return RunFolder("hydra.run.dir", path, path, path / "config", is_new=given is None)


def stand_where_it_stood(folder: Path) -> None:
    """Changes to the run's working folder, where it is still there, as its relative paths start there."""
    from omegaconf import OmegaConf

    place = OmegaConf.select(OmegaConf.load(folder / "config" / "hydra.yaml"), "hydra.runtime.cwd")
    if isinstance(place, str) and os.path.isdir(place):
        os.chdir(place)


def _from_its_state(cfg: DictConfig, earlier: Run) -> None:
    """Where the run was resumed from a state of other settings, its result can only be had from that state; any other
    resumed run is the same when it is trained from the start."""
    if earlier.facts.get("resumed_with"):
        with open_dict(cfg):
            cfg.resume, cfg.resume_force = str(earlier.facts["resumed"]), True


def _verdict(earlier: Run, again: Run) -> Iterator[str]:
    """For each adapter file whether it is the same."""
    before = _digests(earlier)
    for name, digest in _digests(again).items():
        if name not in before:
            yield f"{name}: nothing to compare with, as that run wrote no such file"
        elif digest == before[name]:
            yield f"{name}: the same, bit for bit"
        else:
            yield f"{name}: differs" + (", as output.dates stores times" if again.settings.get("output.dates") else "")


def _digests(run: Run) -> dict[str, str]:
    """Of the run's adapter files; those of a record without digests, from the files in its folder."""
    recorded = run.facts.get("digests")
    if isinstance(recorded, dict):
        return recorded
    return {file.name: digest_file(file) for file in map(Path, run.facts.get("files") or []) if file.is_file()}


def _say(*lines: str) -> None:
    if is_first():
        print(*map(printable, lines), sep="\n", flush=True)
