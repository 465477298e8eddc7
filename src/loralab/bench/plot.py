"""Plots as SVG: one quantity by another, a line for each name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

Points = Sequence[tuple[float, float]]
COLOURS = ("#2f6fd0", "#2b8a4b", "#b7791f", "#c0392b")
WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 372, 14, 232
"""Of the area of the lines; beside it are their names."""


def plot(lines: Mapping[str, Points], x: str, y: str, logarithmic: bool = False) -> str:
    """x, y: what the axes show. Linear axes begin at 0; logarithmic ones at a power of ten."""
    across = _Axis([p[0] for points in lines.values() for p in points], LEFT, RIGHT, logarithmic)
    up = _Axis([p[1] for points in lines.values() for p in points], BOTTOM, TOP, logarithmic)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
        f'font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    ]
    for value in up.ticks:
        parts.append(f'<path d="M{LEFT} {up(value):.1f}H{RIGHT}" stroke="#dde2e8"/>')
        parts.append(_text(LEFT - 6, up(value) + 4, f"{value:,g}", "end"))
    for value in across.ticks:
        parts.append(f'<path d="M{across(value):.1f} {TOP}V{BOTTOM}" stroke="#dde2e8"/>')
        parts.append(_text(across(value), BOTTOM + 16, f"{value:,g}", "middle"))
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 36, f"{y} by {x}", "middle"))
    for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
        places = [(across(a), up(b)) for a, b in points]
        drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
        parts.append(_text(RIGHT + 8, places[-1][1] + 4, name, "start", colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Axis:
    """From values to places between two ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, logarithmic: bool) -> None:
        self.start, self.end, self.logarithmic = start, end, logarithmic
        if logarithmic:
            self.low, self.high = floor(min(map(log10, values))), ceil(max(map(log10, values)))
            self.high = max(self.high, self.low + 1)
            self.ticks = [10.0**power for power in range(self.low, self.high + 1)]
        else:
            step = _round_step(max(values) / 4)
            count = ceil(max(values) / step)
            self.low, self.high = 0, count * step
            self.ticks = [number * step for number in range(count + 1)]

    def __call__(self, value: float) -> float:
        place = log10(value) if self.logarithmic else value
        return self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start)


def _round_step(least: float) -> float:
    """The least of 1, 2, 5, 10, 20, 50 … that is no smaller."""
    power = 10.0 ** floor(log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least * (1 - 1e-9))


def _text(x: float, y: float, words: str, anchor: str, colour: str = "#5b6675") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
