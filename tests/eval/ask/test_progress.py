"""What a person sees of an evaluation where there is no terminal, and the table at its end."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from eval.ask.progress import Lines, open_progress
from eval.page.table import results_table
from tests.eval.test_store import failed, generation


def test_without_a_terminal_there_is_a_line_at_each_tenth_with_the_time_left() -> None:
    console = Console(file=io.StringIO(), width=40)
    progress = open_progress(console)
    assert isinstance(progress, Lines)
    progress.start("gsm8k", done=100, total=200)
    for problem in range(100):
        progress.step(failed(problem=problem) if problem < 10 else generation(problem, value=float(problem % 2)))
    progress.close()
    first, *lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first == "gsm8k: 200 completions, 100 of them stored already"
    assert [line.partition(",")[0] for line in lines] == [f"gsm8k {n}/200" for n in (120, 140, 160, 180, 200)]
    assert re.fullmatch(r"gsm8k 120/200, \d+s left, 50\.0% right so far, 10 failed", lines[0])


def entry(**changes: Any) -> dict[str, Any]:
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    usual = {
        "n_problems": 200, "n_samples": 1, "accuracy": half, "truncated": half, "no_answer": None, "failed": {},
        "pass_at_k": {"1": half}, "maj_at_k": {"1": half}, "protocol_hash": "0a1b2c3d4e5f",
    }  # fmt: skip
    return usual | changes


def test_the_table_has_a_line_for_each_benchmark_and_one_for_pass_and_maj_at_k() -> None:
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    several = entry(n_samples=8, pass_at_k={"1": half, "8": half}, maj_at_k={"1": half, "8": None})
    nothing = entry(accuracy=None, failed={"server": 3, "timeout": 1}, protocol_hash=None)
    table = results_table({"gsm8k": entry(), "aime24": several, "amc23": nothing})
    assert table.splitlines() == [
        "benchmark  problems  samples  accuracy              truncated  no answer  failed  protocol",
        "gsm8k           200        1  50.0% [40.0%, 60.0%]      50.0%          -       0  0a1b2c3d4e5f",
        "aime24          200        8  50.0% [40.0%, 60.0%]      50.0%          -       0  0a1b2c3d4e5f",
        "  pass@8 50.0% [40.0%, 60.0%]   maj@8 undefined",
        "amc23           200        1  -                         50.0%          -       4  -",
    ]
