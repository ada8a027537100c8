"""What rewards are given in a run, what becomes of what they return and log, and how failures end it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset
from transformers import AutoTokenizer

from grpo.rollout.engine import RolloutError
from grpo.signal.scoring import reward_inputs
from grpo.types import Completion, Prompt
from recipes.jobs.train import run
from recipes.schema.load import load_recipe

pytestmark = pytest.mark.slow

CHAT_TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]<think>"
REWARDS = r'''
def chat(completions, prompts, answer, completion_ids, level, trainer_state, log_extra, log_metric, **kwargs):
    """As a reward for TRL is written for a chat: it raises if anything is not as TRL's trainer gives it."""
    for messages, completion, ids in zip(prompts, completions, completion_ids, strict=True):
        assert [one["role"] for one in messages] == ["system", "user"], messages
        assert messages[1]["content"].count("+") + messages[1]["content"].count("-") >= 1
        assert len(completion) == 1 and completion[0]["role"] == "assistant"
        assert completion[0]["content"].startswith("<think>Well,"), completion
        assert 0 < len(ids) <= 8
    assert trainer_state.max_steps == 2 and trainer_state.epoch == trainer_state.global_step * 4 / 64
    log_extra("digits", [sum(c.isdigit() for c in one[0]["content"]) for one in completions])
    log_metric("global_step", trainer_state.global_step)
    return [sum(c.isdigit() for c in one[0]["content"]) / 8 for one in completions]

def text(completions, prompts, **kwargs):
    assert all(type(one) is str for one in [*completions, *prompts])
    return [len(one) for one in completions]

def never(completions, **kwargs):
    return [None] * len(completions)

def dies(completions, **kwargs):
    import os
    os._exit(9)
'''


def recipe_file(folder: Path, model: Path, **changes: Any) -> Path:
    (folder / "my_rewards.py").write_text(REWARDS)
    recipe = {
        "model": {"path": str(model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=", "problems": 64},
        "rewards": [{"name": "my_rewards.py:text"}],
        "rollout": {"engine": "transformers", "group_size": 4, "prompts_per_step": 4, "max_tokens": 8},
        "train": {"steps": 2, "seed": 3},
        "eval": {"problems": 4},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def train(recipe: Path, output: Path) -> list[dict[str, Any]]:
    assert run(load_recipe(str(recipe)), "test", output, resume=False) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template that opens <think>."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_rewards_of_a_chat_are_given_what_trl_gives_and_what_they_log_is_recorded(chat_model, tmp_path):
    task = {"name": "arithmetic", "config": {"levels": [1]}, "template": "chat", "problems": 64, "prefill": "Well,"}
    rewards = [{"name": "my_rewards.py:chat"}, {"name": "format", "weight": 0.5}]
    lines = train(recipe_file(tmp_path, chat_model, task=task, rewards=rewards), tmp_path / "out")
    assert [line["logged/global_step"] for line in lines] == [0.0, 1.0]
    rows = load_dataset("parquet", data_files=str(tmp_path / "out" / "rollouts" / "*.parquet"), split="train")
    assert len(rows) == 2 * 4 * 4
    assert rows["group"][:] == [g for _ in range(2) for g in range(4) for _ in range(4)]
    for row in rows:
        rewards = json.loads(row["rewards"])
        assert row["prefill"] == "<think>Well,"
        assert row["prompt"].endswith("[assistant]<think>Well,")
        assert [one["role"] for one in json.loads(row["messages"])] == ["system", "user"]
        assert json.loads(row["columns"])["level"] == 1
        assert json.loads(row["extra"])["chat/digits"] == 8 * rewards["chat"]
        assert row["reward"] == pytest.approx(rewards["chat"] + 0.5 * rewards["format"])


def test_rewards_of_a_plain_template_are_given_texts(tiny_model, tmp_path):
    lines = train(recipe_file(tmp_path, tiny_model, train={"steps": 1}), tmp_path / "out")
    assert lines[0]["reward/text"] > 0
    row = load_dataset("parquet", data_files=str(tmp_path / "out" / "rollouts" / "*.parquet"), split="train")[0]
    assert (row["messages"], row["prefill"]) == (None, "")


def test_prompt_and_completion_make_the_whole_text_of_a_plain_template():
    completion = Completion((1,), (0.0,), (0,), "a</think>", "stop")
    prompt = Prompt("p", "12+30=<think>", (5,), "42", prefill="<think>", columns={"level": 2, "answer": "raw"})
    texts, columns = reward_inputs(prompt, [completion, completion])
    assert texts == ["<think>a</think>"] * 2
    assert columns == {"prompts": ["12+30="] * 2, "answer": ["42"] * 2, "level": [2, 2], "completion_ids": [[1], [1]]}


def test_outcomes_of_the_verifier_are_recorded_apart(tiny_model, tmp_path):
    (line,) = train(
        recipe_file(tmp_path, tiny_model, train={"steps": 1}, rewards=[{"name": "accuracy"}]), tmp_path / "out"
    )
    shares = {key: value for key, value in line.items() if key.startswith("outcome/")}
    assert shares == {"outcome/no_answer": 1.0}  # a random model writes no answer
    assert line["failed"] == 0.0


@pytest.mark.parametrize(
    ("reward", "cause"),
    [
        ("never", "no reward applies"),
        ("dies", r"error, reward '.*my_rewards.py:dies': its process ended with code 9"),
    ],
)
def test_too_many_failures_stop_the_run_and_show_examples(tiny_model, tmp_path, reward, cause):
    recipe = recipe_file(tmp_path, tiny_model, rewards=[{"name": f"my_rewards.py:{reward}"}])
    with pytest.raises(RolloutError) as raised:
        train(recipe, tmp_path / "out")
    head, *examples = str(raised.value).splitlines()
    assert head.startswith("step 1: 16 of 16 completions failed (")
    assert "more than train.max_failed_share = 0.5. See logs/ in" in head
    assert len(examples) == 3
    for example in examples:
        assert re.fullmatch(rf"  arithmetic/\S+: {cause}; the completion ends in .+", example)
