"""What the stages of a chain did to held-out accuracy and length, in one table and one page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.stats.intervals import paired_difference
from grpo.page.shell import shell
from grpo.record.atomic import write_atomic
from grpo.record.display import interval, show
from grpo.record.duration import duration
from recipes.schema.chain import Chain
from recipes.stages.artifact import Artifact


def write_summary(chain: Chain, output: Path, done: Mapping[str, Artifact], console: Console) -> None:
    """Write summary.json and report.html, and print the table."""
    rows = []
    for stage in chain.stages:
        summary = done[stage.name].summary
        row = {"name": stage.name, "kind": stage.kind, "model": stage.model or "base", **summary}
        rows.append(row | _change(output, stage.name, stage.model))
    summary = {"stages": rows, "wall_seconds": sum(row.get("wall_seconds", 0.0) for row in rows)}
    write_atomic(output / "summary.json", json.dumps(summary, indent=2))
    write_atomic(output / "report.html", _page(chain.source, rows))
    console.print(f"\n{_table(rows)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {output / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _change(output: Path, name: str, before: str | None) -> dict[str, Any]:
    """The paired difference of held-out accuracy, after the stage less after the one whose model it started from."""
    after, first = _held_out(output / "stages" / name)
    start = _held_out(output / "stages" / before)[0] if before else first
    common = sorted(after.keys() & start.keys())
    if len(common) < 2:
        return {}
    value, low, high = _points([start[key] for key in common], [after[key] for key in common])
    return {"change": {"value": value, "low": low, "high": high, "n": len(common)}}


def _points(a: list[float], b: list[float]) -> tuple[float, float, float]:
    low, high = paired_difference(a, b)
    return sum(b) / len(b) - sum(a) / len(a), low, high


def _held_out(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Problem -> share right after the stage, and before it; {} where it was not measured."""
    files = sorted((folder / "held_out").glob("step-*.json"))
    if not files:
        return {}, {}
    return json.loads(files[-1].read_text()), json.loads(files[0].read_text())


HEADS = ("stage", "kind", "from", "held-out accuracy", "change", "length", "steps", "time")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    after, change = row.get("after"), row.get("change")
    points = ""
    if change:
        points = f"{100 * change['value']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"
    return (
        row["name"],
        row["kind"],
        row["model"],
        interval(after) if after else "-",
        points or "-",
        show(after.get("length") if after else None, "{:.1f}"),
        str(row.get("steps", "-")),
        duration(row["wall_seconds"]) if "wall_seconds" in row else "-",
    )


def _table(rows: list[dict[str, Any]]) -> str:
    """Aligned lines, which no terminal breaks within a cell."""
    lines = [HEADS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _page(source: str, rows: list[dict[str, Any]]) -> str:
    note = (
        "Accuracy on held-out problems with its 95% interval; the change is paired, problem by problem, with the model "
        "that the stage started from, in points."
    )
    return shell(chain_table(rows), f"Zero: {Path(source).stem}", note, [], {})


def chain_table(rows: list[dict[str, Any]]) -> str:
    """The stages as a table of HTML, each with a link to its own page."""
    head = "".join(f"<th scope=col>{name}" for name in HEADS)
    body = ""
    for row in rows:
        name, *cells = (html.escape(cell) for cell in _cells(row))
        named = "".join(f'<td data-name="{key}">{cell}' for key, cell in zip(HEADS[1:], cells, strict=True))
        body += f'<tr><th scope=row><a href="stages/{name}/report.html">{name}</a>{named}'
    return f"<main><table class=results><thead><tr>{head}<tbody>{body}</table></main>"
