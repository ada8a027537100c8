"""Every script in examples/ runs as it stands, in a folder that has files with our packages' names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes import Run
from tests import forked

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
RUNS = {  # script -> where its run is, in the folder that it is given, and its steps
    "train.py": (".", 4),
    "own_reward_and_data.py": ("run", 4),
    "own_loss_and_advantage.py": (".", 3),
    "trainer.py": (".", 3),
}


def run_example(script: str, folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    if script == "train.py":  # from the start of Python on, as a user starts it
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    else:
        done = forked.run(command, cwd=folder, env=environment, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("script", RUNS)
def test_an_example_trains(script, tmp_path):
    (tmp_path / "rewards.py").write_text("raise SystemExit('the user\\'s own rewards.py was imported')\n")
    place, steps = RUNS[script]
    run_example(script, tmp_path, str(tmp_path / "out"))
    run = Run(tmp_path / "out" / place)
    assert run.metrics["step"] == list(range(1, steps + 1))
    assert run.summary["steps"] == steps
    assert steps in run.checkpoints
    assert {"accuracy"} <= {name.partition("/")[2] for name in run.metrics.column_names if name.startswith("reward/")}


def test_the_example_that_looks_at_a_run_makes_one(tmp_path):
    assert "the hardest problem" in run_example("look_at_a_run.py", tmp_path)


def test_the_example_of_evaluation_compares_what_it_graded(tmp_path):
    said = run_example("evaluate.py", tmp_path, str(tmp_path / "out"))
    assert "outcome='correct'" in said
    assert "33.3%" in said
    assert "58.3%" in said
    assert "25" in said  # points between them


def test_every_example_is_run_here_and_listed():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {*RUNS, "look_at_a_run.py", "evaluate.py"}
    listed = (EXAMPLES / "README.md").read_text()
    assert {name for name in scripts if f"`{name}`" not in listed} == set()
