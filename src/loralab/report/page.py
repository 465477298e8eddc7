"""Self-contained HTML pages from the templates of assets/pages: no network, and no script but our own."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from loralab.files import printable
from loralab.schema.compose import PACKAGE

PAGES = PACKAGE / "assets" / "pages"
MADE_HERE = '<meta name=generator content="loralab">'


def render(template: str, **values: Any) -> str:
    """The page of a template. All texts in it are escaped, and so are characters that cannot be printed."""
    loader = PackageLoader("loralab", "assets/pages")
    pages = Environment(loader=loader, autoescape=True, finalize=_shown, trim_blocks=True)
    pages.filters["name"] = lambda path: Path(path).name
    return pages.get_template(template).render(values)


def interactive(template: str, scripts: str, title: str, values: Any) -> str:
    """A page with the scripts of a folder beside its template, by name, and values for them, which remain text.

    Its policy allows these scripts by their hashes, and no connection to anywhere.
    """
    texts = [file.read_text(encoding="utf8") for file in sorted((PAGES / scripts).glob("*.js"))]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    policy = {
        "default-src": "'none'",
        "img-src": "'self' file: data:",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(f"'sha256-{each}'" for each in hashes),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return render(
        template,
        title=title,
        made_here=Markup(MADE_HERE),
        policy="; ".join(f"{kind} {sources}" for kind, sources in policy.items()),
        scripts=[Markup(text) for text in texts],
        data=Markup(embedded_json(values)),
    )


def embedded_json(values: Any) -> str:
    """JSON that cannot end the element it stands in; characters that cannot be printed are replaced."""
    text = json.dumps(_printable(values), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def embedded(image: bytes, kind: str) -> str:
    """A link that contains the image; kind: jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_printable(str(key)): _printable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(each) for each in value]
    if isinstance(value, str):
        return "\n".join(map(printable, value.split("\n")))
    return str(value) if isinstance(value, float) and value - value != 0 else value  # infinite, or no number


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
