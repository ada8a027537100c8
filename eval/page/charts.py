"""The plots of an evaluation's report, as SVG text. They draw what results.json says and compute no statistics.

Colours come from the page's style sheet through classes, so that a plot follows the reader's light or dark setting.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.page.table import estimate as in_words

WIDTH = 336  # fits a phone, so that a plot is not scaled and its text stays readable
ROW = 36  # pixels of a row: its text, and its bar below
Estimate = Mapping[str, float]  # value, low, high


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a plot: a point with what lies around it, on an axis that all rows share.

    Example: Bar(label="Algebra", text="43.2% [38.1%, 48.5%]", value=0.432, low=0.381, high=0.485)
    """

    label: str
    text: str
    value: float
    low: float
    high: float
    kind: str = ""  # a class of the style sheet, such as "correct"


def accuracy_bar(label: str, estimate: Estimate) -> Bar:
    return Bar(label, in_words(estimate), estimate["value"], estimate["low"], estimate["high"])


def bars(title: str, note: str, rows: Sequence[Bar], top: float, ticks: Sequence[tuple[float, str]]) -> str:
    """A figure of one row a bar on an axis from 0 to `top`."""
    height = ROW * len(rows) + 22
    body = "".join(_grid(at / top, label, height) for at, label in ticks)
    body += "".join(_bar(row, ROW * i, top) for i, row in enumerate(rows))
    return _figure(title, note, body, height)


def share_ticks() -> list[tuple[float, str]]:
    return [(share / 100, f"{share}%") for share in (0, 25, 50, 75, 100)]


def token_ticks(largest: float) -> tuple[float, list[tuple[float, str]]]:
    """The end of an axis that holds `largest`, and its ticks: 3 to 5 round numbers from 0."""
    step = _round_step(max(largest, 1) / 4)
    count = math.ceil(max(largest, 1) / step)
    return count * step, [(i * step, f"{i * step:,}") for i in range(count + 1)]


def curves(title: str, note: str, lines: Mapping[str, Mapping[int, Estimate]]) -> str:
    """Shares against k on a logarithmic axis: a line and the band of its interval for each entry of `lines`."""
    height, left, bottom = 200, 38, 176
    last = max(k for line in lines.values() for k in line)

    def x(k: int) -> float:
        return left + (WIDTH - left - 12) * (math.log2(k) / math.log2(last) if last > 1 else 0.5)

    def y(share: float) -> float:
        return bottom - (bottom - 12) * share

    body = "".join(
        f'<line class="grid" x1="{left}" x2="{WIDTH}" y1="{y(at):.1f}" y2="{y(at):.1f}"/>'
        f'<text class="tick" x="{left - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{label}</text>'
        for at, label in share_ticks()
    )
    for k in _labelled(sorted({k for line in lines.values() for k in line}), x):
        body += f'<text class="tick" x="{x(k):.1f}" y="{bottom + 16}" text-anchor="middle">{k}</text>'
    for index, line in enumerate(lines.values()):
        body += _line([(x(k), y(at["value"]), y(at["low"]), y(at["high"])) for k, at in sorted(line.items())], index)
    legend = "".join(
        f'<span class="line{index}"><b aria-hidden="true"></b>{html.escape(name)}</span>'
        for index, name in enumerate(lines)
    )
    return _figure(title, note, body, height, f'<p class="legend">{legend}</p>')


def _figure(title: str, note: str, body: str, height: int, legend: str = "") -> str:
    caption = f"<figcaption><b>{html.escape(title)}</b><br>{html.escape(note)}</figcaption>"
    svg = (
        f'<svg role="img" aria-label="{html.escape(title)}" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">{body}</svg>'
    )
    return f"<figure>{caption}{legend}{svg}</figure>"


def _grid(share: float, label: str, height: int) -> str:
    at, anchor = WIDTH * share, "start" if share == 0 else "end" if share == 1 else "middle"
    return (
        f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height - 18}"/>'
        f'<text class="tick" x="{at:.1f}" y="{height - 4}" text-anchor="{anchor}">{label}</text>'
    )


def _bar(row: Bar, y: int, top: float) -> str:
    low, value, high = (WIDTH * part / top for part in (row.low, row.value, row.high))
    label = row.label if len(row.label) <= 33 else row.label[:32] + "…"
    return (
        f'<g class="bar {row.kind}"><title>{html.escape(row.label)}</title>'
        f'<text x="0" y="{y + 14}">{html.escape(label)}</text>'
        f'<text class="number" x="{WIDTH}" y="{y + 14}" text-anchor="end">{html.escape(row.text)}</text>'
        f'<rect x="{low:.1f}" y="{y + 22}" width="{max(high - low, 1):.1f}" height="6" rx="3"/>'
        f'<circle cx="{min(max(value, 4), WIDTH - 4):.1f}" cy="{y + 25}" r="4"/></g>'
    )


def _line(points: Sequence[tuple[float, float, float, float]], index: int) -> str:
    band = [(x, high) for x, _, _, high in points] + [(x, low) for x, _, low, _ in reversed(points)]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y, _, _ in points)
    return (
        f'<g class="line{index}"><polygon points="{_points(band)}"/>'
        f'<polyline points="{_points([(x, y) for x, y, _, _ in points])}"/>{dots}</g>'
    )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _labelled(ks: Sequence[int], x: Any) -> list[int]:
    """The k whose labels do not run into the one before."""
    kept: list[int] = []
    for k in ks:
        if not kept or x(k) - x(kept[-1]) >= 20:
            kept.append(k)
    return kept


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 ... that is at least `least`."""
    power = 10 ** max(math.floor(math.log10(max(least, 1))), 0)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
