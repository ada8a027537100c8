"""How many problems copying solves: every expression of a question, and each of its sides, offered as the answer.

    python -m benchmarks.copying [--limit N] [--json FILE]

Without the question beside the answer, and with it (rewards/verifier/question.py). What is left then are gold answers
that stand in their question as they are.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.golds import DATA, SETS, read_golds
from rewards.verifier.math import compare_all
from rewards.verifier.question import MATHEMATICS

COPIED = ("math500", "math", "minerva_math", "olympiadbench")


def questions(dataset: str) -> Iterator[str]:
    """In the order of read_golds."""
    for file in sorted((DATA / dataset).glob("*.jsonl")):
        for line in file.open(encoding="utf-8"):
            row = json.loads(line)
            yield "\n\n".join(filter(None, (row.get("context"), row.get("problem") or row.get("question"))))


def offers(question: str) -> list[str]:
    """What can be copied: whole expressions, and what stands between their signs of relation and commas."""
    found = [next(filter(None, one.groups())) for one in MATHEMATICS.finditer(question)]
    parts = [part.strip(" .") for one in found for part in re.split(r"=|,(?![^()]*\))|<|>", one)]
    return list(dict.fromkeys(filter(None, (*found, *parts))))


def solved(dataset: str, limit: int | None) -> tuple[int, int, int]:
    """Problems, and how many are solved by copying: without the question, and beside it."""
    rows = [row for row in zip(read_golds(dataset), questions(dataset), strict=True) if row[0].text][:limit]
    tried = [(gold, question, offer) for gold, question in rows for offer in offers(question)]
    counts = []
    for beside in (False, True):
        scores = compare_all(
            [(offer, gold.text) for gold, _, offer in tried], [q if beside else None for _, q, _ in tried]
        )
        right = defaultdict(bool)
        for (gold, _, _), score in zip(tried, scores, strict=True):
            right[gold.row] |= score.value == 1.0
        counts.append(sum(right.values()))
    return len(rows), counts[0], counts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, metavar="N", help="at most N problems of each data set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here")
    arguments = parser.parse_args()
    counts = {}
    print("| data set | problems | solved without the question | beside it |\n| --- | --- | --- | --- |")
    for dataset in COPIED:
        assert dataset in SETS
        n, without, beside = solved(dataset, arguments.limit)
        counts[dataset] = {"problems": n, "without_question": without, "with_question": beside}
        print(f"| {dataset} | {n} | {without} ({without / n:.1%}) | {beside} ({beside / n:.1%}) |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
