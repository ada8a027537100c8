"""Throughput of the verifier, against Math-Verify called directly, side by side in one run.

    python -m benchmarks.verifier [--rows N] [--rounds R] [--json FILE]

Completions are the data sets' own solutions with their answer in a box; every second one has the answer of another
problem. Ours: rewards.verifier.math.verify_all, in one process, its caches emptied before each round. Theirs: parse and
verify on the same texts, in one process, with its timeouts off, which is its fastest way. After a warm-up the two take
turns; a ratio is that of one round. They are not asked to agree; the disagreements are counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from math_verify import parse, verify

from benchmarks.golds import DATA
from eval.problems.data import gold_answer
from rewards.verifier import math as ours
from rewards.verifier.spelling import tidy

Item = tuple[str, str]  # completion, gold answer


def items(name: str, rows: int) -> list[Item]:
    """`rows` solutions, every second with the answer of the row before."""
    question = {"gsm8k": "answer", "math": "solution"}[name]
    pattern = {"gsm8k": r"####\s*(.+)", "math": "boxed"}[name]
    lines = [json.loads(line) for line in (DATA / name / "test.jsonl").open(encoding="utf-8")]
    chosen = random.Random(0).sample(lines, rows)
    golds = [gold_answer(line[question], pattern) or "" for line in chosen]
    made = []
    for i, (line, gold) in enumerate(zip(chosen, golds, strict=True)):
        thinking = line[question].replace("\\boxed", "").partition("####")[0]
        answer = golds[i - 1] if i % 2 else gold
        made.append((f"<think>{thinking}</think>The answer is $\\boxed{{{answer}}}$.", gold))
    return made


def grade_ours(batch: Sequence[Item]) -> list[bool]:
    ours._settle.cache_clear()
    tidy.cache_clear()
    scores = ours.verify_all([completion for completion, _ in batch], [gold for _, gold in batch])
    return [score.value == 1.0 for score in scores]


def grade_math_verify(batch: Sequence[Item]) -> list[bool]:
    return [
        bool(
            verify(
                parse(f"${gold}$", parsing_timeout=None),
                parse(completion, parsing_timeout=None),
                timeout_seconds=None,
            )
        )
        for completion, gold in batch
    ]


def seconds(grade: Callable[[Sequence[Item]], list[bool]], batch: Sequence[Item]) -> float:
    started = time.perf_counter()
    grade(batch)
    return time.perf_counter() - started


def measure(name: str, rows: int, rounds: int) -> dict[str, object]:
    batch = items(name, rows)
    differ = sum(a != b for a, b in zip(grade_ours(batch), grade_math_verify(batch), strict=True))  # the warm-up
    times = [(seconds(grade_ours, batch), seconds(grade_math_verify, batch)) for _ in range(rounds)]
    ratios = [theirs / mine for mine, theirs in times]
    rate, their_rate = (rows / statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name}: {rate:,.0f} completions/s, Math-Verify {their_rate:,.0f}: "
        f"{statistics.median(ratios):.1f} times as fast [{min(ratios):.1f}, {max(ratios):.1f}] "
        f"over {rounds} rounds of {rows}; verdicts differ on {differ}"
    )
    return {
        "per_second": rate,
        "math_verify_per_second": their_rate,
        "speedup": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "verdicts_differ": differ,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="completions of each set (default 1000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers there; `speedup` is that on MATH")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # Math-Verify warns that its timeouts are off
    found = {name: measure(name, arguments.rows, arguments.rounds) for name in ("gsm8k", "math")}
    if arguments.json:
        arguments.json.write_text(json.dumps({"speedup": found["math"]["speedup"], **found}, indent=1))


if __name__ == "__main__":
    main()
