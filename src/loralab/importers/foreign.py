"""The options of another trainer's file by sd-scripts' names, before they are converted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from loralab.errors import Problem, UserError
from loralab.importers import content as contents
from loralab.importers.content import Content, shown
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS, Option
from loralab.schema.coerce import Coercion, Within

SPECIAL = re.compile(r"_\w+_")
"""Keys that have a special meaning for Hydra."""


OFF = frozenset(("", "0", "0.0", "false", "none", "no", "[]", "{}"))
"""Values that mean off."""


class Left(NamedTuple):
    """Something in the file that is not applied."""

    key: str
    value: Any
    why: str
    group: str = ""
    """Where set, the run would differ from the file, unless this group is chosen on the command line."""
    is_setting: bool = True
    """Whether it is a setting, not a result of a run."""
    file: str = ""
    """The file that contains it, where several start from each other."""

    @property
    def is_on(self) -> bool:
        """Whether it would have done something."""
        return bool(self.group) or (self.is_setting and str(self.value).lower() not in OFF)

    def __str__(self) -> str:
        return f"{shown(self.key)} = {shown(str(self.value))}: {self.why}"


@dataclass(slots=True)
class Foreign:
    """A file's options, and everything in it that is not an option."""

    dialect: str
    content: Content
    names: Iterable[str]
    """The keys that a file of this dialect may have."""
    absent: Mapping[str, Any] = field(default_factory=dict)
    """The dialect's defaults for options that the file does not contain."""
    blank: Mapping[str, Any] = field(default_factory=dict)
    """The values of options that the file contains but leaves empty."""
    rows: Mapping[str, Option] = field(default_factory=lambda: OPTIONS)
    """The table that the names of its options are those of."""
    options: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """Option → its key in the file."""
    files: dict[str, Content] = field(default_factory=dict)
    """Option → the file that contains it, where it is one that this file starts from."""
    unsure: dict[str, str] = field(default_factory=dict)
    """Option → why its value is not known from the file."""
    starts_from: str = "load_json_path"
    """The option that names a file whose values apply where this file sets none."""
    length: str = ""
    """The dialect whose precedence of steps and epochs applies."""
    empty: set[str] = field(default_factory=set)
    """Options that the file contains with a value that means none."""
    datasets: dict[str, Any] | None = None
    """A dataset configuration of sd-scripts: tables `general` and `datasets`."""
    datasets_taken: set[str] = field(default_factory=set)
    """Keys of a dataset configuration that became settings."""
    family: str = ""
    """Model family, by its name in the registry, where the file gives it without naming a base model."""
    left: list[Left] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """Invalid values, reported together."""

    def start_from(self, lower: Foreign) -> None:
        """Takes from another file what this one does not set."""
        for name in list(self.empty):
            self.drop(name)
        for rivals in RIVALS:
            if any(map(self.has, rivals)):
                for name in rivals:
                    lower.drop(name)
        if not any(map(self.has, RIVALS[0])):
            self.length = lower.length or lower.dialect
        for name in lower.options.keys() - {name for name in self.options if self.has(name)}:
            self.options[name], self.keys[name] = lower.options[name], lower.keys[name]
            self.files[name] = lower.files.get(name, lower.content)
            (self.empty.add if name in lower.empty else self.empty.discard)(name)
        if self.datasets is None:
            self.datasets = lower.datasets
        self.absent, self.blank, self.family = lower.absent, lower.blank, self.family or lower.family
        self.unsure = {**lower.unsure, **self.unsure}
        name = lower.content.path.name
        self.left += [left._replace(file=left.file or name) for left in lower.left]
        self.unknown += lower.unknown
        self.warnings += [f"starts from {name}, which {warning}" for warning in lower.warnings]

    def add(self, key: str, name: str, value: Any, empty: bool = False) -> None:
        """Adds the value at `key` of the file as the option `name`."""
        if name not in self.rows:
            self._add_unknown(key)
            return
        if name in self.options:
            raise self.error(key, f"means the same as {self.keys[name]}", "keep one of them")
        self.imply(name, key, value)
        if empty:
            self.empty.add(name)

    def imply(self, name: str, key: str, value: Any) -> None:
        """Sets an option because of the value at `key`, in place of what another key says."""
        if self.has(name) and self.keys[name] != key and self.options[name] != value:
            self.leave(name, f"overridden by {key}")
        self.options[name], self.keys[name] = value, key
        self.empty.discard(name)

    def _add_unknown(self, key: str) -> None:
        if SPECIAL.fullmatch(key):
            raise self.builds(key)
        names = {name.lower(): name for name in self.names}
        if key.lower() in names:
            raise self.error(key, "wrong capitalisation", f"write {names[key.lower()]}")
        self.unknown.append(key)

    def has(self, name: str) -> bool:
        """Whether the file sets the option."""
        return name in self.options and name not in self.empty

    def take(self, name: str) -> Any:
        """The value of an option, the dialect's default where the file does not set it; None where there is neither."""
        if not self.has(name):
            return (self.blank if name in self.options else self.absent).get(name)
        found = self.checked(name, self.options[name], self.rows[name].coercion)
        return self.absent.get(name) if found is None else found  # an invalid value is a problem anyway

    def checked(self, name: str, value: Any, kind: Coercion) -> Any:
        """A value of the option `name`, converted; None where it is invalid, which is noted as a problem."""
        found = self.valid(self.keys[name], value, kind, self.files.get(name, self.content))
        if found is None:
            self.drop(name)
        return found

    def file_named_by(self, name: str) -> Content | None:
        """The file that an option names, None where it is not set. A relative path starts here, or beside this file."""
        given = self.checked(name, self.options[name], coerce.path) if self.has(name) else None
        if given is None:
            return None
        path, beside = Path(given), self.content.path.parent / given
        try:
            return contents.read(path if path.exists() or not beside.exists() else beside)
        except UserError as error:
            problem = error.problems[0]
            if problem.setting != "settings.load":
                raise
            raise self.error(self.keys[name], problem.found, problem.remedy) from error

    def valid(self, key: str, value: Any, kind: Coercion, content: Content | None = None) -> Any:
        """A converted value; None where it is invalid, which is noted as a problem. Spaces around paths are removed."""
        if kind is coerce.path and isinstance(value, str) and value != value.strip() and value.strip():
            value = value.strip()
            if (note := f"has spaces around the path of {shown(key)}: {shown(value)} is used") not in self.warnings:
                self.warnings.append(note)
        try:
            return kind(value)
        except ValueError as error:
            where = f"{key}.{error.name}" if isinstance(error, Within) else key
            wrong = (content or self.content).error(where, f"invalid value {_short(value)}", f"valid: {error}")
            self.problems += wrong.problems
            return None

    def problem(self, name: str, found: str, remedy: str) -> None:
        """Notes a problem of an option of the file."""
        content = self.files.get(name, self.content)
        self.problems += content.error(self.keys[name], found, remedy).problems

    def leave(self, name: str, why: str, group: str = "", neutral: bool = False) -> None:
        """Reports an option of the file as not applied. neutral: it would not have changed the result either."""
        if name in self.options and self.keys[name] not in {left.key for left in self.left}:
            file = self.files[name].path.name if name in self.files else ""
            counts = not (neutral or (name in self.rows and self.rows[name].neutral))
            self.left.append(Left(self.keys[name], self.options[name], why, group, counts, file))

    def drop(self, name: str) -> None:
        """Continues as if the file did not contain the option."""
        self.options.pop(name, None)
        self.empty.discard(name)
        self.unsure.pop(name, None)

    def error(self, key: str, found: str, remedy: str = "") -> UserError:
        return self.content.error(key, found, remedy)

    def builds(self, key: str) -> UserError:
        """The error about a key that makes Hydra build an object."""
        return self.error(
            key, "is not allowed: it would build an object", "remove it: settings files may contain values only"
        )


RIVALS = (
    ("max_train_steps", "max_train_epochs", "epoch"),
    ("lr_warmup_steps", "warmup_lr_ratio", "lr_warmup"),
    ("train_data_dir", "dataset_config"),
    ("optimizer_type", "use_8bit_adam", "use_lion_optimizer"),
    ("lr_scheduler", "lr_scheduler_type"),
)
"""Options that set the same thing: a file that sets one of them takes none of the others from the file below."""


def is_zero(value: Any) -> bool:
    """Whether a value is 0, also as text."""
    try:
        return float(value) == 0
    except (TypeError, ValueError):
        return False


def _short(value: Any) -> str:
    return shown(value) if isinstance(value, str) else repr(value)[:80]
