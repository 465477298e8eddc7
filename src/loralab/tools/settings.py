"""`loralab settings FILE`: a settings file of another trainer as overrides of loralab."""

from __future__ import annotations

import argparse
import json
import os
import shlex

from loralab.callbacks import prompts
from loralab.errors import Problem, UserError
from loralab.importers import content as contents
from loralab.importers.conversion import Converted, converted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a JSON, TOML or LoRA file, or a start script")
    parser.add_argument(
        "--json", action="store_true", help="print JSON: dialect, overrides, not_applicable, unknown, notes"
    )


def main(args: argparse.Namespace) -> int:
    """Prints the overrides, one per line, quoted for a shell, and everything else as comments."""
    found = converted(contents.read(args.file))
    if problems := [*found.problems, *_contradictions(found)]:
        raise UserError(*problems)
    found.warnings.extend(_of_prompts(found))
    if args.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print("\n".join(lines(found)))
    return 0


def _contradictions(found: Converted) -> list[Problem]:
    """Problems of the settings together, independent of this machine."""
    from loralab.checks.check import Check
    from loralab.schema.compose import compose

    return Check(compose(found.overrides), found.origins, here=False).problems


def _of_prompts(found: Converted) -> list[str]:
    """Notes on the prompts file that the settings name, where it exists on this machine: problems, ignored options."""
    given = found.settings.values.get(prompts.SETTING)
    if not (isinstance(given, str) and os.path.isfile(given)):
        return []
    try:
        return [f"names a prompts file with {note}" for note in prompts.notes(prompts.read(given)[1])]
    except UserError as error:
        return [f"names a prompts file that training would reject: {problem.found}" for problem in error.problems]


def lines(found: Converted) -> list[str]:
    """The lines to print; a comment never contains a line break."""
    comments = [found.report(), *(str(left) for left in found.not_applicable if left.is_on), *found.warnings]
    if off := sum(not left.is_on for left in found.not_applicable):
        comments.append(f"{off} of the ignored settings are off in the file, or have no effect here")
    return [*map(shlex.quote, found.overrides), *(f"# {one_line(comment)}" for comment in comments)]


def one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
