"""Overrides of the command line, checked before Hydra reads them: misspelt, repeated and invalid ones."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import HydraException

from loralab.errors import Problem
from loralab.schema.compose import OPTIONAL, Composed, compose, group_options, option_file
from loralab.schema.elsewhere import remedy_for
from loralab.schema.nearest import did_you_mean, nearest
from loralab.schema.quoting import as_text, to_paste
from loralab.schema.renamed import RENAMED
from loralab.schema.sources import raw
from loralab.schema.tree import exists, get, nodes_and_leaves

CALL = re.compile(r"(?!.*Unknown function)^\w+ while evaluating '.*': (.*)$", re.MULTILINE)
"""Hydra's error about a wrong call of a function of its grammar."""

SWEEPS = "for a sweep: key=a,b,null or key=choice(a,b) or key=range(START,STOP,STEP)"
MOST = 10_000
"""Most runs of a sweep."""


class _Options:
    """Gives Hydra's parser the options that a glob() chooses from."""

    def get_group_options(self, group: str, **_: Any) -> list[str]:
        return group_options().get(group, [])


def parse(overrides: list[str]) -> tuple[list[Override], list[Problem]]:
    """The parsed overrides, and a problem for each that cannot be parsed. In its place stands what seems to be meant,
    so that the problem does not cause others."""
    parser = OverridesParser.create(config_loader=_Options())  # type: ignore[arg-type]
    parsed, problems = [], []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            remedy = "write key=value; quote text with spaces, commas, = or brackets: 'key=\"a, b\"'"
            if call := CALL.search(str(error)):
                key, _, value = text.partition("=")
                why = "wrong type of argument" if call[1].startswith("mismatch type") else call[1]
                problems.append(Problem(key.lstrip("+"), f"'{value}' cannot be evaluated: {why}", SWEEPS))
                continue
            if meant := as_text(text):
                remedy = f"the value needs quotes: {to_paste(meant.input_line or '')}"
                parsed.append(meant)
            problems.append(Problem(text or "''", "is not a valid override", remedy))
    nameless = [o for o in parsed if not o.key_or_group]
    problems += [Problem(o.input_line or "", "has no key", "write key=value") for o in nameless]
    return [o for o in parsed if o.key_or_group], problems


def values_of(sweep: Override) -> list[str]:
    """The values of a sweep, as written after `=`; of an interval its ends."""
    if sweep.is_interval_sweep():
        return [str(sweep.value().start), str(sweep.value().end)]  # type: ignore[union-attr]
    return list(sweep.sweep_string_iterator())


def first_point(parsed: Iterable[Override]) -> list[str]:
    """The overrides with each sweep replaced by its first value: one point of the sweep."""
    return [f"{o.get_key_element()}={values_of(o)[0]}" if o.is_sweep_override() else o.input_line or "" for o in parsed]


def several_values(parsed: Iterable[Override], fits: Callable[[str], bool]) -> list[Problem]:
    """A problem for each override that is a sweep; fits: whether an override has a valid value."""
    return [
        Problem(
            o.key_or_group, f"has several values (given as {o.input_line})", _of_one_value(o.input_line or "", fits)
        )
        for o in parsed
        if o.is_sweep_override()
    ]


def _of_one_value(override: str, fits: Callable[[str], bool]) -> str:
    key, _, values = override.partition("=")
    meant = as_text(override)
    others = {"as a list": f"{key}=[{values}]", "as text": (meant and meant.input_line) or ""}
    instead = [f"; {how}: {to_paste(other)}" for how, other in others.items() if other and fits(other)]
    return "add -m for one run per value" + "".join(instead)


def spelt(override: Override) -> str:
    """The override as Hydra accepts it: an optional group is switched off by an empty list, not by null."""
    if override.key_or_group not in OPTIONAL or override.is_delete():
        return override.input_line or ""
    if override.is_sweep_override():
        options = ",".join("[]" if value == "null" else value for value in values_of(override))
        return f"{override.get_key_element()}=choice({options})"
    return f"{override.key_or_group}=[]" if override.value() is None else override.input_line or ""


