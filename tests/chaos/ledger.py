"""Every prompt that a run should train is trained exactly once: a run's records beside those of an undisturbed run."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet

Row = Mapping[str, Any]
WHERE_AND_WHEN = ("seconds", "tokens_per_second", "server_restarts", "failed")  # beginnings of metrics' names


@dataclass(frozen=True)
class Ledger:
    """What a finished run wrote down.

    `stopped_after`: the last step before each time that it was asked to stop. `unread`: files that could not be read,
    and why.
    """

    rows: Mapping[int, Sequence[Row]]  # of each step's rollouts
    metrics: Sequence[Row]
    evaluations: Sequence[Row]
    weights: Mapping[str, bytes]  # of the last checkpoint: its files of tensors
    last_step: int
    summary: Row
    stopped_after: Sequence[int]
    unread: Sequence[str]


def read(run_dir: Path) -> Ledger:
    unread: list[str] = []
    rows = {}
    for path in sorted((run_dir / "rollouts").glob("step-*.parquet")):
        try:
            rows[int(path.stem.removeprefix("step-"))] = parquet.read_table(path).to_pylist()
        except (ArrowException, OSError) as error:
            unread.append(f"rollouts/{path.name}: {error}")
    kept = checkpoints(run_dir)
    summary, log_file = run_dir / "summary.json", run_dir / "logs" / "run.log"
    log = log_file.read_text(errors="replace") if log_file.is_file() else ""
    return Ledger(
        rows,
        list(_lines(run_dir / "metrics.jsonl", unread)),
        list(_lines(run_dir / "evaluations.jsonl", unread)),
        _weights(kept[-1]) if kept else {},
        int(kept[-1].name.removeprefix("step-")) if kept else 0,
        json.loads(summary.read_bytes()) if summary.is_file() else {},
        [int(step) for step in re.findall(r"stopping\. Last checkpoint: .*step-(\d+)\. Go on", log)],
        unread,
    )


def checkpoints(run_dir: Path) -> list[Path]:
    """Complete ones, the newest last; not those that were put aside."""
    return sorted(path for path in (run_dir / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{6}", path.name))


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run promised. `exact`: it repeats bit for bit. `all_scored`: no completion may be without a reward."""

    steps: int
    prompts: int  # a step
    group_size: int
    max_staleness: int = 0
    exact: bool = True
    all_scored: bool = True


def differences(found: Ledger, undisturbed: Ledger, terms: Terms) -> list[str]:
    """One line for each way in which the records are not those of a run in which nothing happened."""
    lines = [*found.unread, *_counts(found, terms), *_prompts(found, undisturbed)]
    if terms.exact and not lines:
        lines = [*_to_the_bit(found, undisturbed)]
    return lines


def _counts(found: Ledger, terms: Terms) -> Iterator[str]:
    steps = list(range(1, terms.steps + 1))
    if (there := [line["step"] for line in found.metrics]) != steps:
        yield f"metrics.jsonl has steps {there}, expected {steps}"
    if sorted(found.rows) != steps:
        yield f"rollouts has files of steps {sorted(found.rows)}, expected {steps}"
    evaluated = Counter(line["step"] for line in found.evaluations)
    if any(count > 1 for count in evaluated.values()) or not {0, terms.steps} <= evaluated.keys():
        yield f"evaluations.jsonl has steps {[line['step'] for line in found.evaluations]}"
    if found.last_step != terms.steps:
        yield f"checkpoints: the last one is of step {found.last_step}, expected {terms.steps}"
    if found.summary.get("steps") != terms.steps:
        yield f"summary.json has steps {found.summary.get('steps')}, expected {terms.steps}"
    for step, rows in found.rows.items():
        yield from _counts_of_step(step, rows, terms)
    for line in found.metrics:
        if terms.all_scored and line["failed"]:
            yield f"metrics.jsonl: step {line['step']}: {line['failed']:.0%} of the completions failed"
        if terms.max_staleness == 0 and (line.get("logprob_diff") or 0) > 1e-3:
            yield f"metrics.jsonl: step {line['step']}: other weights sampled, logprob_diff {line['logprob_diff']:.2g}"


def _counts_of_step(step: int, rows: Sequence[Row], terms: Terms) -> Iterator[str]:
    trained = [row for row in rows if not row["dropped"]]
    groups = Counter(row["group"] for row in trained)
    if terms.all_scored and sorted(groups.values()) != [terms.group_size] * terms.prompts:
        expected = f"{terms.prompts} of {terms.group_size}"
        yield f"rollouts: step {step} has groups of {list(groups.values())} rows, expected {expected}"
    if wrong := [row["step"] for row in rows if row["step"] != step]:
        yield f"rollouts: step {step} has rows of steps {wrong}"
    stale = {step - 1 - version for row in trained for version in row["versions"]}
    if stale and not 0 <= min(stale) <= max(stale) <= terms.max_staleness:
        yield f"rollouts: step {step} trained tokens {sorted(stale)} steps stale, expected 0 to {terms.max_staleness}"


def _prompts(found: Ledger, undisturbed: Ledger) -> Iterator[str]:
    here, there = prompts(found), prompts(undisturbed)
    if lost := there - here:
        yield f"rollouts: prompts never trained: {dict(lost)}"
    if again := here - there:
        yield f"rollouts: prompts trained more often than they should be: {dict(again)}"


def prompts(ledger: Ledger) -> Counter[str]:
    """How often each prompt was trained; a dropped group is not trained."""
    groups = {
        (step, row["group"]): row["prompt_id"]
        for step, rows in ledger.rows.items()
        for row in rows
        if not row["dropped"]
    }
    return Counter(groups.values())


def _to_the_bit(found: Ledger, undisturbed: Ledger) -> Iterator[str]:
    for step, rows in undisturbed.rows.items():
        if found.rows[step] != rows:
            yield f"rollouts: step {step} has other rows than the undisturbed run"
    for here, there in zip(found.metrics, undisturbed.metrics, strict=True):
        differ = {key for key in {**here, **there} if not _same(key, here, there)}
        if here["step"] in found.stopped_after and here["weight_version"] == there["weight_version"] - 1:
            differ.discard("weight_version")  # a step that a stop trains to its end is sent by the resume
        if differ:
            yield f"metrics.jsonl: step {here['step']} differs in {sorted(differ)}"
    if found.evaluations != undisturbed.evaluations:
        yield "evaluations.jsonl: other accuracies than the undisturbed run"
    for name in ("before", "after"):
        if found.summary[name] != undisturbed.summary[name]:
            yield f"summary.json: another accuracy {name}"
    if differ := [name for name in undisturbed.weights if found.weights.get(name) != undisturbed.weights[name]]:
        yield f"checkpoints: the last one differs in {differ[:5]}"


def _same(key: str, here: Row, there: Row) -> bool:
    return key.startswith(WHERE_AND_WHEN) or here.get(key) == there.get(key)


def _lines(path: Path, unread: list[str]) -> Iterator[Row]:
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], 1):
        try:
            yield json.loads(line, parse_constant=lambda _: math.inf)
        except ValueError as error:
            unread.append(f"{path.name}:{number}: {error}")


def _weights(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("*.safetensors"), *folder.glob("*/*.distcp")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
