"""Whole runs with an environment: what is trained is what the model wrote, killed and resumed as ever, and mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pyarrow import parquet
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from grpo.policy.checkpoint import checkpoints
from recipes.command.main import main
from recipes.jobs.train import run
from recipes.schema.load import TINY, load_recipe
from tests import forked

ROOT = Path(__file__).parents[3]
ENVIRON = os.environ | {"PYTHONPATH": str(ROOT)}
GAMES = """
import random, time

class Higher:
    '''Say a digit above the last one; three are enough.'''
    def __init__(self, bad=""):
        self.bad = bad

    def start(self, row):
        if self.bad == "start":
            raise KeyError("no such level")
        if self.bad == "drawn":
            return f"{random.SystemRandom().random()}"
        self.last, self.right = row["seed"] % 5, 0
        return f"{self.last} + 1"

    def step(self, reply):
        if self.bad == "raise":
            return {}["x"]
        if self.bad == "type":
            return 7
        if self.bad == "hang":
            time.sleep(1000)
        if self.bad == "role":
            return {"role": "assistant", "content": "I"}
        if self.bad == "endless":
            return "on"
        digits = [c for c in reply if c.isdigit()]
        if not digits or int(digits[-1]) <= self.last:
            return None
        self.last, self.right = int(digits[-1]), self.right + 1
        return f"{self.last} + 1" if self.right < 3 else None

    def score(self, episode):
        if self.bad == "score":
            return "good"
        if self.bad == "none":
            return None
        return self.right / 3

class NoStep:
    def start(self, row):
        return "a"
