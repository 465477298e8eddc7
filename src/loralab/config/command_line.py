"""From the command line to checked overrides: `prepare` is what stands between a user's typing and Hydra."""

from __future__ import annotations

from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from loralab.config.check import Check
from loralab.config.compose import compose, values
from loralab.config.device_rules import device_notes
from loralab.config.origin import NOWHERE, Origins
from loralab.config.overrides import (
    composition_problem,
    first_point,
    later_values,
    parse,
    several_values,
    with_keys,
    with_options,
)
from loralab.config.place_rules import place_notes
from loralab.config.trusted import hydra_problems
from loralab.errors import Problem, UserError
from loralab.settings.expand import expand

SWEEP = frozenset(("-m", "--multirun"))
FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--config-dir", "-cd", "--config-name", "-cn")


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags (with their values) and the overrides."""
    flags, overrides = [], []
    rest = iter(argv)
    for word in rest:
        if word in FLAGS_WITH_VALUE:
            flags += [word, next(rest, "")]
        else:
            (flags if word.startswith("-") else overrides).append(word)
    return flags, overrides


def sweeps(flags: list[str], overrides: list[str]) -> bool:
    """Whether several values of a setting are asked to be a run each."""
    return bool(SWEEP & set(flags)) or any(o.startswith(("sweep=", "hydra.mode=")) for o in overrides)


class Prepared(NamedTuple):
    """Checked overrides."""

    overrides: list[str]
    """As Hydra will see them: a settings file expanded, steps and epochs told apart."""
    warnings: list[str]
    origins: dict[str, str]
    """Where a settings file has the groups and keys that come from it."""
    cfg: DictConfig
    """What they compose to: of a sweep, its first point."""
    choices: dict[str, Any]
    """The option of each group."""


def prepare(overrides: list[str], sweep: bool = False) -> Prepared:
    """Looks through what a user typed, and at all that it composes to.

    sweep: whether several values are a run for each. Raises a UserError that lists everything wrong with them.
    """
    parsed, problems = parse(overrides)
    good, misnamed = with_options(parsed)
    problems += misnamed
    problems += [] if sweep else several_values(good)
    try:
        expanded, warnings, origins, wrong = expand([o.input_line or "" for o in good])
        problems += wrong
        expanded = _own_images(_one_length(expanded))
        cfg, choices = checked(first_point(parse(expanded)[0]), origins)
        problems += _of_later_points(good, cfg, choices)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(*problems)
    tree = values(cfg)
    return Prepared(expanded, [*warnings, *device_notes(tree), *place_notes(tree)], origins, cfg, choices)


def _of_later_points(parsed: list[Override], cfg: DictConfig, choices: dict[str, Any]) -> list[Problem]:
    """What is wrong with the other values of a sweep, each in the place of the first."""
    problems: list[Problem] = []
    for key, value in later_values(parsed):
        point = cfg.copy()
        OmegaConf.update(point, key, value)
        others = [o.input_line or "" for o in parsed if o.get_key_element() != key]
        problems += Check(point, choices, [*others, f"{key}={value}"]).problems
    return problems


def checked(overrides: list[str], origins: Origins = NOWHERE) -> tuple[DictConfig, dict[str, Any]]:
    """The composed configuration and the choices made; a UserError lists all that is wrong with it."""
    problems: list[Problem] = []
    try:
        cfg, choices = compose(overrides)
    except HydraException as error:
        cfg, choices, problems = _without_what_is_not_there(overrides, error)
    problems += Check(cfg, choices, overrides, origins).problems
    problems += hydra_problems(OmegaConf.to_container(HydraConfig.instance().cfg.hydra, resolve=False))  # type: ignore[union-attr]
    if problems:
        raise UserError(*problems)
    return cfg, choices


def refuse(cfg: DictConfig, choices: dict[str, Any], overrides: list[str]) -> None:
    """Raises a UserError for all that is wrong with a configuration, where anything is."""
    if problems := Check(cfg, choices, overrides).problems:
        raise UserError(*problems)


def _without_what_is_not_there(overrides: list[str], error: HydraException) -> Any:
    """What the overrides compose to without those of keys that do not exist, and a problem for each of these."""
    try:
        good, problems = with_keys(parse(overrides)[0])
        composed = compose([o.input_line or "" for o in good])
    except HydraException as other:
        raise UserError(composition_problem(other)) from other
    if not problems:
        raise UserError(composition_problem(error)) from error
    return *composed, problems


def _own_images(overrides: list[str]) -> list[str]:
    """`data.folder=PATH` alone will do: whoever names a folder does not mean the embedded images."""
    given = {key.lstrip("+"): value for key, _, value in (o.partition("=") for o in overrides)}
    names = [key for key, value in given.items() if key.startswith("data.folder") and value != "null"]
    return ["data=folder", *overrides] if names and "data" not in given else overrides


def _one_length(overrides: list[str]) -> list[str]:
    """Steps or epochs: the one given clears the other, so that a file's or a demo's length does not win silently."""
    given = {o.split("=")[0] for o in overrides}
    steps, epochs = "trainer.max_steps" in given, "trainer.max_epochs" in given
    return [*overrides, "trainer.max_steps=null"] if epochs and not steps else overrides
