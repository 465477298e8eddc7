"""Hydra's flags: read by Hydra's own parser, checked before Hydra acts on them."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from loralab.errors import Problem, UserError
from loralab.schema.compose import CONF, Places

Flags = dict[str, Any]
"""The flags that were given, by name: {"multirun": True, "cfg": "job"}."""

DRY_RUN = "--dry-run"
"""The one flag that is not Hydra's: shows what would be trained."""
COMMANDS = ("run", "multirun", "cfg", "info", "shell_completion")
"""Commands, of which only one can be given; except that --multirun can be combined with --cfg."""
OF_PLACES = ("config_path", "config_name", "config_dir")


def split(argv: list[str]) -> tuple[Flags, list[str]]:
    """Hydra's flags and the overrides, in any order. Exits with the usage at an unknown flag, and at --version."""
    given = vars(get_args_parser().parse_intermixed_args([word for word in argv if word != DRY_RUN]))
    overrides = given.pop("overrides")
    given["dry_run"] = DRY_RUN in argv
    return {name: value for name, value in given.items() if value not in (None, False)}, overrides


def spelt(flags: Flags) -> list[str]:
    """The flags as words of a command line."""
    given = ((_flag(name), value) for name, value in flags.items() if value is not None)
    return [word for flag, value in given for word in ([flag] if value is True else [flag, value])]


def add_places(parser: ArgumentParser) -> None:
    """The flags about folders of configuration files, for the tools that take settings as train.py does."""
    for name, words in zip(
        OF_PLACES, ("in place of conf/", "in place of train.yaml", "in addition to conf/"), strict=True
    ):
        what = "configuration file" if name == "config_name" else "folder of configuration files"
        parser.add_argument(_flag(name), metavar="NAME" if name == "config_name" else "FOLDER", help=f"{what} {words}")


def use_places_of(args: Namespace) -> None:
    """Uses the folders of parsed `add_places` and `overrides`. Raises a UserError for those that are not found."""
    flags = {name: value for name in OF_PLACES if (value := getattr(args, name)) is not None}
    check(flags, args.overrides)
    use_places(flags, args.overrides)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check(flags: Flags, overrides: list[str]) -> None:
    """Raises a UserError for flags that contradict each other, or that name a folder that is not found."""
    if problems := list(_problems(flags, overrides)):
        raise UserError(*problems)


def _problems(flags: Flags, overrides: list[str]) -> Iterator[Problem]:
    if "experimental_rerun" in flags and (more := [*spelt({**flags, "experimental_rerun": None}), *overrides]):
        found = f"reads all settings from its file: {' '.join(more)} has no effect"
        yield Problem("--experimental-rerun", found, "remove the other arguments")
    commands = [name for name in COMMANDS if name in flags]
    if len(commands) > 1 and commands != ["multirun", "cfg"]:
        first, *others = map(_flag, commands)
        yield Problem(first, f"cannot be combined with {' and '.join(others)}", "keep one of them")
    others = [name for name in COMMANDS if name in flags and name not in ("run", "multirun")]
    if "dry_run" in flags and others:
        yield Problem(DRY_RUN, f"cannot be combined with {_flag(others[0])}", "keep one of them")
    for name in ("resolve", "package"):
        if name in flags and "cfg" not in flags and "help" not in flags:
            yield Problem(_flag(name), "has no effect without --cfg", "add --cfg job")
    if "shell_completion" in flags:
        commands = [o for o in overrides if o.partition("=")[0] in ("install", "uninstall", "query")]
        if len(commands) != 1 or (commands[0].startswith("query=") and "COMP_LINE" not in os.environ):
            yield Problem("--shell-completion", "needs one command", "add install=bash, install=zsh or install=fish")
    for place in _searchpath(overrides):
        if not _folder(place).is_dir():
            yield Problem("hydra.searchpath", f"folder '{place}' not found", "give folders: [file:///PATH, pkg://NAME]")
    for name in ("config_path", "config_dir"):
        if name in flags and not Path(flags[name]).expanduser().is_dir():
            found = f"folder '{flags[name]}' not found"
            yield Problem(_flag(name), found, f"a relative path starts at {Path.cwd()}")


def use_places(flags: Flags, overrides: list[str]) -> None:
    """From now on composes from the folders and the file that flags, `hydra.searchpath` and the working folder give.

    Raises a UserError where the file is in none of the folders.
    """
    main = Path(flags.get("config_path", CONF)).expanduser().resolve()
    name = flags.get("config_name", "train").removesuffix(".yaml")
    further = [Path(flags["config_dir"]).expanduser().resolve()] if "config_dir" in flags else []
    further += [place for place in [Path("conf").resolve()] if place.is_dir() and place != CONF]
    further += map(_folder, _searchpath(overrides))
    Places.use(main, name, further)
    primary = next((file for _, file in Places.files(f"{name}.yaml")), None)
    if primary is None:
        have = ", ".join(file.stem for _, file in Places.files("*.yaml"))
        raise UserError(Problem("--config-name", f"'{name}' not found", f"valid: {have or 'none'}"))
    own = OmegaConf.select(OmegaConf.load(primary), "hydra.searchpath", default=[])
    Places.use(main, name, [*further, *map(_folder, own or [])])


def _searchpath(overrides: list[str]) -> list[str]:
    """The value of `hydra.searchpath=[…]`, where it is given and can be parsed."""
    for override in overrides:
        if override.lstrip("+").startswith("hydra.searchpath="):
            try:
                value: Any = OverridesParser.create().parse_overrides([override])[0].value()
            except HydraException:
                return []  # reported when all overrides are parsed
            return [str(getattr(part, "text", part)) for part in value] if isinstance(value, list) else []
    return []


def _folder(place: str) -> Path:
    """The folder of an entry of Hydra's search path: file://FOLDER, pkg://PACKAGE or a plain path."""
    if place.startswith("pkg://"):
        return Path(*_package(place.removeprefix("pkg://")))
    return Path(place.removeprefix("file://")).expanduser().resolve()


def _package(name: str) -> list[str]:
    from importlib.util import find_spec

    try:
        spec = find_spec(name.replace("/", "."))
    except ModuleNotFoundError:
        spec = None
    places = spec.submodule_search_locations if spec else None
    return list(places or [name])[:1]
