"""The benchmarks of processes, syncs and fleets run in a small shape, and count what they say. No time is tested."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fleet, processes, sync
from benchmarks.memory import Peak

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = [
    "rollout.prompts_per_step=4", "rollout.group_size=4", "rollout.max_tokens=16", "train.checkpoint_every=0",
]  # fmt: skip


def run(folder: Path, module: str, *arguments: str) -> tuple[Any, str]:
    """What the command stores and what it prints."""
    file = folder / "found.json"
    line = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--json", str(file)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(file.read_text()), done.stdout


def test_a_peak_is_the_highest_of_what_was_seen_while_the_block_ran():
    values, seen = iter([3, 9, 4]), threading.Event()

    def measure() -> int:
        value = next(values, 5)
        if value == 5:
            seen.set()
        return value

    with Peak(measure) as peak:
        assert seen.wait(60)
    assert peak.bytes == 9


def test_memory_by_processes_is_said_of_every_process_at_every_number(tmp_path):
    found, printed = run(tmp_path, "processes", "--shape", "tiny", "--tokens", "600", "--processes", "1", "2")
    assert {number: len(ranks) for number, ranks in found["ranks"].items()} == {"1": 1, "2": 2}
    for ranks in found["ranks"].values():
        for one in ranks:
            assert one["training"] >= one["held"] > 0.1  # torch alone takes that
            assert one["loading"] > 0.1
    for row in processes.rows(found):
        assert " | ".join(row) in printed


@pytest.mark.server
def test_a_sync_is_measured_with_a_real_server(tmp_path):
    found, printed = run(tmp_path, "sync", "--shape", "smollm2-135m", "--transports", "files", "--syncs", "1")
    (one,) = found["syncs"]
    assert one["weights"] == pytest.approx(269e6 / 2**30, rel=0.01)  # 134.5M in bf16
    assert one["seconds"]["median"] >= one["seconds_paused"]["median"] > 0
    # The version that is served lies there, and beside it the one that is being sent.
    assert one["files"] == pytest.approx(2 * one["weights"], rel=0.01)
    assert one["trainer"] >= 0
    assert one["server"] >= 0
    assert " | ".join(sync.rows(found)[0]) in printed


@pytest.mark.server
def test_two_servers_take_turns_with_one(tmp_path):
    more = ["--recipe", "tiny_arithmetic_cpu", "--model", "tiny", "--rounds", "1", "--set", *SMALL]
    found, printed = run(tmp_path, "fleet", *more)
    assert found["speedup"]["median"] == pytest.approx(
        found["seconds"]["one"]["median"] / found["seconds"]["two"]["median"]
    )
    peaks = found["peak_gib"]
    assert peaks["two"]["all"] - peaks["two"]["process"] > 1.5 * (peaks["one"]["all"] - peaks["one"]["process"])
    for row in fleet.rows(found):
        assert " | ".join(row) in printed
