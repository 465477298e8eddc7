"""Hydra composition: one configuration from conf/, the user's own folders, and overrides."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

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


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


# ${asset:NAME} is the path of an embedded asset, ${fresh:FOLDER} a folder that does not exist yet. Registered here, so
# that they are known wherever a configuration is read, in the processes of a launcher, too.
OmegaConf.register_new_resolver("asset", _asset, replace=True)
OmegaConf.register_new_resolver("fresh", fresh, use_cache=True, replace=True)
OmegaConf.register_new_resolver("now", _now, use_cache=True, replace=True)


def know_places() -> None:
    """Registers the user's folders with Hydra."""
    Plugins.instance().register(_Further)


def compose(overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration that the overrides compose to, and the option chosen in every group.

    Raises hydra.errors.HydraException where the overrides do not compose.
    """
    know_places()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(Places.main), job_name="train", version_base="1.3"):
        try:
            cfg = hydra_compose(Places.name, overrides, return_hydra_config=True)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:  # Hydra's own bugs with unusual values
            raise ConfigCompositionException(f"the overrides do not compose: {' '.join(overrides)}") from error
    choices = choices_of(cfg.hydra)
    HydraConfig.instance().set_config(cfg)
    del cfg._content["hydra"]  # type: ignore[union-attr]  # what is left is ours
    return cfg, choices


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


def group_options() -> dict[str, list[str]]:
    """Every group with its options, by name."""
    groups: dict[str, list[str]] = {}
    for group, file in sorted(Places.files("**/*.yaml")):
        if group != "." and group.split("/")[0] != "hydra":
            groups.setdefault(group, []).append(file.stem)
    return groups


def option_file(group: str, option: str) -> Path | None:
    """The YAML of a group's option."""
    return next((file for _, file in Places.files(f"{group}/{option}.yaml")), None)
