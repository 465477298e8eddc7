"""Checks of targets.blocks and targets.patterns: tables inside a setting, which the check of nodes does not cover."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from loralab.adapters.targets import Targets
from loralab.errors import Problem, UserError
from loralab.schema.constructors import misfits

MODULE = "loralab.adapters.targets"


def target_problems(targets: dict[str, Any]) -> Iterator[Problem]:
    """Problems of the targets node (plain values)."""
    blocks, patterns = targets.get("blocks"), targets.get("patterns")
    try:
        Targets(blocks=blocks, patterns=patterns if isinstance(patterns, list) else [])
    except UserError as error:
        yield from error.problems
        return
    if isinstance(blocks, dict):
        yield from misfits("targets.blocks", f"{MODULE}.Blocks", blocks)
    for number, pattern in enumerate(patterns or []):
        path = f"targets.patterns.{number}"
        yield from misfits(path, f"{MODULE}.Pattern", pattern)
        try:
            re.compile(pattern["match"])
        except re.error as error:
            found = f"'{pattern['match']}' is not a valid regular expression: {error}"
            yield Problem(f"{path}.match", found, "write \\. for a dot, .* for anything")