"""
TEMPLATE = "{question}=<think>easy</think><answer>"  # as the built-in model was pretrained
LIMITS = {"max_turns": 3, "max_turn_tokens": 6}
RECIPE: dict[str, Any] = {
    "model": {"path": "tiny", "dtype": "float32"},
    "task": {"environment": {"name": "games.py:Higher", **LIMITS}, "template": TEMPLATE, "problems": 16},
    "rewards": ["environment"],
    "rollout": {"engine": "transformers", "group_size": 6, "prompts_per_step": 4, "max_tokens": 40},
    "train": {"steps": 4, "learning_rate": 1.0e-3, "checkpoint_every": 1, "eval_every": 0, "proof": False},
    "eval": {"problems": 4},
}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("game")
    (folder / "games.py").write_text(GAMES)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run(load_recipe(str(recipe_file)), "test", output, False)
    return output


def zero(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from recipes.command.main import main; main()", *arguments]


def rollouts(output: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((output / "rollouts").glob("*")) for row in parquet.read_table(path).to_pylist()]


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def check_tokens(row: dict[str, Any]) -> int:
    """The number of tokens that the model wrote in the episode."""
    episode, n = json.loads(row["episode"]), len(row["token_ids"])
    trained = row["trained"] or [True] * n
    assert len(trained) == len(row["logprobs"]) == len(row["versions"]) == n <= 40
    assert [logprob is not None for logprob in row["logprobs"]] == trained
    # Between two replies there is a stretch of the environment's; each reply is one of the model's.
    changes = [flag for i, flag in enumerate(trained) if i == 0 or flag != trained[i - 1]]
    replies = [message["content"] for message in episode["messages"] if message["role"] == "assistant"]
    assert changes.count(True) == len(replies) <= 3
    assert all(one["role"] == ("assistant", "user")[k % 2] for k, one in enumerate(episode["messages"]))
    return sum(trained)


@pytest.mark.slow
def test_the_tokens_that_are_trained_are_those_that_the_model_wrote(whole):
    rows = rollouts(whole)
    written = [check_tokens(row) for row in rows]
    assert any(row["trained"] for row in rows), "no episode of several turns"
    for line in metrics(whole):
        of_step = [(row, n) for row, n in zip(rows, written, strict=True) if row["step"] == line["step"]]
        assert line["tokens"] == sum(n for _, n in of_step)
        assert line["trained_tokens"] == sum(n for row, n in of_step if row["advantage"])
        assert line["environment_tokens"] > 0
        assert 1 <= line["turns"] <= 3
        # In fp32 the trainer's log-probs are the sampler's: the tokens are where they were sampled.
        assert line["logprob_diff"] < 1e-4


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_bits(recipe_file, whole, tmp_path):
    output = tmp_path / "run"
    line = zero("run", str(recipe_file), "--output", str(output))
    with forked.Popen(line, env=ENVIRON, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while len(checkpoints(output)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    forked.run([*line, "--resume"], env=ENVIRON, check=True)
    weights = [(checkpoints(one)[-1][1] / "model.safetensors").read_bytes() for one in (output, whole)]
    assert weights[0] == weights[1]
    assert rollouts(output) == rollouts(whole)


@pytest.mark.slow
def test_rewards_are_given_again_from_what_is_kept(whole, tmp_path):
    result = CliRunner().invoke(
        main, ["score", "--reward", "environment", "--data", str(whole), "--output", str(tmp_path / "scores.jsonl")]
    )
    assert result.exit_code == 0, result.output
    assert "+ to - 0" in result.output
    values = [json.loads(line)["value"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert values == [row["reward"] for row in rollouts(whole)]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt name": ({"environment": "gues_number"}, "did you mean 'guess_number'"),
    "a misspelt class": ({"environment": "games.py:Highr"}, "Highr"),
    "no such file": ({"environment": "game.py:Higher"}, "no file .*game.py"),
    "a misspelt setting": ({"environment": {"name": "guess_number", "max_turn": 3}}, "did you mean 'max_turns'"),
    "a misspelt argument": ({"environment": "games.py:Higher", "config": {"worse": 1}}, "'worse'"),
    "no method": ({"environment": "games.py:NoStep"}, "NoStep has no method step"),
    "start raises": ({"config": {"bad": "start"}}, "no training episode can be begun.*KeyError: 'no such level'"),
    "start differs each time": ({"config": {"bad": "drawn"}}, "it must say the same each time"),
    "step raises": ({"config": {"bad": "raise"}}, "KeyError: 'x', while in step"),
    "step returns a number": ({"config": {"bad": "type"}}, "step returned int 7, expected text"),
    "step returns the model's role": ({"config": {"bad": "role"}}, "role 'assistant', expected system, user, tool"),
    "score returns a text": ({"config": {"bad": "score"}}, "score returned str 'good', expected a finite number"),
    "no score": ({"config": {"bad": "none"}}, "the environment gave no score"),
    "a dataset's key": ({"split": "test"}, "task.split: an environment that makes its own problems has none"),
    "a turn template of a chat": (
        {"environment": {"name": "guess_number", "turn_template": "{message}"}, "template": "chat"},
        "turn_template: template: chat",
    ),
    "a turn template without the message": (
        {"environment": {"name": "guess_number", "turn_template": "x"}},
        "contains {message}",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_error_before_the_start(recipe_file, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    task, expected = MISTAKES[mistake]
    (tmp_path / "games.py").write_text(GAMES)
    recipe = {**RECIPE, "task": {"environment": "games.py:Higher", "template": TEMPLATE, "problems": 16, **task}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(main, ["run", "recipe.yaml", "--output", "run"])
    assert (result.exit_code, "Traceback" in result.output) == (2, False), result.output
    message = " ".join(result.output.split())
    assert re.search(expected, message), result.output
    assert not Path("run/checkpoints").exists()


@pytest.mark.slow
def test_one_that_hangs_is_ended_and_one_that_never_ends_is_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("games.py").write_text(GAMES)

    def dry(bad: str) -> Any:
        environment = {"name": "games.py:Higher", "config": {"bad": bad}, "max_turns": 3, "call_timeout": 2}
        Path("recipe.yaml").write_text(
            yaml.safe_dump({**RECIPE, "task": RECIPE["task"] | {"environment": environment}})
        )
        return CliRunner().invoke(main, ["run", "recipe.yaml", "--dry-run"])

    hangs = dry("hang")
    assert hangs.exit_code == 2
    assert "step took more than 2 seconds (task.environment.call_timeout)" in " ".join(hangs.output.split())
    assert dry("endless").exit_code == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train": {"backend": "trl", "steps": 2}}, "task.environment: train.backend: trl samples one reply"),
        ({"task": {"name": "arithmetic"}, "rewards": ["environment"]}, "environment is the score of task.environment"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch, change, expected):
    monkeypatch.chdir(tmp_path)
    Path("games.py").write_text(GAMES)
    Path("recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **change}))
    result = CliRunner().invoke(main, ["run", "recipe.yaml", "--dry-run"])
    assert result.exit_code == 2
    assert expected in " ".join(result.output.split())


CHAT = "{% for m in messages %}{{ m.content + ('=' if m.role == 'user' else eos_token) }}{% endfor %}"
PREFILL = "<think>easy</think><answer>"


@pytest.fixture(scope="module")
def chat_recipe(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The game as a chat, with the built-in model."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "games.py").write_text(GAMES)
    shutil.copytree(TINY, folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder / "model")
    # Where a gradient is 0 but for rounding, Adam without eps would step by the sign of the rounding.
    train = RECIPE["train"] | {"steps": 2, "optimizer": {"eps": 0.01}}
    changes = {"model": RECIPE["model"] | {"path": str(folder / "model")}, "train": train}
    task = RECIPE["task"] | {"template": "chat", "prefill": PREFILL}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes, "task": task}))
    return folder / "recipe.yaml"


@pytest.mark.slow
def test_a_chat_is_trained_on_what_its_template_writes_and_two_processes_train_what_one_does(chat_recipe, tmp_path):
    run(load_recipe(str(chat_recipe)), "test", tmp_path / "one", False)
    rows, tokenizer = rollouts(tmp_path / "one"), AutoTokenizer.from_pretrained(chat_recipe.parent / "model")
    end = tokenizer.eos_token
    assert sum(check_tokens(row) for row in rows) == sum(line["tokens"] for line in metrics(tmp_path / "one"))
    assert any(row["trained"] for row in rows), "no episode of several turns"
    for row in rows:
        question = {"role": "user", "content": row["prompt"].removesuffix("=" + PREFILL)}
        said = tokenizer.apply_chat_template([question, *json.loads(row["episode"])["messages"]], tokenize=False)
        written = row["prompt"] + tokenizer.decode(row["token_ids"], skip_special_tokens=False)
        assert written.removesuffix(end) == said.removesuffix(end)  # a reply that was cut has no end
    assert all(line["logprob_diff"] < 1e-4 for line in metrics(tmp_path / "one"))

    line = zero("run", str(chat_recipe), "--output", str(tmp_path / "two"), "--set", "train.processes=2")
    forked.run(line, env=ENVIRON, check=True)
    alike = ("step", "prompt_id", "token_ids", "trained", "reward", "episode")
    assert [[row[key] for key in alike] for row in rollouts(tmp_path / "two")] == [
        [row[key] for key in alike] for row in rows
    ]
    one, two = (load_file(checkpoints(tmp_path / name)[-1][1] / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-6) for name in one)


@pytest.mark.server
def test_killed_in_mid_step_and_resumed_on_its_server_every_prompt_is_trained_once(recipe_file, tmp_path):
    """Stale samples are drawn while a step trains: the tokens are still those that the server was asked for."""
    output = tmp_path / "run"
    changes = ["rollout.engine=vllm", "rollout.max_staleness=1", "train.proof=false"]
    serve = zero("serve", str(recipe_file), "--port", "0", *(part for one in changes for part in ("--set", one)))
    with forked.Popen(serve, env=ENVIRON, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = next(line for line in server.stdout if " at http://" in line).partition(" at ")[2].partition(",")[0]
        changes.append(f"rollout.server.urls=[{url}]")
        settings = [part for one in changes for part in ("--set", one)]
        line = zero("run", str(recipe_file), "--output", str(output), *settings)
        with forked.Popen(line, env=ENVIRON, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            log = output / "logs" / "run.log"
            while not (log.exists() and "step 3: training" in log.read_text()):
                assert process.poll() is None
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        assert not (output / "summary.json").exists()
        run(load_recipe(str(recipe_file), changes), "test", output, True)
        server.terminate()
    rows, lines = rollouts(output), metrics(output)
    assert "resuming from step-" in log.read_text()
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    # 16 problems, 4 a step, 6 episodes each
    assert set(Counter(row["prompt_id"] for row in rows).values()) == {6}
    assert len(rows) == 16 * 6
    assert all(line["failed"] == 0 for line in lines)
    assert sum(check_tokens(row) for row in rows) == sum(line["tokens"] for line in lines)
    assert any(row["trained"] for row in rows)
    assert {row["step"] - 1 - version for row in rows for version in row["versions"]} == {0, 1}
    assert lines[0]["logprob_diff"] < 1e-3
