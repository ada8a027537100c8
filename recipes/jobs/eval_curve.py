"""Accuracy over the checkpoints of a run, with its 95% intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.page.table import estimate
from grpo.record.atomic import write_atomic

CURVE = "checkpoints.png"
COLOURS = ("#1f5fa8", "#d98032", "#3a7d44", "#8e4585", "#7a6a4f", "#b03a48")
Points = Mapping[str, Sequence[Mapping[str, Any]]]  # benchmark -> {"step", "accuracy": {"value", "low", "high"}, "n"}


def write_curve(path: Path, points: Points, title: str) -> None:
    """One line a benchmark; the legend stands beside the axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, measured) in enumerate(points.items()):
        steps = [one["step"] for one in measured]
        value, low, high = ([100 * one["accuracy"][key] for one in measured] for key in ("value", "low", "high"))
        below = [v - a for v, a in zip(value, low, strict=True)]
        above = [b - v for v, b in zip(value, high, strict=True)]
        colour = COLOURS[i % len(COLOURS)]
        axes.errorbar(steps, value, yerr=[below, above], color=colour, marker="o", capsize=3, label=name)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy (%), 95% interval")
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomic(path, picture.getvalue())


def curve_in_words(points: Points) -> str:
    """Example: "arithmetic\n  step 0     38.0% [33.4%, 42.8%]\n  step 24    61.5% [56.6%, 66.1%]" """
    lines = []
    for name, measured in points.items():
        lines += [name, *(f"  step {one['step']:<6} {estimate(one['accuracy'])}" for one in measured)]
    return "\n".join(lines)
