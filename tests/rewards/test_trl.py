"""TRL's own reward functions, and ones in the manner of open-r1, through RewardSum unchanged.

The oracle is TRL: each of its rewards called directly, with what its trainer would give it.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trl.rewards

from rewards import RewardError, RewardSettings, RewardSum, load_reward
from rewards.types import TrainerState

TEXTS = [
    r"<think>half of 84</think> The answer is \boxed{42}.",
    r"<think>no</think>\boxed{41}",
    r"<think>never closed, \boxed{42}",
    "",
    "aaa bbb aaa bbb aaa bbb",
    r"<think>a third</think>\boxed{\frac{2}{6}}",
]
CHATS = [[{"role": "assistant", "content": text}] for text in TEXTS]
SOLUTIONS = ["$42$", "$42$", "$42$", "$42$", "no number at all", r"$\frac{1}{3}$"]
IDS = [list(range(7)), [1] * 9, [5, 6] * 6, [], [7, 8, 7, 8, 7, 8], [3]]
COLUMNS = {"solution": SOLUTIONS, "completion_ids": IDS, "prompts": [[{"role": "user", "content": "q"}]] * len(TEXTS)}

# Every name that trl.rewards exports, with the arguments of those that make a reward.
CASES: dict[str, dict[str, Any]] = {
    "accuracy_reward": {},
    "reasoning_accuracy_reward": {},
    "think_format_reward": {},
    "get_cosine_scaled_reward": {"max_len": 10},
    "get_repetition_penalty_reward": {"ngram_size": 2, "max_penalty": -0.5},
    "get_soft_overlong_punishment": {"max_completion_len": 10, "soft_punish_cache": 4},
}


def reward_sum(name: str, isolate: bool = False, **settings: Any) -> RewardSum:
    return RewardSum([RewardSettings(name=f"trl.rewards:{name}", args=CASES[name], **settings)], isolate=isolate)


def directly(name: str) -> list[float | None]:
    """As TRL's trainer calls it: everything by name."""
    reward = getattr(trl.rewards, name)
    if CASES[name]:
        reward = reward(**CASES[name])
    return reward(completions=CHATS, **COLUMNS, trainer_state=None, log_extra=lambda *_: 0, log_metric=lambda *_: 0)


def test_no_reward_of_trl_is_forgotten() -> None:
    names = {name for names in trl.rewards._import_structure.values() for name in names}
    assert names == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_reward_of_trl_gives_what_it_gives_trl(name: str) -> None:
    expected = directly(name)
    assert len(set(expected)) > 1  # the completions tell something apart
    assert [reward.value for reward in reward_sum(name).score(CHATS, COLUMNS)] == expected


@pytest.mark.parametrize("name", CASES)
def test_for_a_base_model_whose_completions_are_texts_too(name: str) -> None:
    columns = {**COLUMNS, "prompts": ["q"] * len(TEXTS)}
    assert [reward.value for reward in reward_sum(name).score(TEXTS, columns)] == directly(name)


@pytest.mark.slow
def test_all_of_them_at_once_isolated_and_from_a_thread_as_in_training() -> None:
    settings = [RewardSettings(name=f"trl.rewards:{name}", args=args) for name, args in CASES.items()]
    rewards = RewardSum(settings, isolate=True)
    with ThreadPoolExecutor(1) as thread:
        scored = thread.submit(rewards.score, CHATS, COLUMNS, TrainerState(0, 1, 0.0)).result()
    rewards.close()
    expected = {name: directly(name) for name in CASES}
    for i, reward in enumerate(scored):
        assert reward.parts == {name: values[i] for name, values in expected.items()}
        assert reward.value == pytest.approx(math.fsum(v[i] for v in expected.values() if v[i] is not None))


def test_values_worked_out_by_hand() -> None:
    # accuracy: 42, a wrong 41, 42 in open thinking (TRL takes it), nothing, no gold, 2/6 = 1/3
    assert directly("accuracy_reward") == [1.0, 0.0, 1.0, 0.0, None, 1.0]
    # only after </think>; where it is not closed 0, even without a gold
    assert directly("reasoning_accuracy_reward") == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    # length 7: (10 - 4 - 7) / 4 = -0.25; 9: -0.75; 12 > 10: -1; at most 6: 0
    assert directly("get_soft_overlong_punishment") == [-0.25, -0.75, -1.0, 0.0, 0.0, 0.0]


