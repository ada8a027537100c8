"""A run's report from the files in its directory: the learning curve and one page that needs no network.

`zero report RUN_DIR` calls `write_report` for a run that is finished, stopped or still going.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from grpo.page.write import write_page
from grpo.record.atomic import write_atomic
from grpo.record.run import Run, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#1f5fa8", "#d98032"
CURVES = {"reward": "training reward", "length": "completion length (tokens)", "entropy": "entropy (nats)"}
SUPERVISED_CURVES = {"loss": "loss (nats)", "heldout_loss": "held-out loss (nats)", "entropy": "entropy (nats)"}


def write_report(run_dir: Path) -> Path:
    """Write learning_curve.png and report.html; returns the page's path."""
    run = read_run(run_dir)
    write_atomic(run_dir / "learning_curve.png", _png(learning_curve(run)))
    return write_page(run_dir, run)


# -- curves ----------------------------------------------------------------------------------------


def learning_curve(run: Run) -> Figure:
    """Held-out accuracy with its 95% intervals above; reward, length and entropy below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    curves = CURVES if any("reward" in row for row in run.steps) or not run.steps else SUPERVISED_CURVES
    grid = figure.add_gridspec(2, len(curves), height_ratios=[2, 1])
    figure.suptitle(run.title)
    _accuracy(figure.add_subplot(grid[0, :]), run)
    for column, (key, label) in enumerate(curves.items()):
        _metric(figure.add_subplot(grid[1, column]), run, key, label)
    return figure


def terminal_curve(run: Run, width: int = 80) -> str:
    """The accuracy panel of the learning curve in characters, `width` columns wide; its legend is a line above."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, 18)
    figure.label("step")
    figure.ruler("y").lim(0, 100)
    last = max([row["step"] for row in [*run.steps, *run.evaluations]], default=1)
    figure.ruler("x").lim(0, last)
    whole = whole_steps(last)
    figure.ruler("x").ticks(whole, list(map(str, whole)))
    steps, accuracy = _series(run, "accuracy")
    if steps:
        figure.draw(figure.signal(steps, [100 * value for value in accuracy]).lines())
    if run.evaluations:
        x, y = [row["step"] for row in run.evaluations], [100 * row["accuracy"] for row in run.evaluations]
        for row in run.evaluations:
            figure.draw(figure.signal([row["step"]] * 2, [100 * row["low"], 100 * row["high"]], marker="│").lines())
        figure.draw(figure.signal(x, y, marker="●"))
    drawn = ["▞ training"] * bool(steps) + ["● held-out, │ its 95% interval"] * bool(run.evaluations)
    curve = figure.build().string(colorless=True)
    legend = f"accuracy (%): {', '.join(drawn)}".center(len(curve.partition("\n")[0]))  # no wider than the terminal
    return f"{legend.rstrip()}\n{curve}"


def whole_steps(last: int) -> list[int]:
    """About eight round numbers from 0 to `last`."""
    power = 10 ** max(len(str(last)) - 2, 0)
    apart = next(size for size in (1, 2, 5, 10, 20, 50, 100) if 8 * size * power >= last) * power
    return list(range(0, last + 1, apart))


def _accuracy(axes: Axes, run: Run) -> None:
    steps, accuracy = _series(run, "accuracy")
    if steps:
        axes.plot(steps, [100 * value for value in accuracy], color=ORANGE, linewidth=1, alpha=0.8, label="training")
    if run.evaluations:
        x = [row["step"] for row in run.evaluations]
        y, low, high = ([100 * row[key] for row in run.evaluations] for key in ("accuracy", "low", "high"))
        errors = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
        axes.fill_between(x, low, high, color=BLUE, alpha=0.12, linewidth=0)
        axes.errorbar(x, y, yerr=errors, color=BLUE, marker="o", capsize=4, label="held-out, 95% interval")
        for i in dict.fromkeys((0, len(x) - 1)):
            below = low[i] > 10  # there is room between the interval and the axis
            at, offset, va = (low[i], -6, "top") if below else (high[i], 6, "bottom")
            axes.annotate(
                f"{y[i]:.1f}%", (x[i], at), (0, offset), textcoords="offset points", ha="center", va=va, color=BLUE
            )
    for number, name in enumerate(run.evaluations[-1].get("tasks", {}) if run.evaluations else ()):
        rows = [(row["step"], row["tasks"][name]) for row in run.evaluations if name in row.get("tasks", {})]
        x, y = [step for step, _ in rows], [100 * one["accuracy"] for _, one in rows]
        errors = [[100 * (one["accuracy"] - one["low"]) for _, one in rows]]
        errors += [[100 * (one["high"] - one["accuracy"]) for _, one in rows]]
        axes.errorbar(x, y, yerr=errors, color=f"C{number + 2}", linewidth=1, linestyle="--", capsize=2, label=name)
    axes.set(ylabel="accuracy (%)", ylim=(0, 100))
    if steps or run.evaluations:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)  # above: never over a point
    _style(axes)


def _metric(axes: Axes, run: Run, key: str, label: str) -> None:
    axes.plot(*_series(run, key), color=BLUE, linewidth=1.2)
    axes.set_title(label, fontsize=10)
    _style(axes)


def _style(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _series(run: Run, key: str) -> tuple[list[int], list[float]]:
    rows = [row for row in run.steps if row.get(key) is not None]
    return [row["step"] for row in rows], [row[key] for row in rows]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
