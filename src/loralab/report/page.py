"""A self-contained page: a table of runs with their last grid of pictures."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loralab.report.compare import Run

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .35rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }
figure { display: inline-block; margin: 1rem 1.5rem 1rem 0; vertical-align: top; } figcaption { color: #555; }
img { max-width: 34rem; image-rendering: pixelated; }
"""


def page(runs: list[Run], lines: list[list[str]]) -> str:
    """HTML that needs no other file; `lines` are those of the table, headings first."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines[1:])
    figures = "".join(_figure(run) for run in runs if run.pictures)
    title = "loralab: runs side by side"
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<table><tr>{head}</tr>{body}</table>{figures}"
    )


def _figure(run: Run) -> str:
    data = base64.b64encode(run.pictures[-1].read_bytes()).decode()
    caption = html.escape(str(run.folder))
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )
