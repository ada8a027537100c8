r"""Whether anything escapes grading, or takes long: broken answers against broken golds, and completions around them.

    python -m benchmarks.fuzz [--pairs N] [--seed S] [--json FILE] [--slow FILE]

Golds are those of the benchmark sets at hand, of the generated tasks, and of every form; answers are changed as
benchmarks/rewritings and benchmarks/near_misses change them, cut off, run into each other, or made of pieces of LaTeX.
Each pair is compared, each second one also as a completion beside a question, with the real workers. Prints the
outcomes, what escaped, and what took longer than LIMIT seconds; the exit code is 1 if there was any.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import near_misses, rewritings  # noqa: F401 - they register their changes
from benchmarks.changes import NEAR_MISSES, REWRITINGS
from benchmarks.golds import SETS, read_golds
from eval.problems.generated import generate
from rewards import compare, verify

LIMIT = 2.0  # seconds of one pair
_GOLDS = r"""
42; -7; 1,200; 0.75; 3/4; \frac{3}{4}; 2\sqrt{3}; x^2+2x+1; 50%; 5 cm; 3:2; 11_2; 2.5e-3; 5 million; Evelyn; \text{(B)}
(1, 2); (1,2]; \{1, 2, 3\}; x=1,y=2; 1\pm\sqrt{2}; \begin{pmatrix}1&2\\3&4\end{pmatrix}; 90^\circ; 0.1\overline{6}
x+y=3; 1<x\leq 2; x \neq 3; \sqrt{x}=10^{-40}; \mathbb{R}\setminus\{5\}; (-\infty,3)\cup(5,\infty); f(x)=x^2
5\sqrt{3}\approx 8.66; 10\cdot 9=90; \sin x+\log_2 8; \binom{5}{2}; e^{-1000}+160; 10^{-50}; \sum_{k=1}^{n} 2k
f(x)=cx, \text{ where } c \text{ is a constant}; x=2k\pi, k\in\mathbb{Z}; n2^{n-1}; 60\mathrm{~km}/\mathrm{h}; 1:2:3
V_1:V_2=11:21; \angle APD=108^\circ; (x,y,z,t)=(3,1,2,2); 100,200,300; \{100,\,200\}; The value of $x$ is 5; Yes; ACD
"""
GOLDS = [gold for line in _GOLDS.split("\n") for gold in line.split("; ") if gold]
_SIGNS = r"""
\neq = < \leq \cup \setminus\{ \approx { } ( ) [ ] , | & ^{ \frac \sqrt{ \pm \infty \begin{pmatrix} 10^{-40} 10^{400}
! _ 0 x - / % \\ e999 1e-40 : \text{ \mathrm{~km} \Rightarrow != ** $ \boxed{ <answer> </think> #### for all where is
"""
PIECES = [*_SIGNS.split(), "\0", "\ud800", "\N{ARABIC-INDIC DIGIT FOUR}", "\N{SUPERSCRIPT TWO}", "\x0crac{", "\ufeff"]


def cut_or_mixed(text: str, draw: random.Random, golds: Sequence[str] = GOLDS) -> str:
    """Cut off, without its beginning, with a piece left out or put in, or run into another gold."""
    for _ in range(draw.randrange(1, 4)):
        start, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        piece = draw.choice(PIECES)
        forms = (text[:end], text[start:], text[:start] + text[end:], text[:end] + piece + text[end:])
        text = draw.choice((*forms, text[:end] + piece + draw.choice(golds)))
    return text


def pairs(n: int, seed: int, golds: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """(answer, gold): golds, changed as benchmarks change them, and broken."""
    draw = random.Random(seed)
    golds = [*GOLDS, *(row["answer"] for row in generate("arithmetic", "train", 20, 0)), *golds]
    changes = [*REWRITINGS.values(), *NEAR_MISSES.values()]
    for _ in range(n):
        gold = draw.choice(golds)
        if draw.random() < 0.05:
            answer = "".join(draw.choices(PIECES, k=draw.randrange(1, 30)))
        else:
            answer = gold if draw.random() < 0.6 else draw.choice(changes)(gold, draw) or draw.choice(golds)
        yield cut_or_mixed(answer, draw, golds), gold if draw.random() < 0.7 else cut_or_mixed(gold, draw, golds)


def golds_at_hand() -> list[str]:
    found = []
    for name in SETS:
        try:
            found += [gold.text for gold in read_golds(name) if gold.text]
        except FileNotFoundError:
            print(f"no data of {name}")
    return sorted(set(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here")
    parser.add_argument(
        "--slow", type=Path, metavar="FILE", default=Path("slow.jsonl"), help="the slow and the escaped"
    )
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    slowest = 0.0
    compare(r"2\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} 2k")  # a worker's start takes seconds, once
    for i, (answer, gold) in enumerate(pairs(arguments.pairs, arguments.seed, golds_at_hand())):
        gradings = [lambda answer=answer, gold=gold: compare(answer, gold)]
        if i % 2:
            text, question = f"<think>{gold}</think>So \\boxed{{{answer}}}", f"What is ${gold}$?"
            gradings.append(lambda text=text, gold=gold, question=question: verify(text, gold, question=question))
        for grade in gradings:
            started, score, escaped = time.perf_counter(), None, ""
            try:
                score = grade()
            except Exception as failure:  # what a command that looks for escapes is for
                escaped = repr(failure)
            seconds = time.perf_counter() - started
            slowest = max(slowest, seconds)
            outcomes[score.outcome if score else "escaped"] += 1
            if seconds > LIMIT or score is None or (score.outcome == "error" and gold.strip()):
                kept.append(
                    {"answer": answer, "gold": gold, "seconds": seconds, "escaped": escaped, "score": str(score)}
                )
        if (i + 1) % 100_000 == 0:
            print(f"{i + 1} pairs: {dict(outcomes)}, slowest {slowest:.2f} s", flush=True)
    counts = {
        "pairs": arguments.pairs,
        "gradings": sum(outcomes.values()),
        "outcomes": dict(outcomes),
        "escaped": sum(bool(one["escaped"]) for one in kept),
        "over_limit": sum(one["seconds"] > LIMIT for one in kept),
        "slowest_seconds": slowest,
    }
    print(json.dumps(counts, indent=1))
    arguments.slow.write_text("".join(json.dumps(one) + "\n" for one in kept))
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=1) + "\n")
    sys.exit(1 if counts["escaped"] or counts["over_limit"] else 0)


if __name__ == "__main__":
    main()
