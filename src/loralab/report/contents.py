"""What the page of a report shows, as plain values for its scripts: runs, groups of seeds, what differs, prompts."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from loralab import __version__, signals
from loralab.report.curves import LOSS, Curve, curves, lowest, thinned
from loralab.report.gather import differing, short_names
from loralab.report.pictures import Picture, pictures
from loralab.report.run import VALIDATION, Run
from loralab.report.scored import Judge
from loralab.report.seeds import SEED, Standing, counts, groups, standings
from loralab.scorers.scores import SCORES

Entry = dict[str, Any]


def contents(
    runs: list[Run], damaged: dict[str, str], media: str, metric: str | None = None, judge: Judge | None = None
) -> tuple[Entry, list[list[Picture]]]:
    """The values; and each run's pictures, which belong into the folder that its `media` names below `media`.

    metric: what the runs are compared by; None: the validation loss, without any the training loss. judge: scores the
    pictures of all runs, in place of the scores that they have recorded.
    """
    notes = [f"{folder}: {why}" for folder, why in damaged.items()]
    names = short_names([str(run.folder.absolute()) for run in runs])
    swept = _by_interest(runs, differing(runs))
    prompts: dict[str, int] = {}
    entries, shown = [], []
    for run, name in zip(runs, names, strict=True):
        signals.check()
        (found, unread), (drawn, broken) = curves(run.folder), pictures(run.folder)
        notes += [f"{name}: {words}" for words in [*unread, *broken]]
        if judge:
            judged, unscored = judge(run)
            found = {name: curve for name, curve in found.items() if name not in SCORES} | judged
            notes += [f"{name}: {words}" for words in unscored]
        entry = _entry(run, found, *(SCORES if judge else ())) | {"name": name, "media": f"{media}/{folder_name(run)}"}
        entry["values"] = {key: run.settings.get(key) for key in swept}
        entry["pictures"] = [
            [p.step, prompts.setdefault(p.prompt, len(prompts)), p.name, p.width, p.height] for p in drawn
        ]
        entries.append(entry)
        shown.append(drawn)
    wanted = (metric or VALIDATION, VALIDATION, LOSS)
    by = next((name for name in wanted if any(e["figures"].get(name) is not None for e in entries)), LOSS)
    notes += [f"no run has {metric}: they are compared by {by}"] if metric and metric != by else []
    settings = runs[0].settings
    same = {key: value for key, value in settings.items() if key not in swept and not key.startswith("suggested.")}
    return {
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "version": __version__,
        "metric": by,
        "higher": by in SCORES,
        "settings": swept,
        "axes": [key for key in swept if counts(key)] + [key for key in swept if key == SEED],
        "same": same,
        "prompts": [*prompts],
        "media": media,
        "runs": entries,
        **_groups(runs, entries, by),
        "notes": notes,
    }, shown


def folder_name(run: Run) -> str:
    """A name for a run's pictures that stays the same when others are added."""
    return blake2b(str(run.folder.resolve()).encode("utf8", "surrogateescape"), digest_size=6).hexdigest()


def _entry(run: Run, found: dict[str, Curve], *ignored: str) -> Entry:
    """What its record and its curves say of a run; of one that still trains, the latest there is. ignored: figures of
    its record that do not count."""
    figures: Entry = {name: _number(value) for name, value in run.figures.items() if name not in ignored}
    best = lowest(found.get(VALIDATION, {}))
    for name in (LOSS, VALIDATION, *(name for name in SCORES if name in found)):
        last = next(reversed(found[name].values()), None) if name in found else None
        figures[name] = _number(last) if figures.get(name) is None else figures[name]
    figures |= {"best_step": best[0], "best": best[1]} if best else {"best_step": None, "best": None}
    error = run.facts.get("error") or next(iter(run.listed("errors")), None)
    return {
        "folder": str(run.folder.absolute()),
        "status": run.status,
        "error": str(error) if error else "",
        "figures": figures,
        "curves": {name: thinned(curve) for name, curve in found.items()},
        "commands": [_command(run), shlex.join(["loralab", "rerun", str(run.folder.absolute())])],
    }


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _command(run: Run) -> str:
    """What runs it again: without the choice of its sweep, of which it is one point."""
    words = [word for word in run.overrides if not word.startswith("sweep=")]
    return shlex.join(["loralab", "train", *words])


def _by_interest(runs: list[Run], keys: list[str]) -> list[str]:
    """Settings that were given as overrides first: those are what a sweep sweeps."""
    given = [word for run in runs for word in run.overrides]
    order = {key: i for i, key in enumerate(dict.fromkeys(word.lstrip("+").partition("=")[0] for word in given))}
    return sorted(keys, key=lambda key: order.get(key, len(order)))


def _groups(runs: list[Run], entries: list[Entry], metric: str) -> Entry:
    """The groups of runs that differ by their seed only, each compared with the best one over their common seeds."""
    numbers = groups([run.settings for run in runs])
    values: list[dict[str, float]] = [{} for _ in range(max(numbers) + 1)]
    for number, run, entry in zip(numbers, runs, entries, strict=True):
        entry["group"], value = number, entry["figures"].get(metric)
        if value is not None:
            values[number][str(run.settings.get(SEED))] = value
    found = standings(values, highest=metric in SCORES)
    best = next((i for i, standing in enumerate(found) if standing.is_best), None)
    return {"groups": [_standing(each) for each in found], "best": best}


def _standing(found: Standing) -> Entry:
    with_best = found.comparison and asdict(found.comparison) | {"distinguishable": found.comparison.distinguishable}
    return {"mean": found.mean, "spread": found.spread, "seeds": len(found.values), "comparison": with_best}
