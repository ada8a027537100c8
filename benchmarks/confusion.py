"""The verifier's confusion matrix on labelled pairs made from the benchmarks' gold answers.

    python -m benchmarks.confusion [--limit N] [--seed S] [--json FILE] [--disagreements FILE]

Prints Markdown tables, for each data set and each kind of change, and the disagreements; every one of them goes to the
file, one JSON object a line. Every gold answer is also graded against itself, in <answer> tags and in a box.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.changes import UNEVALUATED
from benchmarks.golds import SETS, Gold, read_golds
from benchmarks.pairs import Pair, pairs
from rewards import Score
from rewards.verifier.math import verify_all

OUTCOMES = ("correct", "wrong", "no_answer", "malformed", "timeout", "error")
SHOWN = 50


def in_tags(answer: str) -> str:
    return f"<think>...</think><answer>{answer}</answer>"


def in_box(answer: str) -> str:
    return f"<think>...</think>So it is $\\boxed{{{answer}}}$."


def own_failures(golds: Sequence[Gold]) -> list[tuple[Gold, str, Score]]:
    """The golds that do not pass their own verifier, with the form in which they do not."""
    found = []
    for form in (in_tags, in_box):
        scores = verify_all([form(gold.text) for gold in golds], [gold.text for gold in golds])
        found += [(g, form.__name__, score) for g, score in zip(golds, scores, strict=True) if score.value != 1.0]
    return found


def sampled(dataset: str, limit: int | None, seed: int) -> list[Gold]:
    """The set's golds, or `limit` of them."""
    golds = list(read_golds(dataset))
    return golds if limit is None or limit >= len(golds) else random.Random(seed).sample(golds, limit)


def graded(labelled: Sequence[Pair]) -> list[Score]:
    return verify_all([in_tags(pair.answer) for pair in labelled], [pair.gold for pair in labelled])


def disagrees(pair: Pair, score: Score) -> bool:
    """A verdict other than the label; a failure to give one is no agreement."""
    return pair.kind not in UNEVALUATED and score.value != float(pair.equal)


def table(rows: Iterable[tuple[Pair, Score]], key: Callable[[Pair], str], title: str) -> list[str]:
    """A Markdown table: one line for each value of `key`, with the counts of outcomes and the agreement."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for pair, score in rows:
        counts[key(pair)][score.outcome] += 1
        counts[key(pair)]["disagree"] += disagrees(pair, score)
    lines = [f"| {title} | pairs | {' | '.join(OUTCOMES)} | agreement |", "|---" * (len(OUTCOMES) + 3) + "|"]
    for name, count in sorted(counts.items()):
        n = sum(count[outcome] for outcome in OUTCOMES)
        cells = " | ".join(str(count[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {name} | {n} | {cells} | {1 - count['disagree'] / n:.2%} |")
    return lines


def _label(pair: Pair) -> str:
    return "unevaluated" if pair.kind in UNEVALUATED else "must pass" if pair.equal else "must fail"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, metavar="N", help="at most N gold answers of each data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here")
    parser.add_argument("--disagreements", type=Path, metavar="FILE", default=Path("disagreements.jsonl"))
    arguments = parser.parse_args()
    golds = [gold for dataset in SETS for gold in sampled(dataset, arguments.limit, arguments.seed)]
    failures = own_failures(golds)
    labelled = list(pairs(golds, arguments.seed))
    rows = list(zip(labelled, graded(labelled), strict=True))
    wrong = [(pair, score) for pair, score in rows if disagrees(pair, score)]
    for key, title in (
        (_label, "label"),
        (lambda pair: f"{pair.dataset}, {_label(pair)}", "data set"),
        (lambda pair: f"{_label(pair)}: {pair.kind}", "kind"),
    ):
        print("\n".join(table(rows, key, title)) + "\n")
    print(f"{len(golds)} gold answers, {len(failures)} failures of a gold against itself")
    for gold, form, score in failures[:SHOWN]:
        print(f"  {gold.row} {form}: {gold.text!r} {score.outcome}: {score.reason}")
    print(f"{len(rows)} pairs, {len(wrong)} disagreements")
    for pair, score in wrong[:SHOWN]:
        print(f"  {pair.kind}: {pair.answer!r} for {pair.gold!r} is {score.outcome}: {score.reason} ({pair.row})")
    lines = [json.dumps({**asdict(pair), "outcome": score.outcome, "reason": score.reason}) for pair, score in wrong]
    arguments.disagreements.write_text("".join(line + "\n" for line in lines))
    if arguments.json:
        false_positives = sum(score.value == 1.0 and not pair.equal for pair, score in wrong)
        counts = {"golds": len(golds), "own_failures": len(failures), "pairs": len(rows), "disagreements": len(wrong)}
        arguments.json.write_text(json.dumps({**counts, "false_positives": false_positives}, indent=1) + "\n")


if __name__ == "__main__":
    main()
