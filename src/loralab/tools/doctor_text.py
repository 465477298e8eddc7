"""The doctor's report for a terminal."""

from __future__ import annotations

import io
from collections import Counter

from rich.console import Console, Group
from rich.table import Column, Table
from rich.text import Text

from loralab.files import printable
from loralab.tools.doctor_report import Report

_LISTED = 5
"""Maximum number of images listed with a finding."""
_OF_A_KIND = 10
"""Maximum number of findings of one kind."""
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def to_text(report: Report, width: int = 120) -> str:
    """The report as plain text."""
    console = Console(file=io.StringIO(), width=width)
    console.print(_content(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def print_report(report: Report) -> None:
    """Prints the report, in colour if the terminal supports it."""
    Console().print(_content(report))


def _content(report: Report) -> Group:
    totals = report.totals
    line = f"{totals.images} images, {totals.repeated} samples and {totals.batches_per_epoch} batches per epoch"
    skipped = f", {totals.skipped} skipped" if totals.skipped else ""
    return Group(
        Text(line + skipped, style="bold"), *([_buckets(report)] if report.buckets else []), *_findings(report)
    )


def _buckets(report: Report) -> Table:
    table = Table(
        "bucket",
        *(Column(name, justify="right") for name in ("images", "samples", "batches")),
        "",
        box=None,
        pad_edge=False,
    )
    most = max(row.samples for row in report.buckets)
    for row in report.buckets:
        bar = "▇" * max(1, round(30 * row.samples / most)) if row.samples else ""
        size = f"{row.resolution[0]} × {row.resolution[1]}"
        table.add_row(size, str(row.images), str(row.samples), str(row.batches), Text(bar, style="cyan"))
    return table


def _findings(report: Report) -> list[Text]:
    lines = [Text()]
    counts: Counter[str] = Counter()
    for finding in sorted(report.findings, key=lambda finding: list(_STYLES).index(finding.level)):
        counts[finding.kind] += bool(finding.images)
        if counts[finding.kind] > _OF_A_KIND:
            continue
        lines.append(
            Text(f"{finding.level}: ", style=_STYLES[finding.level]) + Text(printable(finding.text), style="default")
        )
        lines += [Text(f"    {printable(path)}", style="dim") for path in finding.images[:_LISTED]]
        if len(finding.images) > _LISTED:
            lines.append(Text(f"    … and {len(finding.images) - _LISTED} more", style="dim"))
    for kind, count in counts.items():
        if count > _OF_A_KIND:
            words = f"{count - _OF_A_KIND} more findings of the kind '{kind}': use --json or --html to list them all"
            lines.append(Text(words, style="dim"))
    return lines
