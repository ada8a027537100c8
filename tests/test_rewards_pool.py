"""The workers: what hangs is killed, what follows is graded right, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from rewards import compare
from rewards.pool import Pool

ITEMS = [("(x+1)^2", "correct"), ("(x-1)^2", "wrong"), ("(10^{10})!", "timeout"), ("x^2+2x+1+0", "correct")]
GOLD = "x^2+2x+1"
EXPECTED = [outcome for _, outcome in ITEMS]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool("rewards.symbolic", size=1, cpu_seconds=1.0, memory_gib=1.0)
    yield pool
    pool.close()


def outcomes(pool: Pool) -> list[str]:
    return [pool.ask({"answer": answer, "gold": GOLD})[0] for answer, _ in ITEMS]


def test_what_hangs_times_out_and_what_follows_is_right_in_any_thread(pool: Pool) -> None:
    async def under_asyncio() -> list[str]:
        return outcomes(pool)

    with ThreadPoolExecutor(1) as thread:
        in_thread = thread.submit(outcomes, pool).result()
    assert in_thread == outcomes(pool) == asyncio.run(under_asyncio()) == EXPECTED


def test_threads_that_share_one_worker_get_their_own_answers(pool: Pool) -> None:
    items = [(f"(x+{n})^2", f"x^2+{2 * n}x+{n * n}") for n in range(1, 9)]
    items += [(answer, gold.replace("+", "-")) for answer, gold in items]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda item: pool.ask({"answer": item[0], "gold": item[1]})[0], items))
    assert got == ["correct"] * 8 + ["wrong"] * 8


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9^{9}}}}",
        "\\binom{10^9}{5\\cdot 10^8}",
        "{" * 900 + "1" + "}" * 900,
        "\\frac{" * 150 + "1" + "}{2}" * 150,
        "\\sqrt{" * 300 + "x" + "}" * 300,
        "\0\\frac\0",
        "\\int" * 50,
        "\\sum_{n=1}^{10^{12}} n^{n}",
        "\ud800x^2",
    ],
    ids=lambda answer: repr(answer[:20]),
)
def test_hostile_answers_get_an_outcome_and_are_never_correct(pool: Pool, answer: str) -> None:
    started = time.monotonic()
    assert pool.ask({"answer": answer, "gold": GOLD})[0] in ("wrong", "timeout", "error")
    assert time.monotonic() - started < 30
    assert pool.ask({"answer": "(x+1)^2", "gold": GOLD})[0] == "correct"


def test_a_child_or_a_whole_worker_that_is_killed_costs_at_most_its_own_item(pool: Pool) -> None:
    assert outcomes(pool) == EXPECTED
    (worker,) = pool.workers
    (child,) = psutil.Process(worker._process.pid).children()
    child.kill()
    time.sleep(0.5)
    assert outcomes(pool) == EXPECTED  # the idle child's death answers no item
    os.killpg(worker._process.pid, signal.SIGKILL)
    assert pool.ask({"answer": "1", "gold": GOLD}) == ("error", "the worker died")
    assert outcomes(pool) == EXPECTED


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"did not start: .*No module named rewards\.nothing"):
        Pool("rewards.nothing", size=1, cpu_seconds=1, memory_gib=1).ask({})


@pytest.mark.parametrize("ending", ["exit", "kill -9 while busy"])
def test_no_worker_outlives_its_caller(ending: str) -> None:
    code = f"""
import os, signal, sys, threading, time
from rewards.math import _pool, compare
assert compare("(x+1)^2", "x^2+2x+1").value == 1.0
(worker,) = _pool.workers
print(worker._process.pid, flush=True)
if "busy" in {ending!r}:
    threading.Thread(target=compare, args=("(10^{{10}})!", "x"), daemon=True).start()
    time.sleep(0.3)
if "kill" in {ending!r}:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    caller = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    worker = int(caller.stdout)
    assert gone(worker, within=40), f"worker {worker} of a caller that ended by {ending} is still there"


def gone(group: int, within: float) -> bool:
    """Whether no process of the worker's group is left."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_forked_process_does_not_share_its_parents_workers() -> None:
    assert compare("(x+1)^2", GOLD).value == 1.0
    pid = os.fork()
    if pid == 0:
        os._exit(0 if compare("(x-1)^2", GOLD).outcome == "wrong" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert compare("(x+1)^2", GOLD).value == 1.0


def test_the_main_thread_and_another_give_the_same_scores() -> None:
    answers = ["(x+1)^2", "x^2", "\\frac{", "1", "x=1", "{", "x^2+2x+1"]
    found: list = []
    thread = threading.Thread(target=lambda: found.extend(compare(answer, GOLD) for answer in answers))
    thread.start()
    thread.join()
    assert found == [compare(answer, GOLD) for answer in answers]
