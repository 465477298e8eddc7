"""The doctor's report as one self-contained HTML page: no scripts, no network, images embedded."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from textwrap import shorten

import numpy as np
from PIL import Image

from loralab.data import images
from loralab.data.images import ImageError
from loralab.files import printable
from loralab.progress import progress
from loralab.tools.doctor_report import Finding, Report, Row

SIDE = 160
"""Pixels of a thumbnail's longer side."""
PICTURES = 400
"""Maximum number of thumbnails; images with findings come first."""


def to_html(report: Report, title: str) -> str:
    """The page. Thumbnails are decoded from the image files."""
    used = [row for row in report.images if row.bucket is not None]
    parts = [
        _tiles(report),
        _section("Findings", "".join(map(_finding, sorted(report.findings, key=lambda f: _LEVELS.index(f.level))))),
        _section("Buckets", _buckets(report)) if report.buckets else "",
        _section("Sizes, tokens, tags", _histograms(report, used)) if used else "",
        _section("Images", _gallery(report)) if report.images else "",
    ]
    return _PAGE.format(title=escape(printable(title)), style=_STYLE, body="\n".join(parts))


def _tiles(report: Report) -> str:
    totals = report.totals
    facts = {
        "images": totals.images,
        "samples per epoch": totals.repeated,
        "batches per epoch": totals.batches_per_epoch,
        "skipped": totals.skipped,
    }
    verdict = "training would fail" if report.fatal else "ready to train"
    tiles = "".join(f"<div class=tile><b>{value:,}</b>{name}</div>" for name, value in facts.items())
    return f"<p class='verdict {'error' if report.fatal else 'good'}'>{verdict}</p><div class=tiles>{tiles}</div>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _finding(finding: Finding) -> str:
    words = f"<span class='mark {finding.level}'>{finding.level}</span> {escape(printable(finding.text))}"
    if not finding.images:
        return f"<div class=finding>{words}</div>"
    paths = "".join(f"<li>{escape(printable(path))}</li>" for path in finding.images[:200])
    more = f"<li>… and {len(finding.images) - 200} more</li>" if len(finding.images) > 200 else ""
    return f"<details class=finding><summary>{words}</summary><ul>{paths}{more}</ul></details>"


def _buckets(report: Report) -> str:
    most = max(row.samples for row in report.buckets) or 1
    rows = "".join(
        f"<tr><td>{_shape(row.resolution)}{row.resolution[0]} × {row.resolution[1]}</td><td>{row.images}</td>"
        f"<td>{row.samples}</td><td>{row.batches}</td>"
        f"<td class=wide><i style='width:{100 * row.samples / most:.1f}%'></i></td></tr>"
        for row in report.buckets
    )
    return f"<table><tr><th>bucket<th>images<th>samples<th>batches<th></tr>{rows}</table>"


def _shape(size: tuple[int, int]) -> str:
    """A small rectangle in the bucket's aspect ratio."""
    width, height = (22 * side / max(size) for side in size)
    x, y = 12 - width / 2, 12 - height / 2
    rectangle = f"<rect x={x:.1f} y={y:.1f} width={width:.1f} height={height:.1f} rx=2 />"
    return f"<svg class=shape width=24 height=24>{rectangle}</svg>"


def _histograms(report: Report, used: Sequence[Row]) -> str:
    megapixels = [(row.width or 0) * (row.height or 0) / 1e6 for row in used]
    aspects = [(row.width or 1) / (row.height or 1) for row in used]
    charts = [
        _histogram("megapixels", megapixels, "{:.2f}"),
        _histogram("width : height", np.log2(aspects).tolist(), "{:.2f}", lambda x: 2**x),
        _histogram("tokens per caption", [row.tokens for row in used], "{:.0f}"),
    ]
    common = report.tags.most_common(20)
    if common:
        charts.append(_bars("most common tags", [(shorten(tag, 60, placeholder="…"), n) for tag, n in common]))
    return f"<div class=charts>{''.join(charts)}</div>"


def _histogram(title: str, values: Sequence[float], pattern: str, label: Callable = lambda x: x) -> str:
    counts, edges = np.histogram(values, bins=min(20, max(1, len(set(values)))))
    most, width = max(int(counts.max()), 1), 300 / len(counts)
    bars = "".join(
        f"<rect x={at * width + 0.5:.1f} y={110 - 100 * count / most:.1f} width={width - 1:.1f} "
        f"height={100 * count / most:.1f}><title>{pattern.format(label(edges[at]))} – "
        f"{pattern.format(label(edges[at + 1]))}: {count}</title></rect>"
        for at, count in enumerate(counts.tolist())
    )
    ends = f"<text x=0 y=126>{pattern.format(label(edges[0]))}</text>"
    ends += f"<text x=300 y=126 text-anchor=end>{pattern.format(label(edges[-1]))}</text>"
    caption = f"<figcaption>{title}, up to {most} images per bar</figcaption>"
    return f"<figure>{caption}<svg viewBox='0 0 300 130'>{bars}{ends}</svg></figure>"


