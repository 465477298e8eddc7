"""The code that CONTRIBUTING.md shows, to be put into a package and run."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def shown(name: str) -> str:
    """The block of code that defines the class of this name."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf8"), re.S)
    return next(block for block in blocks if f"class {name}(" in block)
