"""recipes.run and recipes.evaluate in a program with a running event loop: done, stopped, killed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import recipes
from grpo.parts import given_prompts, given_rewards
from grpo.prompts import PromptError
from recipes.api.given import write_given
from recipes.errors import InputError
from recipes.schema.load import RecipeError, load_recipe
from tests.conftest import character_tokenizer
from tests.processes import ended

ROOT = Path(__file__).parents[3]
RECIPE: dict[str, Any] = {
    "model": {"path": "tiny", "dtype": "float32"},
    "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=<think>"},
    "rewards": ["accuracy"],
    "rollout": {
        "engine": "transformers",
        "group_size": 4,
        "prompts_per_step": 2,
        "max_tokens": 16,
        "max_prompt_tokens": 32,
    },
    "train": {"steps": 2, "learning_rate": 1e-4, "checkpoint_every": 50},
    "eval": {"problems": 4},
}
NOTEBOOK = f"""
import asyncio, json, sys
import recipes

def brevity(completions, **columns):
    return [float(len(text) < 20) for text in completions]

async def cell():  # a notebook's cells run in a loop that runs already
    recipe = {RECIPE!r}
    recipe["rewards"] = ["accuracy", {{"name": brevity, "weight": 0.1}}]
    settings = json.loads(sys.argv[2])
    return recipes.run(recipe, output=sys.argv[1], settings=settings, resume="--resume" in sys.argv)

try:
    print(asyncio.run(cell()))
except KeyboardInterrupt as stop:
    print("KeyboardInterrupt:", stop)
"""


def notebook(folder: Path, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """A program that trains into folder/run; in its folder are files with our packages' names."""
    (folder / "eval.py").write_text("raise SystemExit('the user\\'s own eval.py was imported')\n")
    (folder / "cell.py").write_text(NOTEBOOK)
    command = [
        sys.executable,
        "cell.py",
        "run",
        json.dumps({name.replace("__", "."): v for name, v in settings.items()}),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"}  # as notebooks have it
    return subprocess.Popen(
        [*command, *arguments], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def until_step(program: subprocess.Popen[str], folder: Path, step: int) -> None:
    lines = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (lines.exists() and lines.read_text().count("\n") >= step):
        assert program.poll() is None, program.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[int]]:
    """A long run that got Ctrl-C: its folder, what the program said, the processes that it had."""
    folder = tmp_path_factory.mktemp("notebook")
    program = notebook(folder, train__steps=1000)
    try:
        until_step(program, folder, 2)
        children = [child.pid for child in psutil.Process(program.pid).children(recursive=True)]
        program.send_signal(signal.SIGINT)
        said, _ = program.communicate(timeout=300)
    finally:
        program.kill()
    return folder, said, children


@pytest.mark.slow
def test_an_interrupt_keeps_a_checkpoint_says_how_to_go_on_and_leaves_no_process(stopped):
    folder, said, children = stopped
    assert "KeyboardInterrupt: stopped. Go on with recipes.run(..., output='run', resume=True)" in said
    assert "\x1b" not in said
    assert children
    assert all(ended(child) for child in children)
    run = recipes.Run(folder / "run")
    assert list(run.checkpoints) == [run.metrics["step"][-1]]
    assert run.summary is None
    assert "not ended" in repr(run)


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_its_records_are_datasets(stopped):
    folder, _, _ = stopped
    steps = next(iter(recipes.Run(folder / "run").checkpoints)) + 2
    program = notebook(folder, "--resume", train__steps=steps)
    said, _ = program.communicate(timeout=300)
    assert program.returncode == 0, said
    run = recipes.Run(folder / "run")
    assert run.metrics["step"] == list(range(1, steps + 1))
    assert run.summary["steps"] == run.recipe.train.steps == steps
    assert run.completions.num_rows == steps * 8
    assert set(json.loads(run.completions[0]["rewards"])) == {"accuracy", "brevity"}
    last = run.read_completions(steps=[steps], columns=["step", "completion"])
    assert last.column_names == ["step", "completion"]
    assert last["step"] == [steps] * 8
    assert run.evaluations["step"] == [0, steps]
    assert set(run.held_out) == {0, steps}
    assert run.report.is_file()


@pytest.mark.slow
def test_the_run_of_a_program_that_is_killed_keeps_a_checkpoint_and_ends(tmp_path):
    program = notebook(tmp_path, train__steps=1000)
    try:
        until_step(program, tmp_path, 1)
        children = [child.pid for child in psutil.Process(program.pid).children(recursive=True)]
    finally:
        program.kill()
        program.communicate()
    assert all(ended(child) for child in children)
    run = recipes.Run(tmp_path / "run")
    assert list(run.checkpoints) == [run.metrics["step"][-1]]


@pytest.mark.slow
def test_what_the_command_refuses_is_its_own_message(tmp_path):
    def failing(completions, **columns):
        return [1.0]

    with pytest.raises(InputError, match="failing"):
        recipes.run(RECIPE | {"rewards": [failing]}, output=tmp_path / "run", quiet=True)
    with pytest.raises((InputError, recipes.RunFailedError), match="No such file"):
        recipes.evaluate(generations=tmp_path / "none.jsonl", output=tmp_path / "eval", quiet=True)


@pytest.mark.slow
def test_an_evaluation_is_an_object(tmp_path):
    rows = [{"problem_id": str(n), "completion": rf"\boxed{{{n % 2}}}", "answer": "1"} for n in range(10)]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = recipes.evaluate(generations=tmp_path / "theirs.jsonl", output=tmp_path / "out", quiet=True)
    (entry,) = found.results.values()
    assert entry["accuracy"]["value"] == 0.5
    assert found.generations.to_pandas()["outcome"].value_counts().to_dict() == {"correct": 5, "wrong": 5}
    assert "50.0%" in repr(found)


# -- What is refused at once ------------------------------------------------------------------------------------------


def outside(completions, **columns):
    return [float(time.time() > 0) for _ in completions]


def test_a_reward_of_a_module_is_named_by_its_file(tmp_path):
    path = write_given(RECIPE | {"rewards": ["accuracy", {"name": outside, "weight": 0.5}]}, tmp_path)
    rewards = load_recipe(str(path)).rewards
    assert (rewards[0].name, rewards[1].name, rewards[1].weight) == ("accuracy", f"{__file__}:outside", 0.5)


def test_a_file_of_the_working_folder_is_meant_not_one_of_that_name_that_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text("def x(completions, **columns):\n    return [1.0] * len(completions)\n")
    given = RECIPE | {"rewards": ["accuracy", {"name": "rewards.py:x"}]}
    path = write_given(given, tmp_path / "run")
    assert load_recipe(str(path)).rewards[1].name == f"{tmp_path}/rewards.py:x"
    assert given["rewards"][1] == {"name": "rewards.py:x"}  # as the caller has it
    with pytest.raises(InputError, match=r"recipe: rewards.0.name: no file none.py"):
        write_given(RECIPE | {"rewards": ["none.py:x"]}, tmp_path / "run")


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (lambda completions: [1.0], "define it with `def`"),
        (print, "define it with `def`"),
    ],
)
def test_a_reward_that_cannot_go_into_a_recipe_is_refused(reward, expected, tmp_path):
    with pytest.raises(InputError, match=expected):
        write_given(RECIPE | {"rewards": [reward]}, tmp_path)


