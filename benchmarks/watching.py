"""What `zero watch` takes from the machine beside a run: CPU seconds of its server, of which training has so much less.

    python -m benchmarks.watching [--steps 30] [--json FILE]

A run is recorded, a step a second of 64 completions of about 300 characters, while a page asks for what is new every
second, reads each new index, and opens one group a step. Reported: the server's CPU seconds a step and in a second
without any, and how long after the step's line was written the page had it.
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
from pathlib import Path
from typing import Any

import psutil

from tests import run_samples

COMMAND = "from recipes.command.main import main; main()"


def measure(steps: int, folder: Path) -> dict[str, Any]:
    run = run_samples.start_run(folder)
    server = subprocess.Popen(
        [sys.executable, "-u", "-c", COMMAND, "watch", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[3]
        page = _Page(address)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(asked.steps, Path(folder) / "run")
    print(json.dumps(found, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
