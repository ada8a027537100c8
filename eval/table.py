"""The results of an evaluation as aligned lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADS = ("benchmark", "problems", "samples", "accuracy", "truncated", "no answer", "failed", "protocol")
RIGHT = (1, 2, 4, 5, 6)  # columns of numbers


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each benchmark of results.json, and one for its pass@k and maj@k where it has several samples.

    benchmark  problems  samples  accuracy              truncated  no answer  failed  protocol
    gsm8k           200        1  31.5% [25.4%, 38.2%]       2.0%       4.5%       0  0a1b2c3d4e5f
    """
    rows = [HEADS, *(_row(name, entry) for name, entry in results.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = [_aligned(HEADS, widths)]
    for row, entry in zip(rows[1:], results.values(), strict=True):
        lines += [_aligned(row, widths), *(f"  {several}" for several in _at_k(entry))]
    return "\n".join(lines)


def estimate(value: Mapping[str, float] | None) -> str:
    """`31.5% [25.4%, 38.2%]`, or a dash where it is not defined."""
    return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}]" if value else "-"


def shortened_in_words(entry: Mapping[str, Any]) -> str:
    """What a result says of completions whose limit of tokens was not the protocol's; "" if there are none."""
    if not (n := entry.get("shortened")):
        return ""
    limit = entry["protocol"]["max_tokens"]
    return (
        f"{n:,} of {entry['n_generations']:,} completions had less than max_tokens ({limit:,}): "
        "prompt and answer together are longer than what the model takes"
    )


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{entry['n_problems']}",
        f"{entry['n_samples']}",
        estimate(entry["accuracy"]),
        _share(entry["truncated"]),
        _share(entry["no_answer"]),
        f"{sum(entry['failed'].values())}",
        entry.get("protocol_hash") or "-",
    )


def _share(value: Mapping[str, float] | None) -> str:
    return f"{value['value']:.1%}" if value else "-"


def _at_k(entry: Mapping[str, Any]) -> list[str]:
    """The largest k of each that was asked for; undefined where too many problems have fewer graded samples."""
    if entry["n_samples"] < 2:
        return []
    found = []
    for label, values in (("pass", entry["pass_at_k"]), ("maj", entry["maj_at_k"])):
        k = max(map(int, values))
        found.append(f"{label}@{k} {estimate(values[str(k)]) if values[str(k)] else 'undefined'}")
    return ["   ".join(found)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        f"{cell:>{width}}" if column in RIGHT else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()
