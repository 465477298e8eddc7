"""A settings file taken in before Hydra composes: conf defaults < the file < the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from loralab.errors import Problem, UserError, user_error
from loralab.settings.convert import Converted, read
from loralab.settings.overrides import Settings

MEANT = {"data": "folder"}
"""The options that a file's values are for, where it chooses none: a preset says how to train, not on which images."""

LOAD, SKIP = "settings.load", "settings.skip"


class Expanded(NamedTuple):
    """Overrides with those of a settings file before them."""

    overrides: list[str]
    told: list[str]
    """What a user should know."""
    origins: dict[str, str]
    """Where the file has the groups and keys that come from it."""


def expand(overrides: list[str]) -> Expanded:
    """The overrides with those of the settings file that they name before them.

    Another option of a group on the command line takes the file's values of that group away, and a key its rivals.
    Raises UserError.
    """
    path = value_of(overrides, LOAD)
    if path is None:
        return Expanded(overrides, [], {})
    skip = value_of(overrides, SKIP) or []
    if not isinstance(path, str) or not isinstance(skip, list):
        wrong = (LOAD, path) if not isinstance(path, str) else (SKIP, skip)
        raise user_error(
            wrong[0], f"{wrong[1]!r} does not fit", "one file; names as a list: settings.skip=[net_dim,alpha]"
        )
    files = list(_chain(path, list(map(str, skip))))
    given = dict(_names(overrides))
    if problems := [problem for file in files for problem in _not_to_be_had(file, given)]:
        raise UserError(*problems)
    told = [line for file in files for line in _told(file)]
    settings = Settings()
    for file in reversed(files):
        settings = file.settings.over(settings)
    settings.without(LOAD)  # the command line's own stands
    for name, text in given.items():
        if settings.choices.get(name, MEANT.get(name)) == text.partition("=")[2]:
            settings.choices.pop(name, None)
            continue
        gone = settings.without(name, rivals=not text.endswith("=null"))
        if gone and "." not in name:
            told.append(f"{text} takes the place of the file's {', '.join(gone)}")
        for key in _set_by(name, text):
            settings.without(key)
    origins = {key: place for file in reversed(files) for key, place in file.origins.items()}
    left = {key: place for key, place in origins.items() if key in settings.choices or key in settings.values}
    return Expanded([*settings.lines(), *overrides], told, left)


def value_of(overrides: list[str], key: str) -> Any:
    """The value that the overrides give a key, None where they give none. Raises a UserError for a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    text = next((o for o in reversed(overrides) if o.lstrip("+").partition("=")[0] == key), None)
    if text is None:
        return None
    override = OverridesParser.create().parse_overrides([text])[0]
    if override.is_sweep_override():
        raise user_error(key, "is one value, not several", "for many files: settings.run_folder=FOLDER")
    return _plain(override.value())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return getattr(value, "text", value)  # a quoted text knows its quotes


def _chain(path: str, skip: list[str]) -> Iterator[Converted]:
    """The file, then the one that it starts from itself, and so on."""
    seen: list[Path] = []
    next_path: str | None = path
    while next_path is not None:
        file = read(next_path, skip)
        if file.path.resolve() in seen:
            raise user_error(LOAD, f"{file.path} starts from itself", "remove its load_json_path")
        seen.append(file.path.resolve())
        yield file
        next_path, skip = file.settings.values.get(LOAD), file.settings.values.get(SKIP, [])


def _not_to_be_had(file: Converted, given: dict[str, str]) -> Iterator[Problem]:
    """What the file asks for and cannot get, unless the command line says what to do instead."""
    for left in file.not_applicable:
        if left.group and left.group not in given:
            remedy = f"choose what to do instead: {left.group}=…"
            yield Problem(f"{left.key} (in {file.path.name})", f"{left.value!r:.80}: {left.why}", remedy)


def _told(file: Converted) -> Iterator[str]:
    yield file.report()
    for left in file.not_applicable:
        if left.is_on:
            yield f"{file.path.name} · {left}"
    for warning in file.warnings:
        yield f"{file.path.name} {warning}"


def _names(overrides: list[str]) -> Iterator[tuple[str, str]]:
    """The groups and keys that the command line names, each with its override."""
    for text in overrides:
        name = text.lstrip("+~").partition("=")[0].partition("@")[0]
        if name not in (LOAD, SKIP):
            yield name, text


def _set_by(group: str, override: str) -> Iterator[str]:
    """What a recipe (`experiment=…`, `debug=…`) sets anywhere in the configuration: it is part of the command line."""
    from omegaconf import OmegaConf

    from loralab.config.compose import CONF

    file = CONF / group / f"{override.partition('=')[2]}.yaml"
    if "." in group or not file.is_file() or "@package _global_" not in file.read_text("utf8").partition("\n")[0]:
        return
    recipe = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(recipe, dict)
    for default in recipe.pop("defaults", []):
        for name in default if isinstance(default, dict) else ():
            if name.startswith("override /"):
                yield name.removeprefix("override /")
    yield from _leaves(recipe)


def _leaves(tree: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
