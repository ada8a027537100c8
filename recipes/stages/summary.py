"""What the stages of a chain did to held-out accuracy, length, format and language, in one table and one page.

    accuracy    after the stage, with its 95% interval; `change`: paired with the model that the stage started from
    length      tokens of a completion, mean, before and after the stage
    format      share of the answers that the verifier could read, right or wrong
    language    share of the words of the thoughts that are in the language asked for (English), by their script

All of these are of the stage's own held-out problems; a stage that only samples has none.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from eval.stats.intervals import paired_difference
from grpo.page.shell import shell
from grpo.record.atomic import write_atomic
from grpo.record.display import interval, show
from grpo.record.duration import duration
from recipes.stages.artifact import StageError, read_artifact

CHAIN = "chain.yaml"
READ = ("correct", "wrong")  # outcomes of an answer that stood where it was asked for


def write_summary(output: Path, console: Console) -> None:
    """Write summary.json and report.html of a finished chain, and print the table."""
    rows = read_rows(output)
    summary = {"stages": rows, "wall_seconds": sum(row.get("wall_seconds", 0.0) for row in rows)}
    write_atomic(output / "summary.json", json.dumps(summary, indent=2))
    write_page(output, console, rows)


def write_page(output: Path, console: Console, rows: list[dict[str, Any]] | None = None) -> None:
    """Write report.html of a chain, finished or not, and print the table. `rows`: None: read them."""
    rows = read_rows(output) if rows is None else rows
    write_atomic(output / "report.html", _page(output.resolve().name, rows))
    console.print(f"\n{_table(rows)}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {output / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Every stage in the order of the chain: name, kind, model, and the summary of one that is finished.

    Raises StageError if there is no chain in the folder, or a file of it is damaged.
    """
    try:
        stages = yaml.safe_load((output / CHAIN).read_bytes())["stages"]
        models = {name: str(settings["model"]["path"]) for name, settings in stages.items()}
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise StageError(f"{output / CHAIN}: {error}; expected the directory of a chain") from error
    rows = []
    for name, settings in stages.items():
        start = models[name] if models[name] in stages else None
        row = {"name": name, "kind": settings.get("kind"), "model": start or "base"}
        if artifact := read_artifact(output / "stages" / name):
            row |= {**artifact.summary, **_change(output, name, start)}
        rows.append(row)
    return rows


def _change(output: Path, name: str, before: str | None) -> dict[str, Any]:
    """The paired difference of held-out accuracy, after the stage less after the one whose model it started from."""
    after, first = _held_out(output / "stages" / name)
    start = _held_out(output / "stages" / before)[0] if before else first
    common = sorted(after.keys() & start.keys())
    if len(common) < 2:  # the stage before has other tasks
        start = first
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


# -- The table ---------------------------------------------------------------------------------------------------------

HEADS = ("stage", "kind", "from", "held-out accuracy", "change", "length", "format", "language", "steps", "time")


def _lines(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A stage; of one with several tasks, each of these below it."""
    for row in rows:
        yield _cells(row)
        before, after = ((row.get(key) or {}).get("tasks") or {} for key in ("before", "after"))
        for name, one in after.items():
            measures = _measures(before.get(name), one)
            yield (f"  {name}", "", "", interval(one), "", *measures, "", "")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    after, change = row.get("after"), row.get("change")
    points = ""
    if change:
        points = f"{100 * change['value']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]"
    return (
        row["name"],
        str(row["kind"]),
        row["model"],
        interval(after) if after else "-",
        points or "-",
        *_measures(row.get("before"), after),
        str(row.get("steps", "-")),
        duration(row["wall_seconds"]) if "wall_seconds" in row else "not finished",
    )


def _measures(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Length, format and language: `41.2 → 23.4`; after alone, where there is nothing before."""
    ends = [one for one in (before, after) if one]

    def cell(values: list[float | None], form: str) -> str:
        return " → ".join(show(value, form) for value in values) if any(v is not None for v in values) else "-"

    return (
        cell([one.get("length") for one in ends], "{:.1f}"),
        cell([_readable(one.get("outcomes")) for one in ends], "{:.1%}"),
        cell([one.get("language") for one in ends], "{:.1%}"),
    )


def _readable(outcomes: Mapping[str, int] | None) -> float | None:
    asked = sum((outcomes or {}).values())
    return sum((outcomes or {}).get(name, 0) for name in READ) / asked if asked else None


def _table(rows: list[dict[str, Any]]) -> str:
    """Aligned lines, which no terminal breaks within a cell."""
    lines = [HEADS, *_lines(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _page(name: str, rows: list[dict[str, Any]]) -> str:
    note = (
        "Accuracy on held-out problems with its 95% interval; the change is paired, problem by problem, with the model "
        "that the stage started from, in points. Before and after the stage: length, mean tokens of a completion; "
        "format, the share of answers that could be read; language, the share of words in the language asked for."
    )
    return shell(chain_table(rows), f"Zero: {name}", note, [], {})


def chain_table(rows: list[dict[str, Any]]) -> str:
    """The stages as a table of HTML, each with a link to its own page."""
    head = "".join(f"<th scope=col>{name}" for name in HEADS)
    names = {row["name"] for row in rows}
    body = ""
    for line in _lines(rows):
        name, *cells = (html.escape(cell) for cell in line)
        named = "".join(f'<td data-name="{key}">{cell}' for key, cell in zip(HEADS[1:], cells, strict=True))
        own = f'<a href="stages/{name}/report.html">{name}</a>' if name in names else name
        body += f"<tr><th scope=row>{own}{named}"
    return f"<main><table class=results><thead><tr>{head}<tbody>{body}</table></main>"
