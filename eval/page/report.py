"""An evaluation's report: one page with its numbers, plots and every generation, which opens from a file.

The page is page.html in the frame that a run's page has (grpo/page/shell.py). Its data are the generations column by
column as JSON, compressed with gzip.
"""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, quantiles
from string import Template
from typing import Any

from eval.page.charts import Bar, accuracy_bar, bars, curves, share_ticks, token_ticks
from eval.page.table import estimate, shortened_in_words
from eval.store import read_generations
from eval.types import Generation
from grpo.page.bundle import pack_json
from grpo.page.shell import READING, asset, shell
from grpo.record.atomic import write_atomic

OUTCOMES = ("correct", "wrong", "no_answer", "malformed", "timeout", "error")
COLUMNS = (
    "benchmark",
    "accuracy",
    "problems",
    "samples",
    "pass@k",
    "maj@k",
    "truncated",
    "no answer",
    "failed",
    "protocol",
)
Results = Mapping[str, Mapping[str, Any]]  # results.json: an entry for each benchmark


def write_report(folder: Path) -> Path:
    """Write report.html from the folder's results.json and generations; returns its path.

    Raises FileNotFoundError without a results.json, StoreError without generations, OSError that names the file.
    """
    source = folder / "results.json"
    if not source.is_file():
        raise FileNotFoundError(f"{folder} holds no results.json, which an evaluation writes when it ends")
    results = json.loads(source.read_text(encoding="utf-8"))
    date = datetime.fromtimestamp(source.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    write_atomic(folder / "report.html", page(results, read_generations(folder), date))
    return folder / "report.html"


def page(results: Results, generations: Sequence[Generation], date: str) -> str:
    """The whole page as text."""
    models = dict.fromkeys(str(entry["model"]) for entry in results.values() if entry.get("model"))
    title = f"Evaluation of {', '.join(models)}" if models else "Evaluation"
    body = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8")).substitute(
        table=_table(results),
        protocols="".join(_protocol(name, entry) for name, entry in results.items()),
        plots="".join(_plots(results, generations)),
    )
    facts = (
        f"{date}, {len(generations):,} generations. Rates are means over problems, with 95% intervals. pass@k and "
        "maj@k are undefined below k samples a problem."
    )
    script = asset("browse.js") + (Path(__file__).parent / "browser.js").read_text(encoding="utf-8")
    return shell(
        body,
        title,
        facts,
        [*map(asset, ("parts.js", *READING)), script],
        {"generations": pack_json(columns_of(generations))},
        said=[text for name, entry in results.items() for text in _warnings(name, entry)],
    )


def columns_of(generations: Sequence[Generation]) -> dict[str, list[Any]]:
    """{field: [value of each]}"""
    fields = [field.name for field in dataclasses.fields(Generation)]
    return {field: [getattr(generation, field) for generation in generations] for field in fields}


# -- numbers ---------------------------------------------------------------------------------------


def _table(results: Results) -> str:
    head = "".join(f"<th scope=col>{name}" for name in COLUMNS)
    rows = "".join(f"<tr>{_row(name, entry)}" for name, entry in results.items())
    return f"<table class=results><thead><tr>{head}<tbody>{rows}</table>"


def _row(name: str, entry: Mapping[str, Any]) -> str:
    cells = (
        f"<b>{_estimate(entry['accuracy'])}</b>",
        _problems(entry),
        str(entry["n_samples"]),
        _at_k(entry["pass_at_k"]),
        _at_k(entry["maj_at_k"]),
        _estimate(entry["truncated"]),
        _estimate(entry["no_answer"]),
        f"{sum(entry['failed'].values()):,}",
        f"<code>{_hash_of(entry)}</code>",
    )
    named = zip(COLUMNS[1:], cells, strict=True)
    return f"<th scope=row>{html.escape(name)}" + "".join(f'<td data-name="{key}">{cell}' for key, cell in named)


def _problems(entry: Mapping[str, Any]) -> str:
    graded = entry.get("n_graded", entry["n_problems"])
    return f"{entry['n_problems']:,}" + f" ({graded:,} graded)" * (graded < entry["n_problems"])


def _at_k(values: Mapping[str, Any]) -> str:
    """At the largest k that was asked for; at 1 it is the accuracy."""
    k = max(map(int, values), default=1)
    if k == 1:
        return "-"
    return f"@{k} {_estimate(values[str(k)])}" if values[str(k)] else f"@{k} undefined"