def test_a_notebooks_reward_that_needs_the_notebook_is_refused_with_what_it_uses(tmp_path):
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("import re\ndef f(completions, **columns):\n    return [len(re.findall('a', t)) for t in completions]", scope)
    with pytest.raises(InputError, match="f uses re, which its own process would not have"):
        write_given(RECIPE | {"rewards": [scope["f"]]}, tmp_path)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda out: recipes.run(RECIPE | {"trian": {}}, out), r"recipe: trian: unknown key .*did you mean 'train'"),
        (lambda out: recipes.run(RECIPE, out, resume=True), "there is no"),
        (lambda out: recipes.run(RECIPE, resume=True), "no output is given"),
        (lambda out: recipes.evaluate("tiny", "gsm8k", sampels=3), "sampels: no option .*did you mean 'samples'"),
        (lambda out: recipes.Run(out), "expected the directory of a run"),
        (lambda out: recipes.Evaluation(out), "expected the folder of an evaluation"),
        (lambda out: recipes.run(RECIPE, out, settings={"train.steps": object()}), "expected text, numbers"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_starts(call, expected, tmp_path):
    with pytest.raises(InputError, match=expected):
        call(tmp_path / "run")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("[!.]*"))


def test_a_folder_that_is_in_use_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="is not empty"):
        recipes.run(RECIPE, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_recipe_error_is_an_input_error():
    assert issubclass(RecipeError, recipes.InputError)


# -- GRPOTrainer's own input ------------------------------------------------------------------------------------------


def test_rows_are_prompts_as_the_template_or_trl_has_them():
    rows = [
        {"question": "1+1", "answer": 2, "level": 3},
        {"prompt": "2+2=", "answer": "4", "id": "two"},
    ]
    first, second = given_prompts(rows, character_tokenizer(), "{question}=<think>", 100)
    assert (first.text, first.answer, first.prefill, first.columns["level"]) == ("1+1=<think>", "2", "<think>", 3)
    assert (second.text, second.id) == ("2+2=", "two")


@pytest.mark.parametrize("row", [{"text": "1+1"}, "1+1", {"prompt": [{"role": "assistant", "content": "no"}]}])
def test_a_row_that_is_no_prompt_is_named(row):
    with pytest.raises(PromptError, match="row 0"):
        given_prompts([row], character_tokenizer(), "{question}", 100)


def test_functions_and_names_make_one_sum():
    def short(completions, **columns):
        return [float(len(text) < 25) for text in completions]

    rewards = given_rewards(["accuracy", short, {"name": "format", "weight": 0.5}])
    found = rewards.score(["<answer>4</answer>"], {"answer": ["4"], "prompts": [""]})
    assert found[0].parts == {"accuracy": 1.0, "short": 1.0, "format": 0.0}
