"""What `zero watch` takes from the machine beside a run: CPU seconds of its server, of which training has so much less.

    python -m benchmarks.watching [--steps 30] [--json FILE]
    python -m benchmarks.watching --beside 60 [--json FILE]

A run is recorded, a step a second of 64 completions of about 300 characters, while a page asks for what is new every
second, reads each new index, and opens one group a step. Reported: the server's CPU seconds a step and in a second
without any, and how long after the step's line was written the page had it.

--beside: the built-in recipe, sampled in process, is trained twice from one seed, alone and beside `zero watch` with
such a page; the two take turns step by step (benchmarks/turns.py), so that each pair is the same work on the same
machine. Reported: how much slower the watched side's steps are, as a share.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.turns import Baton, Turns
from benchmarks.vs_trl import Settings, train
from tests import run_samples

COMMAND = "from recipes.command.main import main; main()"
ASKING = "import sys; from benchmarks.watching import ask_for_ever; ask_for_ever(sys.argv[1])"
WARM_UP = 3  # steps


def measure(steps: int, folder: Path) -> dict[str, Any]:
    run = run_samples.start_run(folder)
    server = start_server(folder)
    try:
        page = _Page(address_of(server))
        process = psutil.Process(server.pid)
        _add(run, 1)
        page.poll()
        begun, before = time.perf_counter(), _cpu(process)
        for _ in range(steps):
            time.sleep(1)
            page.poll()
        idle = (_cpu(process) - before) / (time.perf_counter() - begun)
        before, late = _cpu(process), []
        for step in range(2, steps + 2):
            _add(run, step)
            written = time.perf_counter()
            while page.steps < step:
                time.sleep(max(page.next - time.perf_counter(), 0))
                page.poll()
            late.append(time.perf_counter() - written)
        busy = (_cpu(process) - before) / steps
    finally:
        server.terminate()
        server.wait()
        run.close()
    return {
        "steps": steps,
        "cpu_seconds_a_step": busy,
        "cpu_seconds_a_second_without_steps": idle,
        "seconds_until_the_page_has_a_step": {"median": statistics.median(late), "most": max(late)},
    }


def start_server(run_dir: Path) -> subprocess.Popen[str]:
    line = [sys.executable, "-u", "-c", COMMAND, "watch", str(run_dir), "--port", "0"]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def address_of(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return next(line.split()[3] for line in server.stdout if line.startswith("watching "))


class _Page:
    """What the page in a browser asks for (grpo/page/assets/run.js)."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._asked = ""
        self.steps, self._indexed, self.next = 0, 0, 0.0

    def poll(self) -> None:
        self.next = time.perf_counter() + 1
        state = json.loads(self._get(f"state?{self._asked}"))
        if state.get("unchanged"):
            return
        self.steps = state["from"] + len(state["steps"])
        self._asked = f"epoch={state['epoch']}&steps={self.steps}&seen={state['version'].replace('/', '%2F')}"
        if state["indexed"] > self._indexed:
            self._get(f"part/index-{self._indexed}-{state['indexed']}")
            self._get(f"part/texts-{state['indexed']:06d}-000")
            self._indexed = state["indexed"]

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._address + path, timeout=60) as answer:
            return bytes(answer.read())


def _add(run: Any, step: int) -> None:
    run_samples.add_step(run, step, run_samples.step_rows(random.Random(step), step, 8, 8, 40, 0.5))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# -- training beside it -----------------------------------------------------------------------------------------------


def beside(pairs: int, folder: Path) -> dict[str, Any]:
    """What the same training steps cost with and without the watcher."""
    common = ("rollout.engine=transformers", "train.checkpoint_every=0", "train.eval_every=0", "eval.problems=8")
    overrides = (*common, f"train.steps={1 + WARM_UP + pairs + 1}")  # the first one is over when a side is ready
    programs = {
        name: (function, Settings(overrides, str(folder / name), "tiny_arithmetic_cpu"))
        for name, function in (("alone", train), ("watched", train_watched))
    }
    with Turns(programs, folder) as turns:
        turns.warm_up(WARM_UP)
        for _ in range(pairs):
            turns.round()
        alone, watched = (turns.sides[name] for name in programs)
        found = [[one["tokens"] for one in side.reports] for side in (alone, watched)]
    if found[0] != found[1]:
        raise RuntimeError("the two sides did not train on the same completions")
    slower = [b / a - 1 for a, b in zip(alone.seconds, watched.seconds, strict=True)]
    low, _, high = statistics.quantiles(slower, n=4)
    return {
        "pairs": pairs,
        "seconds_a_step": {"alone": statistics.median(alone.seconds), "watched": statistics.median(watched.seconds)},
        "slower": {"median": statistics.median(slower), "quartiles": [low, high]},
        "slower_in_all": sum(watched.seconds) / sum(alone.seconds) - 1,
    }


def train_watched(baton: Baton, settings: Settings) -> None:
    """`zero run` beside `zero watch` and a page that asks it, all stopped while it is the other side's turn."""
    server = start_server(Path(settings.output))
    page = subprocess.Popen([sys.executable, "-c", ASKING, address_of(server)])
    try:
        train(baton, settings)
    finally:
        for process in (page, server):
            process.terminate()
            process.wait()


def ask_for_ever(address: str) -> None:
    page = _Page(address)
    while True:
        page.poll()
        time.sleep(max(page.next - time.perf_counter(), 0))


def command(doc: str, measure: Callable[[argparse.Namespace, Path], dict[str, Any]], **counts: int) -> None:
    """The command of a benchmark: an option for each of `counts`, which are the defaults, and --json.

    `measure` gets the options and a folder that is thrown away; what it returns is printed.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = json.dumps(measure(asked, Path(folder)), indent=2)
    print(found)
    if asked.json:
        asked.json.write_text(found + "\n")


if __name__ == "__main__":
    command(
        __doc__ or "",
        lambda asked, folder: beside(asked.beside, folder) if asked.beside else measure(asked.steps, folder / "run"),
        steps=30,
        beside=0,
    )
