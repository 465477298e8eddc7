"""From the command line to checked overrides: `prepare` checks everything before Hydra runs."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from loralab.checks.check import Check
from loralab.checks.devices import device_notes
from loralab.checks.places import place_notes
from loralab.command import sweep
from loralab.command.overrides import (
    first_point,
    parse,
    plain_value,
    several_values,
    spelt,
    values_of,
    with_keys,
    with_options,
)
from loralab.command.ray_launcher import launcher_problems
from loralab.command.search import search_problems
from loralab.errors import Problem, UserError
from loralab.importers.expand import expand
from loralab.schema.compose import Composed, compose, group_options
from loralab.schema.composition import composition_problem
from loralab.schema.renamed import current, note
from loralab.schema.sources import NOWHERE, Origins
from loralab.schema.trusted import hydra_problems


class Prepared(NamedTuple):
    """Checked overrides."""

    overrides: list[str]
    """As Hydra receives them: with the settings file expanded, and either steps or epochs."""
    warnings: list[str]
    origins: dict[str, str]
    """Group or key → where the settings file sets it."""
    composed: Composed
    """The configuration; of a sweep, that of its first point."""
    swept: list[Override] | None
    """The overrides of a sweep, those of hydra.sweeper.params first; None for a single run."""


def prepare(overrides: list[str], multirun: bool = False) -> Prepared:
    """Checks the overrides and the configuration that they compose to.

    multirun: whether a flag asks for a sweep; settings may ask for one, too. Raises a UserError that lists all
    problems.
    """
    renamed = [note(old, new) for old, new in zip(overrides, map(current, overrides), strict=True) if old != new]
    parsed, problems = parse([*map(current, overrides)])
    good, misnamed = with_options(parsed)
    problems += misnamed
    HydraConfig.instance().cfg = None
    swept: list[Override] | None = None
    try:
        expanded, warnings, origins, wrong = expand([*map(spelt, good)])
        problems += wrong
        expanded = _own_images(_one_length(expanded))
        given = parse(expanded)[0]
        composed = checked(first_point(given), origins)
        if multirun or sweep.is_multirun():
            own, unreadable = parse(sweep.parameters())
            problems += unreadable
            swept = list(
                {o.get_key_element(): o for o in [*own, *given]}.values()
            )  # those of the command line take precedence
            composed = checked(first_point(swept), origins) if own else composed
            problems += [*sweep.problems(swept), *_of_later_points(swept, composed)]
            problems += launcher_problems(HydraConfig.get().launcher)
            if sweep.is_search():
                problems += search_problems(HydraConfig.get().sweeper, composed.tree)
    except UserError as error:
        problems += error.problems
    if not (multirun or sweep.is_multirun()):
        several = several_values(good, lambda text: _fits(text, good))
        problems = [p for p in problems if p.setting not in {s.setting for s in several}] + several
    if problems:
        raise UserError(*problems)
    notes = [*renamed, *composed.notes, *warnings, *device_notes(composed.tree), *place_notes(composed.tree)]
    return Prepared(expanded, notes, origins, composed, swept)


def _fits(override: str, others: list[Override]) -> bool:
    """Whether an override is valid when it replaces the others of its key."""
    (o,), wrong = parse([override])
    if wrong or with_options([o])[1]:
        return False
    given = [other for other in others if other.get_key_element() != o.get_key_element()]
    try:
        composed = compose([*first_point(given), override])
    except HydraException:
        return False
    found = Check(composed, here=False).problems
    return not any(p.setting == o.key_or_group or p.setting.startswith(f"{o.key_or_group}.") for p in found)


def _of_later_points(given: list[Override], composed: Composed) -> list[Problem]:
    """Problems of the further values of a sweep, each tried in place of the first."""
    problems: list[Problem] = []
    first, groups = first_point(given), group_options()
    for place, override in enumerate(given):
        texts = values_of(override)[1:] if override.is_sweep_override() else []
        for text in [*texts[:10], *texts[10:][-10:]]:  # of a long range both ends
            changed = f"{override.get_key_element()}={text}"
            overrides = [*first[:place], changed, *first[place + 1 :]]
            if override.key_or_group in groups:
                point = compose(overrides)
            else:
                point = replace(composed, cfg=composed.cfg.copy(), overrides=overrides)
                OmegaConf.update(point.cfg, override.key_or_group, plain_value(changed))
            problems += Check(point).problems
    return problems


def checked(overrides: list[str], origins: Origins = NOWHERE) -> Composed:
    """The composed configuration. Raises a UserError that lists all problems."""
    problems: list[Problem] = []
    try:
        composed = compose(overrides)
    except HydraException as error:
        composed, problems = _drop_unknown_keys(overrides, error)
    problems += Check(composed, origins).problems
    problems += hydra_problems(OmegaConf.to_container(composed.cfg.hydra, resolve=False))
    if problems:
        raise UserError(*problems)
    return composed


def refuse(composed: Composed) -> None:
    """Raises a UserError that lists all problems of a configuration, if there are any."""
    if problems := Check(composed).problems:
        raise UserError(*problems)


def _drop_unknown_keys(overrides: list[str], error: HydraException) -> tuple[Composed, list[Problem]]:
    """The configuration composed without the overrides of unknown keys, and a problem for each of those."""
    try:
        good, problems, of_groups = with_keys(parse(overrides)[0])
        words = [o.input_line or "" for o in good]
        composed = of_groups if words == of_groups.overrides else compose(words)  # which takes a while
    except HydraException as other:
        raise UserError(composition_problem(other)) from other
    if not problems:
        raise UserError(composition_problem(error)) from error
    return composed, problems


def _own_images(overrides: list[str]) -> list[str]:
    """`data.folder=PATH` alone is enough: it implies data=folder in place of the embedded images."""
    given = {key.lstrip("+"): value for key, _, value in (o.partition("=") for o in overrides)}
    names = [key for key, value in given.items() if key.startswith("data.folder") and value != "null"]
    return ["data=folder", *overrides] if names and "data" not in given else overrides


def _one_length(overrides: list[str]) -> list[str]:
    """Epochs given without steps clear the steps, so that those of a file or of the demo do not win silently."""
    given = {o.split("=")[0] for o in overrides}
    steps, epochs = "trainer.max_steps" in given, "trainer.max_epochs" in given
    return [*overrides, "trainer.max_steps=null"] if epochs and not steps else overrides
