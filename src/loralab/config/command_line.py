"""From the command line to checked overrides: `prepare` is what stands between a user's typing and Hydra."""

from __future__ import annotations

from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig

from loralab.config.check import Check
from loralab.config.compose import compose
from loralab.config.overrides import composition_problem, first_point, parse, problems_of
from loralab.errors import UserError
from loralab.settings.expand import expand

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


def prepare(overrides: list[str]) -> tuple[list[str], list[str]]:
    """The overrides as Hydra will see them — a settings file expanded, steps and epochs told apart — and warnings.

    Raises a UserError that lists everything wrong with them.
    """
    parsed, problems = parse(overrides)
    problems += problems_of(parsed) if not problems else []
    if problems:
        raise UserError(*problems)
    overrides, warnings = expand(overrides)
    overrides = _one_length(overrides)
    checked(first_point(parse(overrides)[0]))
    return overrides, warnings


def checked(overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
    """The composed configuration and the choices made; a UserError lists all that is wrong with it."""
    try:
        cfg, choices = compose(overrides)
    except HydraException as error:
        raise UserError(composition_problem(error)) from error
    if problems := Check(cfg, choices, overrides).problems:
        raise UserError(*problems)
    return cfg, choices


def _one_length(overrides: list[str]) -> list[str]:
    """Steps or epochs: the one given clears the other, so that a file's or a demo's length does not win silently."""
    given = {o.split("=")[0] for o in overrides}
    steps, epochs = "trainer.max_steps" in given, "trainer.max_epochs" in given
    return [*overrides, "trainer.max_steps=null"] if epochs and not steps else overrides
