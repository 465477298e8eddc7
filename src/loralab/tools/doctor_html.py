"""What the doctor's page shows: the values for its template, assets/pages/doctor.html."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image

from loralab.data import images
from loralab.data.images import ImageError
from loralab.progress import progress
from loralab.report.page import embedded, render
from loralab.tools.doctor_report import BucketRow, Report, Row

SIDE = 160
"""Pixels of a thumbnail's longer side."""
PICTURES = 400
"""Maximum number of thumbnails; images with findings come first."""
LEVELS = ("error", "warning", "note")


def to_html(report: Report, title: str) -> str:
    """The page. Thumbnails are decoded from the image files."""
    totals, used = report.totals, [row for row in report.images if row.bucket is not None]
    return render(
        "doctor.html",
        title=title,
        fatal=report.fatal,
        tiles={
            "images": totals.images,
            "samples per epoch": totals.repeated,
            "batches per epoch": totals.batches_per_epoch,
            "skipped": totals.skipped,
        },
        findings=sorted(report.findings, key=lambda finding: LEVELS.index(finding.level)),
        buckets=[_bucket(row, max(row.samples for row in report.buckets) or 1) for row in report.buckets],
        charts=_charts(used) if used else [],
        tags=[(shorten(tag, 60, placeholder="…"), count) for tag, count in report.tags.most_common(20)],
        cards=_cards(report),
        more=max(0, len(report.images) - PICTURES),
    )


def _bucket(row: BucketRow, most: int) -> tuple[BucketRow, float, float, float]:
    """A row with the sides of a small rectangle in the bucket's aspect ratio, and its share of the largest bucket."""
    width, height = (22 * side / max(row.resolution) for side in row.resolution)
    return row, width, height, row.samples / most


def _charts(used: Sequence[Row]) -> list[dict[str, Any]]:
    megapixels = [(row.width or 0) * (row.height or 0) / 1e6 for row in used]
    aspects = [(row.width or 1) / (row.height or 1) for row in used]
    return [
        _histogram("megapixels", megapixels, "{:.2f}"),
        _histogram("width : height", np.log2(aspects).tolist(), "{:.2f}", lambda x: 2**x),
        _histogram("tokens per caption", [row.tokens for row in used], "{:.0f}"),
    ]


def _histogram(title: str, values: Sequence[float], pattern: str, scale: Callable = lambda x: x) -> dict[str, Any]:
    """Bars of a chart 300 wide and 100 high."""
    counts, edges = np.histogram(values, bins=min(20, max(1, len(set(values)))))
    most, width = max(int(counts.max()), 1), 300 / len(counts)
    labels = [pattern.format(scale(edge)) for edge in edges]
    bars = [
        {
            "x": at * width + 0.5,
            "width": width - 1,
            "height": 100 * count / most,
            "label": f"{labels[at]} – {labels[at + 1]}: {count}",
        }
        for at, count in enumerate(counts.tolist())
    ]
    return {"title": title, "most": most, "bars": bars, "low": labels[0], "high": labels[-1]}


def _cards(report: Report) -> list[tuple[Row, dict[str, Any] | None]]:
    """Images with their thumbnails; those with findings first."""
    flagged = {path for finding in report.findings if finding.level != "note" for path in finding.images}
    rows = sorted(report.images, key=lambda row: (row.problem is None, row.path not in flagged))[:PICTURES]
    cards = []
    with progress("thumbnails", len(rows), "images") as advance:
        for row in rows:
            cards.append((row, _thumbnail(row)))
            advance(1)
    return cards


def _thumbnail(row: Row) -> dict[str, Any] | None:
    """The thumbnail, and the path around what is outside of the crop; None where the file cannot be read."""
    try:
        pixels = images.thumbnail(row.path, SIDE)
    except ImageError:
        return None
    height, width = pixels.shape[:2]
    outside = ""
    if row.bucket and row.resized and row.crop:
        scale = width / row.resized[0], height / row.resized[1]
        x, y = row.crop[0] * scale[0], row.crop[1] * scale[1]
        w, h = row.bucket[0] * scale[0], row.bucket[1] * scale[1]
        outside = f"M0 0H{width}V{height}H0Z M{x:.1f} {y:.1f}v{h:.1f}h{w:.1f}v-{h:.1f}Z"
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "JPEG", quality=75)
    return {"width": width, "height": height, "data": embedded(picture.getvalue(), "jpeg"), "outside": outside}