def test_what_trl_logs_beside_the_reward_is_kept() -> None:
    first, second, *_ = reward_sum("accuracy_reward").score(CHATS, COLUMNS)
    assert first.extra["accuracy_reward/solution"] == "$42$"
    assert "42" in first.extra["accuracy_reward/gold_parsed"]
    assert "41" in second.extra["accuracy_reward/answer_parsed"]


# -- in the manner of open-r1 ------------------------------------------------------------------------

OPEN_R1 = r"""
import asyncio, re

def format_reward(completions, **kwargs):
    pattern = r"^<think>\n?.*?</think>.*\\boxed"
    return [1.0 if re.match(pattern, one[0]["content"], re.DOTALL) else 0.0 for one in completions]

def equal_reward(completions: list[list[dict[str, str]]], solution: list[str], **kwargs) -> list[float | None]:
    contents = [completion[0]["content"] for completion in completions]
    return [None if "$" not in sol else float(sol.strip("$") in text) for text, sol in zip(contents, solution)]

def get_length_reward(limit: int, language: str = "en"):
    def length_reward(completions, **kwargs):
        return [float(len(one[0]["content"]) <= limit) for one in completions]
    return length_reward

async def judge_reward(completions, prompts, trainer_state, log_metric, **kwargs):
    await asyncio.sleep(0)
    log_metric("asked", len(prompts))
    assert prompts[0][-1]["role"] == "user"
    return [trainer_state.global_step / trainer_state.max_steps for _ in completions]
"""


@pytest.mark.slow
@pytest.mark.parametrize("isolate", [False, True])
def test_rewards_in_the_manner_of_open_r1_work_unchanged(tmp_path: Path, isolate: bool) -> None:
    (tmp_path / "mine.py").write_text(OPEN_R1)
    settings = [
        RewardSettings(name="mine.py:format_reward"),
        RewardSettings(name="mine.py:equal_reward"),
        RewardSettings(name="mine.py:get_length_reward", args={"limit": 30}),
        RewardSettings(name="mine.py:judge_reward"),
    ]
    metrics: list[tuple[str, float]] = []
    rewards = RewardSum(settings, tmp_path, isolate)
    scored = rewards.score(CHATS, COLUMNS, TrainerState(25, 100, 0.5), lambda *metric: metrics.append(metric))
    rewards.close()
    names = ["format_reward", "equal_reward", "get_length_reward", "judge_reward"]
    assert [[reward.parts[name] for name in names] for reward in scored] == [
        [1.0, 1.0, 0.0, 0.25],
        [1.0, 0.0, 1.0, 0.25],
        [0.0, 1.0, 0.0, 0.25],  # 31 characters
        [0.0, 0.0, 1.0, 0.25],
        [0.0, None, 1.0, 0.25],
        [1.0, 0.0, 0.0, 0.25],
    ]
    assert metrics == [("asked", 6.0)]


def test_one_that_wants_messages_but_does_not_declare_it_says_how_to_give_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OPEN_R1)
    rewards = RewardSum([RewardSettings(name="mine.py:format_reward")], tmp_path)
    with pytest.raises(RewardError, match=r"TypeError.* 6 completions as texts \(completions: messages makes them"):
        rewards.score(TEXTS, {})
    rewards = RewardSum([RewardSettings(name="mine.py:format_reward", completions="messages")], tmp_path)
    assert [reward.value for reward in rewards.score(TEXTS, {})] == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def test_trl_is_loaded_by_the_same_spec_in_load_reward() -> None:
    assert load_reward("trl.rewards:accuracy_reward") is trl.rewards.accuracy_reward


@pytest.mark.slow
def test_a_reward_file_that_imports_trl_does_not_silence_the_servers_logs() -> None:
    alone = {key: value for key, value in os.environ.items() if key != "VLLM_LOGGING_LEVEL"}
    for imports, level in (("trl._compat", "ERROR"), ("grpo, trl._compat", "INFO")):
        line = [sys.executable, "-c", f"import os, {imports}; print(os.environ['VLLM_LOGGING_LEVEL'])"]
        done = subprocess.run(line, env=alone, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == level
