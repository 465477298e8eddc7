"""A settings file expanded to overrides before Hydra composes: conf defaults < the file < the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from loralab.errors import Problem, user_error
from loralab.importers import content as contents
from loralab.schema.settings import Settings, written
from loralab.schema.tree import leaves

if TYPE_CHECKING:
    from loralab.importers.conversion import Converted

MEANT = {"data": "folder"}
"""The options that a file's values are for, where it chooses none: a preset sets how to train, not the images."""

LOAD, SKIP = "settings.load", "settings.skip"


class Expanded(NamedTuple):
    """Overrides, preceded by those of a settings file."""

    overrides: list[str]
    told: list[str]
    """Notes for the user."""
    origins: dict[str, str]
    """Group or key → where the file sets it."""
    problems: list[Problem]
    """Invalid values in the file."""


def expand(overrides: list[str]) -> Expanded:
    """The overrides, preceded by those of the settings file that they name.

    A group or key on the command line replaces the file's; the file's other settings of that group stay, where the
    option has them. Raises a UserError where the file cannot be read.
    """
    path = value_of(overrides, LOAD)
    if path is None:
        return Expanded(overrides, [], {}, [])
    skip = value_of(overrides, SKIP) or []
    if not isinstance(path, str) or not isinstance(skip, list):
        wrong = (LOAD, path) if not isinstance(path, str) else (SKIP, skip)
        raise user_error(
            wrong[0], f"invalid value {wrong[1]!r}", "give one file, or a list of names: settings.skip=[net_dim,alpha]"
        )
    from loralab.importers.conversion import converted  # of all dialects: only where there is a file

    given = _given(overrides)
    file = converted(contents.read(path), list(map(str, skip)), given)
    told = list(_told(file))
    settings = file.settings
    for group, option in given.choices.items():
        told += _yield_to_group(file, group, option)
    for key, value in given.values.items():
        settings.without(key, rivals=value is not None)
    left = {key: place for key, place in file.origins.items() if key in settings.choices or key in settings.values}
    problems = [*file.problems, *_unsupported(file, given)]
    return Expanded([*settings.lines(), *overrides], told, left, problems)


def _yield_to_group(file: Converted, group: str, option: Any) -> Iterator[str]:
    """Replaces a group of the file by that of the command line; yields a note on the settings that are lost."""
    settings, options = file.settings, option if isinstance(option, list) else [str(option)]
    before = settings.choices.pop(group, None)
    if (before or MEANT.get(group)) == option:
        return
    gone = [line for name in list(settings.choices) if name.startswith(f"{group}/") for line in settings.without(name)]
    assumed = {name for name in file.origins if name not in file.said}
    gone += [f"{group}={before}"] if before and group not in assumed else []
    prefix = f"{group.replace('/', '.')}."
    for key in [key for key in settings.values if key.startswith(prefix)]:
        if not any(_stays(file, group, before, name, key.removeprefix(prefix)) for name in options):
            value = settings.values.pop(key)
            gone += [] if key in assumed else [f"{key}={written(value)}"]
    if gone:
        yield f"{group}={written(option)} replaces the file's {', '.join(gone)}"


def _stays(file: Converted, group: str, before: Any, option: str, rest: str) -> bool:
    """Whether a file's value stays valid with the option that the command line chooses in a group. It does where the
    option has the setting, unless the option itself changes an inherited value or is about embedded files. A default
    of the file's dialect about images does not stay; a value of our own files stays where both options start alike."""
    from loralab.importers.rules.groups import settings_of, values_of, yaml_of
    from loralab.schema.compose import BASE

    if rest.partition(".")[0] not in settings_of(group, option):
        return False
    key = f"{group.replace('/', '.')}.{rest}"
    node = yaml_of(group, option)
    own = dict(leaves(node.get(group, node)))
    parents = [d for d in node.get("defaults", ()) if isinstance(d, str) and d not in ("_self_", BASE)]
    changes = any(rest in settings_of(group, parent) for parent in parents) and "${" not in str(own.get(rest))
    if rest in own and (changes or str(own[rest]).startswith("${asset:")):
        return False
    if key not in file.origins:
        return values_of(group, str(before)).get(rest) == values_of(group, option).get(rest)
    return key in file.said or not group.startswith("data")


def value_of(overrides: list[str], key: str) -> Any:
    """The value that the overrides give a key, None where they give none. Raises a UserError for a sweep."""
    text = next((o for o in reversed(overrides) if o.lstrip("+").partition("=")[0] == key), None)
    if text is None:
        return None
    value, sweep = _value(text)
    if sweep:
        raise user_error(key, "takes one value, not several", "train several files with settings.run_folder=FOLDER")
    return value


def _value(override: str) -> tuple[Any, bool]:
    """The value of an override, the first where it is a sweep; and whether it is one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides([override])[0]
    if not parsed.is_sweep_override():
        return _plain(parsed.value()), False
    return None if parsed.is_interval_sweep() else _value(f"x={next(parsed.sweep_string_iterator())}")[0], True


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return getattr(value, "text", value)  # quoted text


def _given(overrides: list[str]) -> Settings:
    """The settings of the command line, including those of its recipes (`experiment=…`, `debug=…`)."""
    from loralab.schema.compose import group_options

    groups, choices, values = group_options(), dict[str, Any](), dict[str, Any]()
    for text in overrides:
        name = text.lstrip("+~").partition("=")[0].partition("@")[0]
        if name in (LOAD, SKIP):
            continue
        value = _value(text)[0] if "=" in text else None
        if name not in groups:
            values[name] = value
            continue
        choices[name] = value
        for key, inner in _set_by(name, value):
            (choices if key in groups else values).setdefault(key, inner)
    return Settings(choices, values)


def _set_by(group: str, option: Any) -> Iterator[tuple[str, Any]]:
    """What a recipe sets anywhere in the configuration: it counts as part of the command line."""
    from loralab.importers.rules.groups import yaml_of
    from loralab.schema.compose import option_file

    file = option_file(group, str(option))
    if file is None or "@package _global_" not in file.read_text("utf8").partition("\n")[0]:
        return
    recipe = dict(yaml_of(group, str(option)))
    for default in recipe.pop("defaults", []):
        for name, chosen in default.items() if isinstance(default, dict) else ():
            if name.startswith("override /"):
                yield name.removeprefix("override /"), chosen
    yield from ((key, value) for key, value in leaves(recipe) if not key.startswith(f"{group}."))


def _unsupported(file: Converted, given: Settings) -> Iterator[Problem]:
    """Problems of choices in the file that are not supported, unless the command line replaces them."""
    for left in file.not_applicable:
        if left.group and left.group not in given.choices:
            remedy = f"choose a replacement: {left.group}=…"
            name = left.file or file.path.name
            yield Problem(f"{left.key} (in {name})", f"{left.value!r:.80}: {left.why}", remedy)


def _told(file: Converted) -> Iterator[str]:
    yield file.report()
    for left in file.not_applicable:
        if left.is_on:
            yield f"{left.file or file.path.name} · {left}"
    for warning in file.warnings:
        yield f"{file.path.name} {warning}"
