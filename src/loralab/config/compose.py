"""Hydra composition: conf/ and overrides make one configuration."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE.parents[1] / "conf"


def _asset(name: str) -> str:
    return str(PACKAGE / "assets" / name)


def _fresh(folder: str) -> str:
    """The folder, or the first of folder-2, folder-3 … that is not there: a run never writes into another's folder."""
    fresh, count = Path(folder), 1
    while fresh.exists():
        count += 1
        fresh = Path(f"{folder}-{count}")
    return str(fresh)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def register_resolvers() -> None:
    """${asset:NAME} is a path of an embedded asset; ${fresh:FOLDER} a folder that is not there yet."""
    OmegaConf.register_new_resolver("asset", _asset, replace=True)
    OmegaConf.register_new_resolver("fresh", _fresh, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("now", _now, use_cache=True, replace=True)


def compose(overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration that the overrides compose to, and the choice made in every group.

    Raises hydra.errors.HydraException where the overrides do not compose.
    """
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), job_name="train", version_base="1.3"):
        cfg = hydra_compose("train", overrides, return_hydra_config=True)
    choices = choices_of(cfg.hydra)
    HydraConfig.instance().set_config(cfg)
    del cfg._content["hydra"]  # type: ignore[union-attr]  # what is left is ours
    return cfg, choices


def choices_of(hydra: Any) -> dict[str, Any]:
    """The option chosen in every group of ours, of a configuration's `hydra` node."""
    return {group: option for group, option in hydra.runtime.choices.items() if not group.startswith("hydra/")}


def values(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def group_options() -> dict[str, list[str]]:
    """Every group of conf/ with its options, by name."""
    groups: dict[str, list[str]] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        group = file.parent.relative_to(CONF).as_posix()
        if group != "." and group.split("/")[0] != "hydra":
            groups.setdefault(group, []).append(file.stem)
    return groups
