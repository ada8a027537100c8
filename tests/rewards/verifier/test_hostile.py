"""200 hostile completions among 2,000 honest ones: each gets an outcome, and each honest one the right one."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from rewards.verifier.math import _pool, _settle, verify_all
from tests.processes import gone

pytestmark = pytest.mark.slow

HONEST, SECONDS, MEMORY = 2000, 60, 3 * 2**30


def in_tags(answer: str) -> str:
    return f"<think>some thought</think>\n<answer>{answer}</answer>"


def honest() -> list[tuple[str, str, str]]:
    """(completion, gold, outcome): numbers, expressions, and a few that only Math-Verify can read."""
    draw, rows = random.Random(0), []
    for i in range(HONEST):
        n, k = draw.randrange(2, 10_000), draw.randrange(2, 30)
        forms = [
            (f"{n:,}", str(n)),
            (f"\\frac{{{n * k}}}{{{k}}}", str(n)),
            (f"{n}.00 dollars", f"\\${n}"),
            (f"x^2+{2 * k}x+{k * k}", f"(x+{k})^2"),
            (f"\\{{{k}, -{n}\\}}", f"-{n}, {k}"),
            (f"\\frac{{\\sqrt{{{k}}}}}{{{k}}}", f"\\frac{{1}}{{\\sqrt{{{k}}}}}"),
        ]
        if i % 50 == 0:
            forms = [(f"{n}\\sum_{{k=1}}^{{m}} k", f"\\sum_{{k=1}}^{{m}} {n}k")]
        answer, gold = draw.choice(forms)
        right = i % 2 == 0
        rows.append((in_tags(answer if right else f"7{answer}"), gold, "correct" if right else "wrong"))
    return rows


def hostile() -> list[tuple[str, str]]:
    """Ten of each kind, with golds of several kinds, so that every path meets them."""
    rows = []
    for i in range(1, 11):
        answers = [
            "9^{" * i + "9" + "}" * i,
            f"(10^{{{i}0}})" + "!" * i,
            "!" * i + "5" + "!" * i,
            "\\frac{" * 10 * i + "1" + "}{2}" * 10 * i,
            "\\sqrt{" * 10 * i + "x" + "}" * 10 * i,
            "(" * 10 * i + "x" + ")" * 10 * i,
            "{" * i * 100_000,
            "}" * i * 100_000,
            "\\boxed{" * i * 10_000 + "1",
            "9" * 10**i if i < 7 else "9" * 10**6,
            "0." + "9" * 190 * i,
            "1" + "0" * 40 * i + "^{" + "9" * 40 * i + "}",
            "\0" * i * 1000 + "7\0",
            "a" * 190 * i + "!",
            "1 " * 90 * i + "x",
            ("1,111," * 30 * i)[:-1],
            "((a+)+)+" * 20 * i,
            "\\sin" * 40 * i + "x",
            "\\pm" * 60 * i + "1",
            "\\begin{pmatrix}" * i + "1&2\\\\" * 10 * i + "\\end{pmatrix}" * i,
        ]
        golds = ["42", "x^2+1", "1, 2", "(1,2]", "2\\sum_{k=1}^{m} k", "\\frac{\\sqrt{2}}{2}", "x+y=3"]
        rows += [(in_tags(answer), golds[(i + k) % len(golds)]) for k, answer in enumerate(answers)]
    return rows


def mixed() -> tuple[list[str], list[str], dict[int, str]]:
    """Completions and golds in a random order, and what is expected at which place."""
    rows: list[tuple[str, str, str]] = honest() + [(*row, "") for row in hostile()]
    random.Random(1).shuffle(rows)
    expected = {i: outcome for i, (_, _, outcome) in enumerate(rows) if outcome}
    return [row[0] for row in rows], [row[1] for row in rows], expected


def memory() -> int:
    """Bytes of this process, which other tests may have filled, and of its children."""
    own = psutil.Process()
    return sum(process.memory_info().rss for process in [own, *own.children(recursive=True)])


async def under_asyncio(completions: list[str], golds: list[str]) -> list:
    return verify_all(completions, golds)


@pytest.mark.parametrize("place", ["main thread", "thread", "asyncio"])
def test_hostile_completions_cost_no_honest_one_its_verdict(place: str) -> None:
    completions, golds, expected = mixed()
    assert len(completions) - len(expected) == 200
    _settle.cache_clear()
    _pool.close()
    before = memory()
    started = time.monotonic()
    if place == "main thread":
        scores = verify_all(completions, golds)
    elif place == "thread":
        with ThreadPoolExecutor(1) as thread:
            scores = thread.submit(verify_all, completions, golds).result()
    else:
        scores = asyncio.run(under_asyncio(completions, golds))
    took = time.monotonic() - started
    assert {i: scores[i].outcome for i in expected} == expected
    assert {scores[i].outcome for i in range(len(scores)) if i not in expected} <= {
        "wrong",
        "malformed",
        "timeout",
        "error",
    }
    assert took < SECONDS
    assert memory() - before < MEMORY


def test_no_process_is_left_when_the_caller_ends() -> None:
    code = """
from tests.rewards.verifier.test_hostile import _pool, mixed, verify_all
completions, golds, _ = mixed()
verify_all(completions, golds)
print([worker._process.pid for worker in _pool.workers])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    workers = [int(pid) for pid in done.stdout.strip(" []\n").split(",")]
    assert workers
    assert all(gone(pid) for pid in workers)
