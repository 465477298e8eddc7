"""Texts that Hydra's grammar cannot parse as they are, and how to type them instead."""

from __future__ import annotations

import re
import shlex
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from loralab.schema.settings import quoted

KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*")
MARK = "'" if sys.platform == "win32" else '"'
"""Hydra's quotes, other than the shell's (see `to_paste`)."""


def as_text(override: str) -> Override | None:
    """key=value with the value taken as text; None where it is a list, a mapping, quoted already, or missing."""
    key, equals, value = override.partition("=")
    if not equals or not KEY.fullmatch(key) or value.lstrip()[:1] in tuple("[{\"'"):
        return None
    try:
        return OverridesParser.create().parse_override(f"{key}={quoted(value, MARK)}")
    except HydraException:
        return None


def to_paste(override: str) -> str:
    """An override quoted for the shell."""
    return f'"{override}"' if sys.platform == "win32" else shlex.quote(override)
