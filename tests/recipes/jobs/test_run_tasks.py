"""A run of several tasks: what it records of each, that it resumes to the bit, and what other commands make of it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import typer
import yaml
from pyarrow import parquet
from rich.console import Console
from typer.testing import CliRunner

from grpo.record.run import read_run
from recipes.command.main import main
from recipes.errors import InputError, exit_codes
from recipes.jobs.controls import gain, render
from recipes.jobs.eval_model import EvalError
from recipes.jobs.eval_run import _questions
from recipes.jobs.evaluate import Request
from recipes.jobs.filter import FilterRequest, filter_task
from recipes.jobs.train import run
from recipes.schema.load import load_recipe
from tests.recipes.jobs.test_stop import assert_as_uninterrupted, handlers, lines, signal_at_stage

pytestmark = pytest.mark.slow
__all__ = ["handlers"]  # a fixture

CHOICES = [{"q": f"Which is {k}? A) {k} B) {k + 1}", "a": "A"} for k in range(40)]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rewards.py").write_text(
        "def letters(completions, **columns):\n"
        "    return [sum(c.isalpha() for c in text) / max(len(text), 1) for text in completions]\n"
        "def digits(completions, **columns):\n"
        "    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]\n"
    )
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    recipe = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "tasks": {
            "sums": {"name": "arithmetic", "config": {"levels": [1]}, "share": 2, "template": "{question}="},
            "choices": {
                "dataset": "choices.jsonl",
                "columns": {"question": "q", "answer": "a"},
                "verifier": "multiple_choice",
                "template": "Q: {question} A:",
            },
            "chat": {  # for which no rule says what is right
                "dataset": "choices.jsonl",
                "columns": {"question": "q"},
                "verifier": "none",
                "template": "Say: {question}",
            },
        },
        "rewards": [
            {"name": "rewards.py:digits", "tasks": ["sums"]},
            {"name": "rewards.py:letters", "tasks": ["choices", "chat"]},
            {"name": "accuracy", "tasks": ["sums"]},
            {"name": "multiple_choice", "tasks": ["choices"]},
        ],
        "rollout": {
            "engine": "transformers",
            "group_size": 3,
            "prompts_per_step": 4,
            "max_tokens": 6,
            "max_prompt_tokens": 40,
        },
        "train": {"steps": 3, "learning_rate": 2.0e-4, "checkpoint_every": 1, "curriculum": {"order": "adaptive"}},
        "eval": {"problems": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    run(load_recipe(str(recipe_file)), "test", output, False)
    return output


def test_each_task_is_asked_by_its_share_and_in_its_own_way(whole: Path) -> None:
    for step in (1, 2, 3):
        rows = parquet.read_table(whole / "rollouts" / f"step-{step:06d}.parquet").to_pylist()
        names = ("sums", "choices", "chat")
        of = {name: [row for row in rows if row["prompt_id"].startswith(f"{name}/")] for name in names}
        assert {name: len(found) for name, found in of.items()} == {"sums": 2 * 3, "choices": 1 * 3, "chat": 1 * 3}
        assert all(row["prompt"].endswith("=") for row in of["sums"])
        assert all(row["prompt"].startswith("Q: Which") for row in of["choices"])
        paid = [json.loads(row["rewards"]) for row in of["choices"]]
        assert all(one["digits"] is None and one["letters"] is not None for one in paid)


def test_accuracy_is_said_of_each_task_with_its_interval_wherever_it_is_said(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    for one in (summary["before"], summary["after"], *lines(whole, "evaluations.jsonl")):
        assert {name: found["n"] for name, found in one["tasks"].items()} == {"sums": 4, "choices": 4}
        assert all(found["low"] <= found["accuracy"] <= found["high"] for found in one["tasks"].values())
        assert one["n"] == 8
    assert {"task/sums/accuracy", "task/choices/reward"} <= lines(whole, "metrics.jsonl")[0].keys()
    found = read_run(whole)
    assert found.title.endswith("on sums and choices and chat")
    assert all(f"; {name} " in found.facts for name in ("sums", "choices"))
    log = (whole / "logs" / "run.log").read_text()
    assert "of the prompts sums 50.0%, choices 25.0%, chat 25.0%" in log
    assert "choices: task " in log
    assert "nothing is measured of it: verifier: none" in log
    problems = json.loads((whole / "held_out" / "step-000003.json").read_text())
    assert sum(name.startswith("choices/") for name in problems) == 4


def test_stopped_and_resumed_it_ends_as_the_uninterrupted_one(recipe_file, whole, tmp_path, monkeypatch) -> None:
    output, recipe = tmp_path / "run", load_recipe(str(recipe_file))
    before = (whole / "logs" / "run.log").read_text().split("step 2: training")[0]
    number = len(
        re.findall(r"loading the|starting the|proving|sending|measuring|: (?:sampling|training|writing)", before)
    )
    with monkeypatch.context() as patched:
        sender = signal_at_stage(patched, number, 0, [signal.SIGTERM])
        with pytest.raises(typer.Exit), exit_codes():
            run(recipe, "test", output, False)
        sender.join()
    assert len(lines(output, "metrics.jsonl")) < 3
    run(recipe, "test", output, True)
    assert_as_uninterrupted(output, whole)
    ours, theirs = (lines(one, "evaluations.jsonl") for one in (output, whole))
    assert [one["tasks"] for one in ours] == [one["tasks"] for one in theirs]


def test_a_control_is_compared_by_task(recipe_file, whole, tmp_path) -> None:
    run(load_recipe(str(recipe_file), ["train.control=random"]), "test", tmp_path / "control", False)
    found = gain(whole, tmp_path / "control")
    assert found.paired == 8
    assert set(found.tasks) == {"sums", "choices"}
    assert "  on sums: " in render(found)


def test_zero_eval_asks_each_task_and_refuses_what_the_run_does_not_say(recipe_file, whole, tmp_path) -> None:
    recipe = load_recipe(str(whole / "recipe.yaml"))
    asked = {one.benchmark.name: one for one in _questions(recipe, Request(model=None, benchmarks=[]))}
    assert {name: len(one.problems) for name, one in asked.items()} == {"sums": 4, "choices": 4}
    assert asked["choices"].benchmark.protocol.template == "Q: {question} A:"
    assert asked["choices"].benchmark.protocol.verifier == "multiple_choice"
    with pytest.raises(EvalError, match="this run has the tasks sums, choices, chat, each asked in its own way"):
        _questions(recipe, Request(model=None, benchmarks=["gsm8k"]))
    with pytest.raises(InputError, match="pass rates are of one task"):
        filter_task(recipe, FilterRequest(tmp_path / "rates.jsonl"), Console(quiet=True))


def test_a_dry_run_shows_prompts_gold_answers_and_rewards_of_each_task(recipe_file) -> None:
    said = CliRunner().invoke(main, ["run", str(recipe_file), "--dry-run"])
    assert said.exit_code == 0, said.output
    of_tasks, chat = said.output.split("task chat:")
    sums, choices = of_tasks.partition("task sums:")[2].split("task choices:")
    for part, prompt, reward in ((sums, "=", "digits"), (choices, "Q: Which is ", "letters")):
        assert prompt in part
        assert reward in part
        assert "gold answer of " in part
    assert "letters" not in sums
    assert "Say: Which is " in chat
    assert "gold answer of " not in chat


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.curriculum.order=levels", "train.curriculum: task choices: order: levels needs a column level"),
        ("tasks.choices.columns.answer=b", "tasks.choices: task.columns: "),
        ("rewards.0={name: multiple_choice, tasks: [sums]}", "each with a name of its own; give others an alias"),
        ("rewards.0={name: cosine, tasks: [sums]}", "no built-in and no installed entry point"),
    ],
)
def test_what_the_data_shows_is_one_message_before_anything_starts(recipe_file, tmp_path, override, message) -> None:
    with pytest.raises((InputError, ValueError)) as refused:
        run(load_recipe(str(recipe_file), [override]), "test", tmp_path / "run", False)
    assert message in str(refused.value)
    assert not (tmp_path / "run" / "recipe.yaml").exists()
