"""docs/grading.md: its programs run without what trains, and `rewards` is imported without it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.errors import OF_TRAINING

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
WITHOUT = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(OF_TRAINING)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_pages_programs_run_in_the_base_install(program: str) -> None:
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_rewards_is_imported_without_what_it_does_not_use() -> None:
    done = run("import rewards; print({'pydantic', 'mpmath', 'math_verify', 'sympy'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "eval", "serve", "filter", "doctor"])
def test_a_command_that_misses_what_trains_says_which_extra_brings_it(command: str, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"completion": "1", "answer": "1", "problem_id": "1"}\n')
    words = {
        "run": ["tiny_arithmetic_cpu"],
        "eval": ["--generations", str(data)],
        "serve": [str(tmp_path)],
        "filter": ["tiny_arithmetic_cpu", "--output", str(tmp_path / "out")],
        "doctor": [],
    }[command]
    done = run("from recipes.command.main import main; main()", command, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "pip install 'zero-rl[cpu]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_completions_are_scored_without_what_trains(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"completion": "<answer>1</answer>", "answer": "1"}\n')
    words = ["score", "--reward", "accuracy", "--data", str(data)]
    done = run("from recipes.command.main import main; main()", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 completions" in done.stdout