def plain_value(override: str) -> Any:
    """The value of an override, without quotes."""
    value: Any = parse([override])[0][0].value()
    return getattr(value, "text", value)


def with_options(parsed: list[Override]) -> tuple[list[Override], list[Problem]]:
    """The overrides without repeated ones and without groups whose option does not exist; and a problem for each."""
    groups = group_options()
    good: list[Override] = []
    problems: list[Problem] = []
    given: dict[str, Override] = {}
    wrong: set[str] = set()
    for o in parsed:
        name = o.get_key_element().lstrip("+~")
        if name in given and not o.is_hydra_override():
            twice = f"defined twice: {given[name].input_line} and {o.input_line}"
            problems.append(Problem(name, twice, "keep one of them"))
        elif empty := _no_match(o, groups):
            problems.append(empty)
            wrong.add(o.key_or_group)
        elif o.key_or_group in groups and (found := list(_bad_options(o, groups))):
            problems += found
            wrong.add(o.key_or_group)
        else:
            good.append(o)
        given[name] = o
    return [o for o in good if wrong.isdisjoint(_groups_above(o.key_or_group))], problems


def with_keys(parsed: list[Override]) -> tuple[list[Override], list[Problem], Composed]:
    """The overrides whose keys exist in the chosen groups and can have the given value, and a problem for each of the
    others; and the configuration of the chosen groups alone.

    Raises hydra.errors.HydraException where the groups themselves do not compose.
    """
    groups = group_options()
    chosen = [o for o in parsed if o.key_or_group in groups or o.is_hydra_override()]
    of_groups = compose(first_point(chosen))
    tree = of_groups.tree
    keys = [o for o in parsed if o not in chosen]
    bad = {id(o): p for o in keys if (p := _bad_key(o, tree, groups))}
    bad = bad or {id(o): p for o in keys if (p := _bad_merge(o, chosen, tree))}
    return [o for o in parsed if id(o) not in bad], list(bad.values()), of_groups


def _bad_merge(override: Override, chosen: list[Override], tree: dict[str, Any]) -> Problem | None:
    """A problem where an override of an existing key does not compose: a mapping in place of a list, say."""
    key = override.key_or_group
    try:
        compose(first_point([*chosen, override]))
    except HydraException:
        valid, value = get(tree, key), override.value()
        if isinstance(valid, dict) and isinstance(value, dict):
            for name in (str(name) for name in value if str(name) not in valid):
                return Problem(f"{key}.{name}", "unknown setting", nearest_key(f"{key}.{name}", tree, {}))
        remedy = f"valid: a value like {valid}" if exists(tree, key) else "see python train.py --help"
        return Problem(key, f"invalid value (given as {override.input_line})", remedy)
    return None


def _groups_above(key: str) -> Iterator[str]:
    """A key itself and the groups that it may belong to: a/b.c gives a, a/b, a/b/c."""
    parts = key.replace(".", "/").split("/")
    return ("/".join(parts[: i + 1]) for i in range(len(parts)))


def _bad_options(override: Override, groups: dict[str, list[str]]) -> Iterator[Problem]:
    group, options = override.key_or_group, groups[override.key_or_group]
    chosen: list[Any] = [override.value()]
    if override.is_sweep_override():
        chosen = [plain_value(f"{group}={text}") for text in values_of(override)]
    for several in (option for option in chosen if isinstance(option, list)):
        if any(_is_one_node(group, str(option)) for option in several):
            found = f"takes one option, not a list (given as {override.input_line})"
            yield Problem(group, found, f"{group}={several[0]}")
            return
    chosen = [part for option in chosen for part in (option if isinstance(option, list) else [option])]
    for option in chosen:
        if option is None and group in OPTIONAL:
            continue
        if str(option) not in options and not override.is_delete():
            found = "cannot be null" if option is None else f"has no option '{option}'"
            near = "" if option is None else did_you_mean(str(option), options)
            if group == "data" and not near and os.path.isdir(os.path.expanduser(str(option))):
                near = f"did you mean data.folder={option}?"
            yield Problem(group, found, near or _menu(options))


