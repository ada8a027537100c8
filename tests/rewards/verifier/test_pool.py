"""The workers: what hangs is killed, what follows is graded right, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from rewards import compare
from rewards.verifier.pool import Pool
from tests.processes import gone

pytestmark = pytest.mark.slow

ITEMS = ["a", "loop", "b", "allocate", "c", "die", "print"]
EXPECTED = ["correct", "timeout", "correct", "error", "correct", "error", "correct"]
GOLD = r"\sum_{k=1}^{n} 2k"  # only Math-Verify can read it
SAME, OTHER = r"2\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} k^2"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool("tests.pool_worker", size=1, cpu_seconds=1.0, memory_gib=1.0)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def math_verify() -> Iterator[Pool]:
    pool = Pool("rewards.verifier.symbolic", size=1, cpu_seconds=1.0, memory_gib=1.0)
    yield pool
    pool.close()


def outcomes(pool: Pool) -> list[str]:
    return [pool.ask({"do": item})[0] for item in ITEMS]


def test_what_hangs_times_out_and_what_follows_is_right_in_any_thread(pool: Pool) -> None:
    async def under_asyncio() -> list[str]:
        return outcomes(pool)

    with ThreadPoolExecutor(1) as thread:
        in_thread = thread.submit(outcomes, pool).result()
    assert in_thread == outcomes(pool) == asyncio.run(under_asyncio()) == EXPECTED


def test_threads_that_share_one_worker_get_their_own_answers(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda n: pool.ask({"do": str(n)}), range(40)))
    assert got == [("correct", str(n)) for n in range(40)]


def test_many_items_come_back_in_order_from_several_workers() -> None:
    pool = Pool("tests.pool_worker", size=2, cpu_seconds=1.0, memory_gib=1.0)
    got = pool.ask_all([{"do": item} for item in [*"abcdef", "loop", *"ghi"]])
    assert [reason for _, reason in got[:6] + got[7:]] == list("abcdefghi")
    assert got[6][0] == "timeout"
    assert len(pool.workers) == 2
    pool.close()


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
def test_hostile_answers_get_an_outcome_and_are_never_correct(math_verify: Pool, answer: str) -> None:
    assert math_verify.ask({"answer": answer, "gold": GOLD})[0] in ("wrong", "timeout", "error")
    assert math_verify.ask({"answer": SAME, "gold": GOLD})[0] == "correct"


def test_a_child_or_a_whole_worker_that_is_killed_costs_at_most_its_own_item(pool: Pool) -> None:
    assert outcomes(pool) == EXPECTED
    (worker,) = pool.workers
    (child,) = psutil.Process(worker._process.pid).children()
    child.kill()
    time.sleep(0.5)
    assert outcomes(pool) == EXPECTED  # the idle child's death answers no item
    os.killpg(worker._process.pid, signal.SIGKILL)
    assert pool.ask({"do": "a"}) == ("error", "the worker died")
    assert outcomes(pool) == EXPECTED


def test_the_late_report_of_an_idle_childs_death_is_not_charged_to_the_next_item(pool: Pool) -> None:
    pool.ask({"do": "a"})
    (worker,) = pool.workers
    process = psutil.Process(worker._process.pid)
    process.suspend()  # it cannot report yet
    process.children()[0].kill()
    with ThreadPoolExecutor(1) as thread:
        asked = worker._sent
        verdict = thread.submit(pool.ask, {"do": "b"})
        while worker._sent == asked:
            time.sleep(0.01)
        time.sleep(0.2)  # the item is in the pipe
        process.resume()
        assert verdict.result() == ("correct", "b")


def test_late_replies_are_dropped_and_the_one_behind_them_in_the_pipe_is_read(pool: Pool) -> None:
    assert pool.ask({"do": "late"}) == ("correct", "late")  # among replies to items that nobody waits for
    assert pool.ask({"do": "a"}) == ("correct", "a")


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"did not start: .*No module named rewards\.nothing"):
        Pool("rewards.nothing", size=1, cpu_seconds=1, memory_gib=1).ask({})


@pytest.mark.parametrize("ending", ["exit", "kill -9 while busy"])
def test_no_worker_outlives_its_caller(ending: str) -> None:
    code = f"""
import os, signal, threading, time
from rewards.verifier.pool import Pool
from tests.processes import gone
pool = Pool("tests.pool_worker", size=1, cpu_seconds=1.0, memory_gib=1.0)
pool.ask(dict(do="a"))
(worker,) = pool.workers
print(worker._process.pid, flush=True)
if "busy" in {ending!r}:
    threading.Thread(target=pool.ask, args=(dict(do="loop"),), daemon=True).start()
    time.sleep(0.3)
if "kill" in {ending!r}:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    caller = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    worker = int(caller.stdout)
    assert gone(worker), f"worker {worker} of a caller that ended by {ending} is still there"


def test_a_forked_process_does_not_share_its_parents_workers() -> None:
    assert compare(SAME, GOLD).value == 1.0
    pid = os.fork()
    if pid == 0:
        os._exit(0 if compare(OTHER, GOLD).outcome == "wrong" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert compare(SAME, GOLD).value == 1.0