def _bars(title: str, counts: Sequence[tuple[str, int]]) -> str:
    most = counts[0][1]
    rows = "".join(
        f"<tr><td>{escape(printable(name))}</td><td>{count}</td>"
        f"<td class=wide><i style='width:{100 * count / most:.1f}%'></i></td></tr>"
        for name, count in counts
    )
    return f"<figure><figcaption>{title}</figcaption><table>{rows}</table></figure>"


def _gallery(report: Report) -> str:
    """Thumbnails with the crop marked; images with findings first."""
    flagged = {path for finding in report.findings if finding.level != "note" for path in finding.images}
    rows = sorted(report.images, key=lambda row: (row.problem is None, row.path not in flagged))
    with progress("thumbnails", min(len(rows), PICTURES), "images") as advance:
        cards = [_card(row, advance) for row in rows[:PICTURES]]
    more = f"<p>… and {len(rows) - PICTURES} more</p>" if len(rows) > PICTURES else ""
    return f"<div class=gallery>{''.join(cards)}</div>{more}"


def _card(row: Row, advance: Callable[[int], None]) -> str:
    advance(1)
    name = escape(printable(Path(row.path).name))
    if row.bucket is None:
        words = f"<b>{name}</b><span class=error>{escape(printable(row.problem or ''))}</span>"
    else:
        words = (
            f"<b>{name}</b><span>{row.width} × {row.height} → {row.bucket[0]} × {row.bucket[1]}, ×{row.repeats}</span>"
            f"<span class=caption>{escape(printable(row.caption)) or '<em>no caption</em>'}</span>"
            f"<span><small>{row.tokens} tokens</small></span>"
        )
    return f"<div class=card title='{escape(printable(row.path))}'>{_picture(row)}{words}</div>"


def _picture(row: Row) -> str:
    """The thumbnail, darkened outside of the crop."""
    try:
        pixels = images.thumbnail(row.path, SIDE)
    except ImageError:
        return "<div class=missing>no preview</div>"
    height, width = pixels.shape[:2]
    frame = ""
    if row.bucket and row.resized and row.crop:
        scale = width / row.resized[0], height / row.resized[1]
        x, y = row.crop[0] * scale[0], row.crop[1] * scale[1]
        w, h = row.bucket[0] * scale[0], row.bucket[1] * scale[1]
        outside = f"M0 0H{width}V{height}H0Z M{x:.1f} {y:.1f}v{h:.1f}h{w:.1f}v-{h:.1f}Z"
        frame = f"<path d='{outside}' fill-rule=evenodd />"
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "JPEG", quality=75)
    data = base64.b64encode(picture.getvalue()).decode()
    return (
        f"<svg class=thumb viewBox='0 0 {width} {height}' width={width} height={height}>"
        f"<image href='data:image/jpeg;base64,{data}' width={width} height={height} />{frame}</svg>"
    )


_LEVELS = ("error", "warning", "note")

_PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>{title}</title><style>{style}</style>
<main><h1>{title}</h1>
{body}
</main></html>
"""

_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dde2e8; --paper: #fff; --back: #f5f6f8; --accent: #2f6fd0;
  --error: #c0392b; --warning: #b7791f; --good: #2b8a4b; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #97a3b3; --line: #2d3541; --paper: #1a2029;
  --back: #12161c; --accent: #6aa1f4; --error: #ef6f61; --warning: #e0a84c; --good: #5cc283 } }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1100px; margin: 0 auto; padding: 24px }
h1 { font-size: 22px } h2 { font-size: 16px; margin: 0 0 12px }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px; margin: 18px 0 }
.verdict { font-weight: 600 } .good { color: var(--good) } .error { color: var(--error) }
.warning { color: var(--warning) } .note { color: var(--soft) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px }
.tile { color: var(--soft) }
.tile b { display: block; font-size: 24px; color: var(--ink) }
.finding { padding: 6px 0; border-bottom: 1px solid var(--line) } .finding:last-child { border: 0 }
div.finding { padding-left: 88px } div.finding .mark { margin-left: -72px }
.mark { display: inline-block; width: 68px; font-size: 12px; font-weight: 600; text-transform: uppercase }
summary { cursor: pointer } ul { color: var(--soft); font-size: 13px; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
td, th { padding: 3px 12px 3px 0; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left } th { color: var(--soft); font-weight: 500 }
.wide { width: 50% } .wide i { display: block; height: 10px; border-radius: 3px; background: var(--accent) }
.shape { vertical-align: middle; margin-right: 8px }
.shape rect { fill: none; stroke: var(--accent); stroke-width: 1.5 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 24px }
figure { margin: 0 } figcaption { color: var(--soft); font-size: 13px } figure svg { width: 100%; fill: var(--accent) }
figure text { fill: var(--soft); font-size: 11px }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 14px }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px; font-size: 12px; overflow-wrap: anywhere }
.card b, .card span { display: block }
.card .caption { display: -webkit-box; -webkit-line-clamp: 4; -webkit-box-orient: vertical; overflow: hidden }
.charts td:first-child { white-space: normal; overflow-wrap: anywhere }
.card span { color: var(--soft) } .card .error { color: var(--error) }
.thumb { display: block; max-width: 100%; height: auto; margin: 0 auto 8px } .thumb path { fill: #000; opacity: .6 }
.missing { height: 100px; display: grid; place-items: center; background: var(--back); color: var(--soft) }
"""