def _is_one_node(group: str, option: str) -> bool:
    """Whether an option is the whole node of its group, so that it cannot be combined with another."""
    file = option_file(group, option)
    inherited = [d.split("@")[0] for d in raw(file).get("defaults") or () if isinstance(d, str)] if file else []
    return bool(file) and ("_target_" in raw(file) or any(_is_one_node(group, o) for o in inherited if o != "_self_"))


def _no_match(override: Override, groups: dict[str, list[str]]) -> Problem | None:
    """A problem for a glob without a match, or a range that is empty or too long."""
    given = override.value()
    if isinstance(given, RangeSweep):
        start, stop, step = given.start or 0, given.stop or 0, given.step
        number = math.ceil((stop - start) / step) if step else 0
        if not 0 < number <= MOST:
            found = f"would make {number} runs" if number > MOST else "is an empty range"
            remedy = f"write range(START,STOP,STEP) with at most {MOST} values; STOP is not included"
            return Problem(override.key_or_group, f"{found} (given as {override.input_line})", remedy)
    if isinstance(override.value(), Glob) and not values_of(override):
        options = groups.get(override.key_or_group)
        found = "glob() matches no option" if options else "glob() lists the options of a group; this is not a group"
        remedy = _menu(options) if options else f"list the values: {override.key_or_group}=a,b"
        return Problem(override.key_or_group, f"{found} (given as {override.input_line})", remedy)
    return None


def _menu(options: list[str]) -> str:
    return "options: " + ", ".join(options)


def _bad_key(override: Override, tree: dict[str, Any], groups: dict[str, list[str]]) -> Problem | None:
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or exists(tree, key):
        return None  # additions are checked later, against the constructor that they are for
    return Problem(key, f"unknown setting (given as {override.input_line})", nearest_key(key, tree, groups))


def nearest_key(key: str, tree: dict[str, Any], groups: dict[str, list[str]]) -> str:
    """A remedy for an unknown key: its name here, or the most similar key or group."""
    if remedy := remedy_for(key):
        return remedy
    keys = [node for node in nodes_and_leaves(tree) if not node.rpartition(".")[2].startswith("_")]
    if corrected := _corrected(key, tree):
        return f"did you mean '{corrected}'?"
    parent, _, leaf = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    leaves = {k.rpartition(".")[2]: k for k in keys}
    if old := nearest(key, RENAMED, 0.8):
        return f"did you mean '{RENAMED[old]}'?"
    elsewhere = 0.9 if siblings else 0.7  # beside settings of its group, only the same word in another
    for names, similarity in ((siblings, 0.7), ({k: k for k in [*groups, *keys]}, 0.7), (leaves, elsewhere)):
        if near := nearest(leaf, names, similarity):
            return f"did you mean '{names[near]}'?"
    if siblings:
        return f"valid{' in ' + parent if parent else ''}: " + ", ".join(sorted(siblings))
    return "list the groups with python train.py --help, every setting with --cfg job"


def _corrected(key: str, tree: Any) -> str | None:
    """The key with its first wrong part corrected, where that makes an existing key."""
    parts = key.split(".")
    for place, part in enumerate(parts):
        if not isinstance(tree, dict):
            return None
        if part not in tree:
            rest = parts[place + 1 :]
            whole = [name for name in map(str, tree) if exists(tree, ".".join([name, *rest]))]
            near = nearest(part, whole)
            return near and ".".join([*parts[:place], near, *rest])
        tree = tree[part]
    return None
