"""Hydra composition: one configuration from conf/, the user's own folders, and overrides."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf, open_dict

from loralab.schema.automatic import AUTO
from loralab.schema.renamed import RENAMED, current, current_target, note
from loralab.schema.tree import plain_values

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next((place for place in [PACKAGE / "conf"] if place.is_dir()), PACKAGE.parents[1] / "conf")
"""Inside the package when installed; at the top of a clone otherwise."""

OPTIONAL = frozenset(("experiment", "sweep", "debug", "logger"))
"""Groups in which no option needs to be chosen."""


class Places:
    """Where configuration files are looked for, in this order. Process-wide, like Hydra's own state."""

    main: Path = CONF
    """--config-path"""
    name: str = "train"
    """--config-name: the primary configuration file."""
    further: tuple[Path, ...] = ()
    """--config-dir, a conf/ in the working folder, hydra.searchpath."""

    @classmethod
    def use(cls, main: Path = CONF, name: str = "train", further: Iterable[Path] = ()) -> None:
        cls.main, cls.name = main, name
        cls.further = tuple(folder for folder in dict.fromkeys(further) if folder != main)

    @classmethod
    def files(cls, pattern: str) -> Iterator[tuple[str, Path]]:
        """(group, file) for each file that matches the pattern, in any of the folders; the first of a name counts."""
        seen: set[Path] = set()
        for folder in (cls.main, *cls.further):
            for file in sorted(folder.glob(pattern)):
                inside = file.relative_to(folder)
                if inside not in seen:
                    seen.add(inside)
                    yield inside.parent.as_posix(), file


class _Further(SearchPathPlugin):
    """Adds the user's own folders to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in Places.further:
            search_path.append("user", f"file://{folder}")


def _asset(name: str) -> str:
    return str(PACKAGE / "assets" / name)


def fresh(folder: str) -> str:
    """The folder, or the first of folder-2, folder-3 … that does not exist: runs never share a folder."""
    fresh, count = Path(folder), 1
    while fresh.exists():
        count += 1
        fresh = Path(f"{folder}-{count}")
    return str(fresh)


def _suffix(name: Any) -> str:
    return "" if name is None else f"-{name}"


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _auto(key: str, *, _root_: DictConfig) -> Any:
    return AUTO[key](_root_)


# ${auto:KEY} is what `auto` stands for in a setting (see automatic).
# ${asset:NAME} is the path of an embedded asset, ${fresh:FOLDER} a folder that does not exist yet, ${suffix:NAME} is
# -NAME, or nothing for null. Registered here, so that they are known wherever a configuration is read, in the processes
# of a launcher, too.
OmegaConf.register_new_resolver("auto", _auto, replace=True)
OmegaConf.register_new_resolver("asset", _asset, replace=True)
OmegaConf.register_new_resolver("fresh", fresh, use_cache=True, replace=True)
OmegaConf.register_new_resolver("suffix", _suffix, replace=True)
OmegaConf.register_new_resolver("now", _now, use_cache=True, replace=True)


def know_places() -> None:
    """Registers the user's folders with Hydra."""
    Plugins.instance().register(_Further)


@dataclass(frozen=True)
class Composed:
    """A composed configuration."""

    cfg: DictConfig
    """With the `hydra` node, as Hydra runs it."""
    overrides: list[str]
    files: list[tuple[Path, str]]
    """The YAML files that it was composed of with the package of each, a later one over the earlier ones."""
    notes: tuple[str, ...] = ()
    """On old names in these files."""

    @property
    def choices(self) -> dict[str, Any]:
        """The option chosen in each group."""
        return choices_of(self.cfg.hydra)

    @cached_property
    def tree(self) -> dict[str, Any]:
        """Our settings as plain values, interpolations resolved.

        Raises omegaconf.errors.OmegaConfBaseException where one cannot be resolved.
        """
        return values(without_hydra(self.cfg))


class Loader(ConfigLoaderImpl):
    """Hydra's loader, which remembers the files of the configuration composed last."""

    files: list[tuple[Path, str]]
    notes: list[str]

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        cfg = super().load_configuration(config_name, [*map(current, overrides)], *args, **kwargs)
        follow(cfg)
        return cfg

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        self.files = _files(defaults)
        cfg = super()._compose_config_from_defaults_list(defaults, repo)
        self.notes = rename(cfg)
        return cfg


def follow(cfg: DictConfig) -> None:
    """Has each `auto` follow the settings that decide it, whatever they are set to later."""
    for key in AUTO:
        if OmegaConf.select(cfg, key, throw_on_resolution_failure=False) == "auto":
            OmegaConf.update(cfg, key, f"${{auto:{key}}}")


def _files(defaults: Iterable[ResultDefault]) -> list[tuple[Path, str]]:
    """Those of the entries of a defaults list that are files of ours, with their packages."""
    named = ((option_file("", str(default.config_path)), default.package or "") for default in defaults)
    return [(file, package) for file, package in named if file is not None]


def rename(cfg: DictConfig) -> list[str]:
    """Moves the values of old keys, as a recipe of the user's may have them, to the keys of today, and sets old targets
    to those of today; returns a note for each."""
    notes = []
    for old, new in RENAMED.items():
        parent, _, name = old.rpartition(".")
        node: Any = OmegaConf.select(cfg, parent)
        if isinstance(node, DictConfig) and name in node:
            OmegaConf.update(cfg, new, node.pop(name))
            notes.append(note(old, new))
    for key, value in plain_values(OmegaConf.to_container(cfg, resolve=False)):
        if (now := current_target(key, value)) != value:
            OmegaConf.update(cfg, key, now)
            notes.append(note(value, now))
    return notes


def loader() -> Loader:
    """A loader for the files of all places."""
    setbase("1.3")
    know_places()
    return Loader(create_config_search_path(str(Places.main)))


def compose(overrides: list[str]) -> Composed:
    """The configuration that the overrides compose to; ${hydra:…} then refers to it.

    Raises hydra.errors.HydraException where the overrides do not compose.
    """
    hydra = Hydra("train", config_loader := loader())
    try:
        cfg = hydra.compose_config(Places.name, overrides, RunMode.RUN, from_shell=False)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:  # Hydra's own bugs with unusual values
        raise ConfigCompositionException(f"the overrides do not compose: {' '.join(overrides)}") from error
    HydraConfig.instance().set_config(cfg)
    return Composed(cfg, overrides, config_loader.files, tuple(config_loader.notes))


def composed_by_hydra(cfg: DictConfig, hydra: Any) -> Composed:
    """The configuration of a run that Hydra has started. cfg: our settings; hydra: its own node."""
    overrides = list(hydra.overrides.task)
    try:
        defaults = loader().compute_defaults_list(Places.name, overrides, RunMode.RUN).defaults
    except HydraException:  # of a run that is repeated from a file: its options may be gone
        defaults = []
    whole = cfg.copy()
    with open_dict(whole):
        whole.hydra = hydra
    return Composed(whole, overrides, _files(defaults))


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Our own settings. Their interpolations cannot refer to the `hydra` node, which a running task does not see."""
    ours = cfg.copy()
    with open_dict(ours):
        ours.pop("hydra", None)
    return ours


def use_sources(hydra: Any) -> None:
    """Uses the folders that a run was composed from: `hydra` is the node of its configuration."""
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    if folders:
        Places.use(folders[0], hydra.job.config_name or Places.name, folders[1:])


def choices_of(hydra: Any) -> dict[str, Any]:
    """The option chosen in every group of ours, of a configuration's `hydra` node."""
    return {group: option for group, option in hydra.runtime.choices.items() if not group.startswith("hydra/")}


def values(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


BASE = "base"
"""The file of a group that its options start from, and no option itself."""


def group_options() -> dict[str, list[str]]:
    """Every group with its options, by name."""
    groups: dict[str, list[str]] = {}
    for group, file in sorted(Places.files("**/*.yaml")):
        if group != "." and group.split("/")[0] != "hydra" and not file.stem.startswith(BASE):
            groups.setdefault(group, []).append(file.stem)
    return groups


def options_of(group: str) -> list[str]:
    """The options of one group; none where it is no group."""
    return group_options().get(group, [])


def option_file(group: str, option: str) -> Path | None:
    """The YAML of a group's option; of the group "" a path below the folders."""
    return next((file for _, file in Places.files(f"{group}/{option}.yaml".lstrip("/"))), None)
