"""Self-contained HTML pages from the templates of assets/pages: no scripts, no network, images embedded."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from loralab.files import printable


def render(template: str, **values: Any) -> str:
    """The page of a template. All texts in it are escaped, and so are characters that cannot be printed."""
    loader = PackageLoader("loralab", "assets/pages")
    pages = Environment(loader=loader, autoescape=True, finalize=_shown, trim_blocks=True)
    pages.filters["name"] = lambda path: Path(path).name
    return pages.get_template(template).render(values)


def embedded(image: bytes, kind: str) -> str:
    """A link that contains the image; kind: jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
