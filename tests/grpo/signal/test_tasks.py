"""Several tasks in one run: whose turn it is, what is remembered of it, and what rewards say of another task."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest

from eval.ask.held_out import evaluate, evaluate_tasks
from grpo.config import CurriculumSettings
from grpo.record.rows import rollout_metrics
from grpo.rollout.scheduler import ScoredGroup
from grpo.signal.curriculum import prompt_order
from grpo.signal.tasks import order_of
from grpo.types import Completion, Group, Prompt, Sampling
from recipes.errors import run_async
from rewards import Reward, RewardError, RewardSettings, RewardSum, Score, grader


def prompts(**numbers: int) -> list[Prompt]:
    made = [
        Prompt(f"{task}/{i}", f"{task}{i}", (i,), str(i), task=task, columns={"level": i % 3})
        for task, n in numbers.items()
        for i in range(n)
    ]
    random.Random(0).shuffle(made)
    return made


def test_any_stretch_of_the_run_has_the_shares_to_a_group_or_two() -> None:
    for seed in range(30):
        draw = random.Random(seed)
        shares = {f"t{k}": draw.choice([0.01, 0.2, 1.0, 3.0, draw.random() + 1e-3]) for k in range(draw.randint(1, 5))}
        problems = prompts(**dict.fromkeys(shares, 7))
        order = order_of(CurriculumSettings(), problems, 4, seed, shares)
        counted: Counter[str] = Counter()
        for position in range(200):
            counted[problems[order.at(position)].task] += 1
            for name, share in shares.items():
                due = share / sum(shares.values()) * (position + 1)
                assert abs(counted[name] - due) < max(1.0, len(shares) - 1), (shares, position)


def test_each_task_has_an_order_of_its_own_and_one_task_is_that_order() -> None:
    problems = prompts(a=5, b=9)
    order = order_of(CurriculumSettings(), problems, 4, 3, {"a": 1, "b": 2})
    asked = [problems[order.at(position)] for position in range(3 * 9)]
    for name, n in (("a", 5), ("b", 9)):
        own = [one for one in asked if one.task == name]
        of_task = [one for one in problems if one.task == name]
        alone = prompt_order(CurriculumSettings(), [one.columns for one in of_task], 4, f"3/{name}")
        assert own == [of_task[alone.at(k)] for k in range(len(own))]
        assert len({one.id for one in own[:n]}) == n  # every problem once an epoch


@pytest.mark.parametrize("kind", ["shuffled", "adaptive", "levels"])
def test_resumed_from_what_it_kept_the_order_goes_on_as_if_nothing_had_been(kind) -> None:
    problems = prompts(a=12, b=30)
    settings = CurriculumSettings(order=kind, candidates=3, window=2)

    def go_on(order, first: int, last: int) -> list[int]:
        chosen = []
        for position in range(first, last):
            chosen.append(order.at(position))
            passed = random.Random(position).random() < 0.7
            order.record(chosen[-1], [Reward(float(passed))])
        return chosen

    whole = order_of(settings, problems, 4, 0, {"a": 0.3, "b": 0.7})
    expected = go_on(whole, 0, 60)
    first = order_of(settings, problems, 4, 0, {"a": 0.3, "b": 0.7})
    assert go_on(first, 0, 23) == expected[:23]
    second = order_of(settings, problems, 4, 0, {"a": 0.3, "b": 0.7})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert go_on(second, 23, 60) == expected[23:]
    assert second.metrics() == whole.metrics()
    assert set(whole.metrics()) == ({"level/a", "level/b"} if kind == "levels" else set())


def test_an_order_that_a_task_has_no_columns_for_names_the_task() -> None:
    problems = [*prompts(a=3), Prompt("b/0", "b", (1,), "1", task="b")]
    with pytest.raises(ValueError, match=r"^task b: order: levels needs a column level"):
        order_of(CurriculumSettings(order="levels"), problems, 2, 0, {"a": 1, "b": 1})


# -- Rewards of one task ----------------------------------------------------------------------------------------------


def test_a_reward_scores_its_own_tasks_and_does_not_apply_to_others() -> None:
    rewards = RewardSum(
        [
            RewardSettings(name="accuracy", tasks=["sums"]),
            RewardSettings(name="multiple_choice", tasks=["facts"]),
            RewardSettings(name="format", weight=0.5),
        ]
    )
    text = "<think>x</think><answer>B</answer>"
    (sums,) = rewards.score([text], {"answer": ["4"]}, task="sums")
    (facts,) = rewards.score([text], {"answer": ["B"]}, task="facts")
    assert sums.parts == {"accuracy": 0.0, "multiple_choice": None, "format": 1.0}
    assert facts.parts == {"accuracy": None, "multiple_choice": 1.0, "format": 1.0}
    assert (sums.value, facts.value) == (0.5, 1.5)
    assert sums.score is not None
    assert sums.score.outcome == "wrong"


def test_one_reward_may_come_twice_under_an_alias() -> None:
    """As R1 reads helpfulness in the summary alone and harmlessness in everything, with one kind of reward."""
    twice = [RewardSettings(name="format", weight=2), RewardSettings(name="format", alias="again")]
    (found,) = RewardSum(twice).score(["<think>x</think><answer>B</answer>"], {})
    assert found.parts == {"format": 1.0, "again": 1.0}
    assert found.value == 3.0
    with pytest.raises(RewardError, match="each with a name of its own; give others an alias"):
        RewardSum([RewardSettings(name="format"), RewardSettings(name="format")])


# -- What is said of each task ----------------------------------------------------------------------------------------


def scored(task: str, values: list[float], length: int) -> ScoredGroup:
    completion = Completion((1,) * length, (-1.0,) * length, (0,) * length, "x", "stop")
    rewards = [
        Reward(value, {"accuracy": value}, Score(value, "x", "correct" if value else "wrong", "")) for value in values
    ]
    return ScoredGroup(Group(Prompt("p", "p", (1,), "1", task=task), (completion,) * len(values)), tuple(rewards))


def test_the_metrics_of_a_step_are_beside_those_of_each_task() -> None:
    groups = [scored("a", [1.0, 1.0], 4), scored("b", [0.0, 1.0], 8), scored("b", [0.0, 0.0], 8)]
    advantages = [[0.0, 0.0], [-1.0, 1.0], [0.0, 0.0]]
    found = rollout_metrics(groups, advantages, asked=6)
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert (found["task/a/accuracy"], found["task/b/accuracy"]) == (1.0, 0.25)
    assert (found["task/a/length"], found["task/b/length"]) == (4, 8)
    assert (found["task/a/zero_variance_groups"], found["task/b/zero_variance_groups"]) == (1.0, 0.5)
    assert (found["task/a/share"], found["task/b/share"]) == pytest.approx((1 / 3, 2 / 3))
    alone = rollout_metrics([scored("", [1.0], 4)], [[0.0]], asked=1)
    assert not any(key.startswith("task/") for key in alone)


class Answering:
    """An engine that answers every problem with 1."""

    async def generate(self, requests):  # type: ignore[no-untyped-def]
        for number, request in enumerate(requests):
            answer = Completion((1,), (-1.0,), (0,), "<answer>1</answer>", "stop")
            yield number, Group(request.prompt, (answer,) * request.n)


def test_held_out_accuracy_is_over_all_problems_and_of_each_task_with_its_own_verifier() -> None:
    problems = [Prompt(f"{task}/{i}", "", (1,), str(i), task=task) for task in "ab" for i in range(4)]
    grades = {"a": grader("math"), "b": lambda *_: Score(1.0, "1", "correct", "always")}
    found = run_async(evaluate_tasks(Answering(), problems, grades, Sampling(4, 0.0), 1))  # type: ignore[arg-type]
    assert found["accuracy"] == pytest.approx((1 + 4) / 8)
    assert {name: (one["accuracy"], one["n"]) for name, one in found["tasks"].items()} == {"a": (0.25, 4), "b": (1, 4)}
    only = [one for one in problems if one.task == "a"]
    alone = run_async(evaluate(Answering(), only, grades["a"], Sampling(4, 0.0), 1))  # type: ignore[arg-type]
    assert (found["tasks"]["a"]["low"], found["tasks"]["a"]["high"]) == (alone.low, alone.high)
    assert len(found["problems"]) == 8
    assert "problems" not in found["tasks"]["a"]
    assert not math.isnan(found["length"])
