"""Values that are a list of arguments: `weight_decay=0.1 betas=0.9,0.99` and the like."""

from __future__ import annotations

import ast
import json
import math
import re
import shlex
from typing import Any

from loralab.schema import coerce

NAME = re.compile(r"[A-Za-z]\w*")


def arguments(value: Any) -> dict[str, Any]:
    """Arguments by name, from a table, a list of "name=value" or one text of them.

    Raises a ValueError that gives the valid values in words.
    """
    if isinstance(value, str):
        value = _table_in(value) or _words(value)
    if isinstance(value, list):
        value = dict(_pair(part) for part in value)
    if not isinstance(value, dict):
        raise ValueError("name=value pairs")
    for name in value:
        if not NAME.fullmatch(name):
            raise ValueError(f"name=value pairs ({name!r} is not an argument name)")
    return {name: _argument(name, given) for name, given in value.items()}


def expressions(value: Any) -> list[str]:
    """Regular expressions, one or a list of them. Raises a ValueError that gives the valid values in words."""
    return [_expression(part) for part in (value if isinstance(value, list) else [value])]


def by_expression(value: Any, kind: coerce.Coercion) -> dict[str, Any]:
    """Values by regular expression, from a text such as `.*mlp.*=4,.*attn.*=8`. Raises such a ValueError, too."""
    pairs = [part.strip().rpartition("=") for part in coerce.text(value).split(",") if part.strip()]
    return {_expression(name): kind(given) for name, _, given in pairs}


def _expression(value: Any) -> str:
    try:
        return re.compile(coerce.text(value)).pattern
    except re.error as error:
        raise ValueError(f"regular expressions ({error})") from error


def _argument(name: str, given: Any) -> Any:
    try:
        return _value(given)
    except ValueError as error:
        raise coerce.Within(name, error) from error


def _table_in(given: str) -> dict[str, Any] | None:
    """The JSON table in a text, if it is one."""
    try:
        found = json.loads(given)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _words(given: str) -> list[str]:
    try:
        return shlex.split(given)
    except ValueError as error:
        raise ValueError(f"name=value pairs ({error})") from error


def _pair(part: Any) -> tuple[str, Any]:
    name, equals, given = part.partition("=") if isinstance(part, str) else ("", "", "")
    if not equals:
        raise ValueError("name=value pairs")
    return name.strip(), given


def _value(given: Any) -> Any:
    """The value of a text: a number, true, null, or several separated by commas; otherwise the text itself."""
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given.strip().strip("\"'"))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            words = {"true": True, "false": False, "none": None, "null": None, "inf": math.inf}
            return words.get(given.strip().lower(), coerce.text(given))
    if isinstance(given, (list, tuple)):
        return [_value(part) for part in given]
    if given is None or isinstance(given, bool):
        return given
    if isinstance(given, int):
        return coerce.whole(given)
    return coerce.number(given) if isinstance(given, float) else coerce.text(given)
