"""Texts that Hydra's grammar cannot parse as they are, and how to type them instead."""

from __future__ import annotations

import re
import shlex
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*")


def as_text(override: str) -> Override | None:
    """key=value with the value taken as text; None where it is a list, a mapping, quoted already, or missing."""
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
    text = re.sub(rf"(\\*){mark}", rf"\1\1\\{mark}", text)  # a backslash is literal, except before a quote
    return mark + re.sub(r"(\\+)$", r"\1\1", text) + mark


def to_paste(override: str) -> str:
    """An override quoted for the shell."""
    return f'"{override}"' if sys.platform == "win32" else shlex.quote(override)
