"""Argument types of command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(low: int) -> Callable[[str], int]:
    """An argument type: a whole number of at least `low`."""

    def number(text: str) -> int:
        found = int(text)
        if found < low:
            raise argparse.ArgumentTypeError(f"invalid value {found}; valid: at least {low}")
        return found

    number.__name__ = "whole number"  # argparse shows it in messages
    return number
