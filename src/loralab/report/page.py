"""A self-contained page: a table of runs, and the last grid of sample images of each."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .35rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }
figure { display: inline-block; margin: 1rem 1.5rem 1rem 0; vertical-align: top; } figcaption { color: #555; }
img { max-width: 100%; }
"""


def page(lines: list[list[str]], pictures: Mapping[str, Path]) -> str:
    """HTML that needs no other file. lines: of a table, headings first; pictures: caption → PNG."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines[1:])
    figures = "".join(_figure(html.escape(name), picture) for name, picture in pictures.items())
    title = "loralab: runs side by side"
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<table><tr>{head}</tr>{body}</table>{figures}"
    )


def _figure(caption: str, png: Path) -> str:
    try:
        data = base64.b64encode(png.read_bytes()).decode()
    except OSError as error:
        return f"<figure><figcaption>{caption}: {png.name} cannot be read: {error.strerror}</figcaption></figure>"
    return (
        f'<figure><figcaption>{caption}</figcaption><img src="data:image/png;base64,{data}" alt="{caption}"></figure>'
    )
