"""`loralab settings FILE`: what a settings file of another trainer is here."""

from __future__ import annotations

import argparse
import json
import os
import shlex

from loralab.callbacks import prompts
from loralab.errors import Problem, UserError
from loralab.settings import content as contents
from loralab.settings.convert import Converted, converted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a JSON, TOML, LoRA file or command line")
    parser.add_argument(
        "--json", action="store_true", help="as JSON: dialect, overrides, not_applicable, unknown, notes"
    )


def main(args: argparse.Namespace) -> int:
    """Prints the overrides, one a line, quoted for a shell, and what is left over as comments."""
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
    """What is wrong with the settings together, whatever there is on this machine."""
    from loralab.config.check import Check
    from loralab.config.compose import compose

    cfg, choices = compose(found.overrides)
    return Check(cfg, choices, found.overrides, found.origins, here=False).problems


def _of_prompts(found: Converted) -> list[str]:
    """What is wrong with a prompts file that the settings name, or ignored of it, where it is on this machine."""
    given = found.settings.values.get(prompts.SETTING)
    if not (isinstance(given, str) and os.path.isfile(given)):
        return []
    try:
        return [f"names a file with {note}" for note in prompts.notes(prompts.read(given)[1])]
    except UserError as error:
        return [f"names a file that training will refuse: {problem.found}" for problem in error.problems]


def lines(found: Converted) -> list[str]:
    """What is printed; nothing of a comment can reach the next line."""
    comments = [found.report(), *(str(left) for left in found.not_applicable if left.is_on), *found.warnings]
    if off := sum(not left.is_on for left in found.not_applicable):
        comments.append(f"{off} more without a counterpart are off in the file, or say nothing here")
    return [*map(shlex.quote, found.overrides), *(f"# {one_line(comment)}" for comment in comments)]


def one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
