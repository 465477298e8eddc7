"""Texts that Hydra's grammar does not read as they are, and how they are typed instead."""

from __future__ import annotations

import re
import shlex
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*")


def as_text(override: str) -> Override | None:
    """key=value with the value meant as a text, whatever is in it; None where it is a list, a mapping or no value."""
    key, equals, value = override.partition("=")
    if not equals or not KEY.fullmatch(key) or value.lstrip()[:1] in tuple("[{\"'"):
        return None
    try:
        return OverridesParser.create().parse_override(f"{key}={quoted(value)}")
    except HydraException:
        return None


def quoted(text: str) -> str:
    """A text in Hydra's double quotes (on Windows single ones, since the shell's are double)."""
    mark = "'" if sys.platform == "win32" else '"'
    text = re.sub(rf"(\\*){mark}", rf"\1\1\\{mark}", text)  # a backslash is itself, except before a quote
    return mark + re.sub(r"(\\+)$", r"\1\1", text) + mark


def to_paste(override: str) -> str:
    """An override as an argument of the shell."""
    return f'"{override}"' if sys.platform == "win32" else shlex.quote(override)