def _estimate(value: Mapping[str, float] | None) -> str:
    number, _, interval = estimate(value).partition(" ")
    return f"{number} <span class=interval>{interval}</span>" if interval else number


def _hash_of(entry: Mapping[str, Any]) -> str:
    return html.escape(str(entry.get("protocol_hash") or "-"))


def _warnings(name: str, entry: Mapping[str, Any]) -> list[str]:
    """What is missing from the numbers, and why."""
    failed, came = entry["failed"], entry["n_generations"]
    asked = came + sum(failed.values())
    ungraded = {outcome: n for outcome, n in entry["outcomes"].items() if outcome in ("timeout", "error")}
    said = []
    if failed:
        said.append(f"{_counted(failed, asked)} never came; they are in no rate.")
    if ungraded:
        said.append(f"{_counted(ungraded, came)} could not be graded; they are not in the accuracy.")
    if shortened := shortened_in_words(entry):
        said.append(f"{shortened}.")
    return [f"{name}: {text}" for text in said]


def _counted(counts: Mapping[str, int], total: int) -> str:
    causes = ", ".join(f"{n:,} {cause}" for cause, n in counts.items())
    return f"{sum(counts.values()):,} of {total:,} generations ({causes})"


def _protocol(name: str, entry: Mapping[str, Any]) -> str:
    facts = "".join(
        f"<dt>{html.escape(str(key))}<dd>{html.escape(value if isinstance(value, str) else json.dumps(value))}"
        for key, value in (entry.get("protocol") or {}).items()
    )
    summary = f"<summary>Protocol of {html.escape(name)} <code>{_hash_of(entry)}</code></summary>"
    return f"<details>{summary}<dl>{facts}</dl></details>" if facts else ""


# -- plots -----------------------------------------------------------------------------------------


def _plots(results: Results, generations: Sequence[Generation]) -> list[str]:
    rows = [accuracy_bar(name, entry["accuracy"]) for name, entry in results.items() if entry["accuracy"]]
    plots = [_accuracy("Accuracy", "with its 95% interval", rows)] if rows else []
    for name, entry in results.items():
        of_it = [row for row in generations if row.benchmark == name]
        plots += [_by(f"{name}: accuracy by {kind}", groups) for kind, groups in entry["by"].items() if groups]
        plots += [*_at_k_curves(name, entry), *_lengths(name, of_it)]
    return plots


def _accuracy(title: str, note: str, rows: Sequence[Bar]) -> str:
    return bars(title, note, rows, 1, share_ticks())


def _by(title: str, groups: Mapping[str, Any]) -> str:
    rows = [
        accuracy_bar(f"{name} (n = {group['n_problems']})", group["accuracy"])
        for name, group in groups.items()
        if group["accuracy"]
    ]
    return _accuracy(title, "95% intervals; n problems", rows) if rows else ""


def _at_k_curves(name: str, entry: Mapping[str, Any]) -> list[str]:
    lines = {
        "pass@k": {int(k): value for k, value in entry["pass_at_k"].items() if value},
        "maj@k": {int(k): value for k, value in entry["maj_at_k"].items() if value},
    }
    lines = {label: line for label, line in lines.items() if len(line) > 1}
    note = "k on a logarithmic axis; bands are 95% intervals"
    return [curves(f"{name}: {' and '.join(lines)}", note, lines)] if lines else []


def _lengths(name: str, generations: Sequence[Generation]) -> list[str]:
    lengths: dict[str, list[int]] = {outcome: [] for outcome in OUTCOMES}
    for row in generations:
        if row.outcome is not None and row.tokens is not None:
            lengths[row.outcome].append(row.tokens)
    rows = [_length_bar(outcome, tokens) for outcome, tokens in lengths.items() if tokens]
    if not rows:
        return []
    top, ticks = token_ticks(max(row.high for row in rows))
    note = "tokens: the median, and between which 10% and 90% lie"
    return [bars(f"{name}: length by outcome", note, rows, top, ticks)]


def _length_bar(outcome: str, tokens: Sequence[int]) -> Bar:
    deciles = quantiles(tokens, n=10, method="inclusive") if len(tokens) > 1 else [tokens[0]] * 9
    text = f"median {deciles[4]:,.0f}, mean {fmean(tokens):,.0f}, n = {len(tokens):,}"
    return Bar(outcome.replace("_", " "), text, deciles[4], deciles[0], deciles[8], kind=outcome)
