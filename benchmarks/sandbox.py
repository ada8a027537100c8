"""Programs a second in the sandbox, beside plain subprocesses of the same interpreter in the same run.

    python -m benchmarks.sandbox [--programs N] [--rounds R] [--json FILE]

    program     a program with one input: a sandbox of its own for each
    inputs      a program with ten inputs, in one sandbox; plainly, a process for each input
    calls       a function that is called ten times: two sandboxes, the program's and its tests'; plainly, one process

A round's sandboxes share a host, as a reward's do (rewards/sandbox/host.py): its start is in the time. Both sides run
as many at once as there are cores. After a warm-up the two take turns; a ratio is that of one round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rewards.code.formats import Calls, Stdio
from rewards.code.judge import judge
from rewards.sandbox import AT_ONCE, Limits, Program, describe, together
from rewards.sandbox.tools import find

SOURCE = "print(sum(map(int, input().split())))"
FUNCTION = "def add(a, b):\n    return a + b\n"
INPUTS = [f"{n} {n + 1}\n" for n in range(10)]
ONE = Stdio(((INPUTS[0], "1\n"),))
TEN = Stdio(tuple((given, f"{2 * n + 1}\n") for n, given in enumerate(INPUTS)))
CALLS = Calls("add", tuple(((n, n + 1), (2 * n + 1,)) for n in range(10)))


def ours(source: str, tests: Stdio | Calls) -> bool:
    return judge(Program(source), tests, Limits()).ending == "passed"


def plain(source: str, inputs: list[str]) -> bool:
    command = [find().python.path, "-I", "-c", source]
    return all(subprocess.run(command, input=given, capture_output=True, text=True).returncode == 0 for given in inputs)


KINDS: dict[str, tuple[int, Callable[[], bool], Callable[[], bool]]] = {  # runs or calls of one, ours, theirs
    "program": (1, lambda: ours(SOURCE, ONE), lambda: plain(SOURCE, INPUTS[:1])),
    "inputs": (10, lambda: ours(SOURCE, TEN), lambda: plain(SOURCE, INPUTS)),
    "calls": (10, lambda: ours(FUNCTION, CALLS), lambda: plain(f"{FUNCTION}[add(n, n + 1) for n in range(10)]", [""])),
}


def seconds(one: Callable[[], bool], n: int) -> float:
    started = time.perf_counter()
    with together(n), ThreadPoolExecutor(AT_ONCE) as threads:
        passed = sum(threads.map(lambda _: one(), range(n)))
    assert passed == n, f"{passed} of {n} passed"
    return time.perf_counter() - started


def measure(name: str, programs: int, rounds: int) -> dict[str, object]:
    runs, mine, theirs = KINDS[name]
    n = max(AT_ONCE, programs // runs)
    seconds(mine, AT_ONCE), seconds(theirs, AT_ONCE)  # the warm-up
    times = [(seconds(mine, n), seconds(theirs, n)) for _ in range(rounds)]
    rate, their_rate = (n / statistics.median(column) for column in zip(*times, strict=True))
    ratios = [other / own for own, other in times]
    print(
        f"{name:8} {rate:6.1f} programs/s, {rate * runs:7.1f} runs or calls/s; plain {their_rate:6.1f} programs/s: "
        f"{statistics.median(ratios):.2f} times as fast [{min(ratios):.2f}, {max(ratios):.2f}], {rounds} rounds of {n}"
    )
    return {
        "programs_per_second": rate,
        "runs_per_second": rate * runs,
        "plain_programs_per_second": their_rate,
        "speedup": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200, help="runs of a round (default 200)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers there; `speedup` is that of one program")
    arguments = parser.parse_args()
    print(f"{describe()}, {AT_ONCE} at once")
    found = {name: measure(name, arguments.programs, arguments.rounds) for name in KINDS}
    if arguments.json:
        arguments.json.write_text(json.dumps({"speedup": found["program"]["speedup"], **found}, indent=1))


if __name__ == "__main__":
    main()
