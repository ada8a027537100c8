"""Functions of the user's: from files and modules, in a working folder whose names are those of our packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rewards.nearest import did_you_mean
from rewards.user.loading import Purpose, load_function

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OURS = ("rewards", "eval", "grpo", "recipes")
SHADOWED = 'raise SystemExit("shadowed")\n'
MINE = """
import grpo.types, os
from helper import half

def f(completions, **columns):
    return [half(text) for text in completions]

def mean(groups):
    return [[0.0 if value is None else value for value in group.total_G] for group in groups]
"""
# `zero` where our packages are installed as editable: a finder that comes after the folders of sys.path.
ZERO = f"""
import sys
from importlib.machinery import PathFinder

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(ROOT)!r}]) if name in {OURS!r} else None

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Editable)
from recipes.command.main import main
main(sys.argv[1:])
"""


def zero(folder: Path, *words: str, installed: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder, with our packages on PYTHONPATH or found by an editable installation's finder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if installed == "editable":
        del env["PYTHONPATH"]
    line = [sys.executable, "-P", "-c", ZERO, *words]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in OURS:
        (tmp_path / f"{name}.py").write_text(SHADOWED)
    (tmp_path / "helper.py").write_text("def half(text):\n    return len(text) / 2\n")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "data.jsonl").write_text('{"completion": "<answer>42</answer>", "answer": "42"}\n')
    return tmp_path


@pytest.fixture(params=["editable", "on the path"])
def installed(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("file", ["mine.py", "rewards.py", "eval.py"])
def test_a_file_of_the_user_is_scored_with_whatever_its_folder_holds(folder: Path, installed: str, file: str) -> None:
    (folder / file).write_text(MINE)
    done = zero(folder, "score", "--reward", f"{file}:f", "--data", "data.jsonl", installed=installed)
    said = [line for line in done.stderr.splitlines() if line != "loading the rewards"]  # on a busy machine
    assert (done.returncode, said) == (0, [])
    assert "mean 9.5000 of 1" in done.stdout


@pytest.mark.parametrize("file", ["mine.py", "rewards.py", "grpo.py"])
def test_an_isolated_worker_imports_our_packages_and_the_users_file(folder: Path, installed: str, file: str) -> None:
    (folder / file).write_text(MINE)
    done = zero(folder, "rewards", "check", f"{file}:f", "--json", installed=installed)
    assert done.returncode in (0, 1), done.stderr
    assert '"completions"' in done.stdout


def test_listing_rewards_and_recipes_imports_nothing_of_the_folder(folder: Path, installed: str) -> None:
    assert "multiple_choice" in zero(folder, "rewards", "list", installed=installed).stdout
    assert "tiny_arithmetic_cpu" in zero(folder, "recipes", installed=installed).stdout


def test_a_run_with_functions_of_the_users_folder_imports_our_packages(folder: Path, installed: str) -> None:
    (folder / "rewards.py").write_text(MINE)
    settings = {
        "rollout.engine": "transformers",
        "train.steps": 1,
        "rollout.group_size": 2,
        "rollout.prompts_per_step": 2,
        "rollout.max_tokens": 4,
        "task.problems": 2,
        "eval.problems": 2,
        "rewards": [{"name": "rewards.py:f"}],
        "train.advantage": "mine.py:mean",
    }
    words = [
        f"--set={key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"
        for key, value in settings.items()
    ]
    done = zero(folder, "run", "tiny_arithmetic_cpu", "--output", "out", *words, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "out" / "summary.json").is_file()


def test_a_module_of_ours_with_the_name_of_the_users_file_says_how_to_name_the_file(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"thing 'rewards:f': rewards has no function 'f'; .*give rewards\.py:f"):
        load_function("rewards:f", Purpose("thing", ValueError), folder)


def test_errors_are_of_the_functions_own_purpose(folder: Path) -> None:
    for spec in ("rewards.py:f", "mine.py:g", "nothing.py:f", "no.such:f"):
        with pytest.raises(KeyError, match=r"train\.thing") as raised:
            load_function(spec, Purpose("train.thing", KeyError), folder)
        assert "reward '" not in str(raised.value)


def test_the_nearest_name_is_a_hint_and_a_far_one_is_none() -> None:
    assert did_you_mean("acuracy", ["accuracy", "format"]) == " (did you mean 'accuracy'?)"
    assert did_you_mean("brevity", ["accuracy", "format"]) == ""


def test_a_script_that_imports_grpo_stands_beside_a_rewards_py_of_its_own(folder: Path) -> None:
    (folder / "grpo.py").unlink()  # a program's own `grpo` is what it imports
    needs_ours = "import grpo, rewards.types; print(rewards.__path__[0], grpo.GRPOConfig().steps)"
    (folder / "rewards.py").write_text("def f(completions): return [0.0 for _ in completions]\n")
    for script, said in (
        (needs_ours, f"{ROOT / 'rewards'} "),
        ("import rewards\nfrom grpo import GRPOConfig", f"`rewards` is {folder}/rewards.py in this program, not the"),
    ):
        (folder / "script.py").write_text(script)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "script.py"], cwd=folder, env=env, capture_output=True, text=True)
        assert said in (done.stdout + done.stderr.splitlines()[-1] if done.returncode else done.stdout)
