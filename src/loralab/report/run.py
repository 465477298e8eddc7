"""One run, as its folder tells: its record, run.json, and its resolved configuration, config/config.yaml."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loralab.command.run_folder import RECORD
from loralab.errors import UserError, user_error
from loralab.schema.renamed import current_keys
from loralab.schema.tree import leaves
from loralab.scorers.scores import SCORES
from loralab.writing import is_held

CONFIG = "config/config.yaml"
LOSS, VALIDATION = "loss", "validation/loss"
FIGURES = ("steps", "seconds", "images_per_second", "peak_memory_gb", LOSS)


@dataclass(frozen=True)
class Run:
    """facts: of run.json; none where that cannot be read."""

    folder: Path
    facts: dict[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration, by dotted key. Raises a UserError where it is damaged."""
        with _readable(self.folder, CONFIG):
            return _settings(self.folder / CONFIG) if (self.folder / CONFIG).exists() else {}

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """The numbers of its record that exist (yet), by name. Raises a UserError where one is no number."""
        found = {name: self.facts[name] for name in FIGURES if name in self.facts}
        found |= {name: self.metrics[name] for name in (VALIDATION, *SCORES) if name in self.metrics}
        for name, value in found.items():
            if not isinstance(value, int | float | None):
                raise _damaged(self.folder, f"{RECORD}: {name} is {value!r:.40}, not a number")
        return found

    @property
    def metrics(self) -> dict[str, Any]:
        metrics = self.facts.get("metrics")
        return metrics if isinstance(metrics, dict) else {}

    @cached_property
    def status(self) -> str:
        """As recorded; a run that is recorded as running, while no process holds its folder, was killed."""
        status = str(self.facts.get("status", "damaged"))
        return "killed" if status == "running" and not is_held(self.folder) else status

    @property
    def how(self) -> str:
        """Its status, and whether it took over the result of another, or what ended it early."""
        stopped = str(self.facts.get("stopped") or "").partition(" at step")[0]
        why = "reused" if self.facts.get("reused") else stopped
        return f"{self.status} ({why})" if why else self.status

    @property
    def has_failed(self) -> bool:
        return self.status not in ("finished", "interrupted") or bool(self.listed("errors"))

    @property
    def errors(self) -> list[str]:
        """What went wrong, one line per error."""
        return [str(error).splitlines()[0] for error in [*self.listed("errors"), self.facts.get("error")] if error]

    @property
    def name(self) -> str:
        """`run.name`, "" where it has none."""
        name = self.settings.get("run.name")
        return "" if name is None else str(name)

    @property
    def tags(self) -> list[str]:
        tags = self.settings.get("run.tags")
        return [*map(str, tags)] if isinstance(tags, list) else []

    @property
    def overrides(self) -> list[str]:
        return [*map(str, self.listed("overrides"))]

    @property
    def result(self) -> str:
        """The loss that it is compared by, in words; "" without one."""
        loss = to_optimise(self.facts)
        return "" if loss is None else f"{VALIDATION if VALIDATION in self.metrics else LOSS} {loss:.4f}"

    def listed(self, fact: str) -> list[Any]:
        """A list in its record; empty where something else stands there."""
        found = self.facts.get(fact)
        return found if isinstance(found, list) else []

    def part(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Some of its facts."""
        return {name: self.facts[name] for name in names if name in self.facts}


def read(folder: Path) -> Run:
    """The run of a folder. Raises a UserError where there is none, or something of it is damaged."""
    with _readable(folder, RECORD):
        facts = json.loads((folder / RECORD).read_text(encoding="utf8"))
    if not isinstance(facts, dict) or not isinstance(facts.get("status"), str):
        raise _damaged(folder, f"{RECORD} is not the record of a run")
    run = Run(folder, facts)
    _ = run.figures, run.settings  # where they are damaged, this raises it
    return run


def glance(folder: Path) -> Run:
    """A run by its record alone, which is read in a moment; without facts where that is damaged."""
    try:
        facts = json.loads((folder / RECORD).read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        facts = {}
    return Run(folder, facts if isinstance(facts, dict) else {})


def to_optimise(facts: dict[str, Any], metric: str | None = None) -> float | None:
    """The value of a metric that a search goes by: the lower, of a score the higher, the better.

    None: the validation loss if there is one, else the training loss. As bad as can be where it is not finite.
    """
    metrics = {**Run(Path(), facts).metrics, LOSS: facts.get(LOSS)}
    value = metrics.get(metric or (VALIDATION if VALIDATION in metrics else LOSS))
    return None if not isinstance(value, int | float) else value if math.isfinite(value) else worst(metric)


def worst(metric: str | None) -> float:
    """A value of a metric that is as bad as can be."""
    return -math.inf if metric in SCORES else math.inf


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _settings(file: Path) -> dict[str, Any]:
    """The settings of a run by dotted key; an interpolation that cannot be resolved here stays as written."""
    config = OmegaConf.load(file)
    if not isinstance(config, DictConfig) or "seed" not in config:
        raise _damaged(file.parents[1], f"{file.name} contains no settings")
    try:
        tree = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:  # an environment variable that is not set any more, say
        tree = OmegaConf.to_container(config)
    return current_keys({key: _resolved(config, key, value) for key, value in leaves(tree)})  # type: ignore[arg-type]


def _resolved(config: DictConfig, key: str, value: Any) -> Any:
    """A leaf as plain JSON, resolved on its own if possible."""
    if "${" in str(value):
        with suppress(OmegaConfBaseException):
            value = OmegaConf.select(config, key, default=value)
    return json.loads(json.dumps(value, default=str))


@contextmanager
def _readable(folder: Path, file: str) -> Iterator[None]:
    """Raises a UserError in place of what a damaged file makes of its reader."""
    try:
        yield
    except UnicodeDecodeError:
        raise _damaged(folder, f"{file} is not UTF-8 text") from None
    except (ValueError, YAMLError, OmegaConfBaseException):
        raise _damaged(folder, f"{file} is damaged or incomplete") from None
    except RecursionError:
        raise _damaged(folder, f"{file} is nested too deeply") from None
    except OSError as error:
        why = f"{file} cannot be read: {error.strerror or 'it contains no settings'}"
        raise _damaged(folder, why) from None


def _damaged(folder: Path, why: str) -> UserError:
    return user_error(str(folder), why, f"give the folder of a run, with its {RECORD}")
