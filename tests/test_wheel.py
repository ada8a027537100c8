"""The wheel, installed in an environment of its own, used in a folder whose files have our packages' names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("grpo", "rewards", "recipes", "eval")


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `zero` of a fresh environment that has the wheel, and of this one the dependencies alone."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(built), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = built.glob("*.whl")

    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", str(wheel)], check=True)
    # A path in a .pth file is added as it is: the .pth file of our editable installation in it is not read.
    purelib = sysconfig.get_path("purelib")
    place = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    Path(place, "dependencies.pth").write_text(purelib + "\n")
    return environment / "bin" / "zero"


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with files that are called as our packages are."""
    folder = tmp_path_factory.mktemp("work")
    for package in PACKAGES:
        (folder / f"{package}.py").write_text(f"raise SystemExit('the user\\'s own {package}.py was imported')\n")
    (folder / "rewards.py").write_text("def short(completions, **columns):\n    return [1.0 for _ in completions]\n")
    return folder


def run(zero: Path, folder: Path, *arguments: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(zero), *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_lists_its_recipes_and_rewards(zero, shadowed):
    assert "tiny_arithmetic_cpu" in run(zero, shadowed, "recipes")
    assert "accuracy" in run(zero, shadowed, "rewards", "list")


def test_the_wheel_grades_generations(zero, shadowed):
    line = {"problem_id": "a", "completion": r"\boxed{42}", "answer": "42"}
    (shadowed / "generations.jsonl").write_text(json.dumps(line) + "\n")
    run(zero, shadowed, "eval", "--generations", "generations.jsonl", "--output", "graded")
    results = json.loads((shadowed / "graded" / "results.json").read_text())
    assert json.dumps(results).count('"value": 1.0') >= 1
    assert (shadowed / "graded" / "report.html").is_file()


@pytest.mark.server
def test_the_wheel_trains_through_vllm_with_a_reward_in_a_file_called_rewards(zero, shadowed):
    """vLLM finds the plugin that receives the weights by the wheel's entry point."""
    few = ["train.steps=1", "eval.problems=10", "rollout.prompts_per_step=4", "rollout.group_size=4"]
    reward = "rewards=[{name: accuracy}, {name: 'rewards.py:short'}]"
    settings = [word for setting in (*few, reward) for word in ("--set", setting)]
    run(zero, shadowed, "run", "tiny_arithmetic_cpu", *settings, "--output", "run")
    assert json.loads((shadowed / "run" / "summary.json").read_text())["engine"] == "vllm"
