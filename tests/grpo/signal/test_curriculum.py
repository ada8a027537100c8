"""The order of problems: today's epochs, and the adaptive one against its definition and on a learner."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet

from grpo.config import CurriculumSettings
from grpo.signal.curriculum import AdaptiveOrder, PromptOrder, ShuffledEpochs, prompt_order
from recipes.jobs.train import run
from recipes.schema.load import load_recipe
from recipes.tasks import load_task
from rewards import Reward, Score


def plain(*values: float | None) -> list[Reward]:
    return [Reward(value) for value in values]


def verdict(value: float | None, total: float | None) -> Reward:
    return Reward(total, {}, Score(value, None, "correct" if value else "wrong", ""))


def test_shuffled_is_one_permutation_an_epoch_from_seed_and_epoch():
    order = ShuffledEpochs(5, seed=3)
    for epoch in (0, 1, 7, 1):  # also back again
        expected = list(range(5))
        random.Random(f"3/{epoch}").shuffle(expected)
        assert [order.at(5 * epoch + k) for k in range(5)] == expected


def test_settings_choose_the_order():
    assert isinstance(prompt_order(CurriculumSettings(), [{}] * 4, 1, 0), ShuffledEpochs)
    adaptive = prompt_order(CurriculumSettings(order="adaptive", candidates=2, target=0.9, decay=1.0), [{}] * 4, 1, 0)
    by_hand = AdaptiveOrder(4, 0, 2, 0.9, 1.0)
    for order in (adaptive, by_hand):
        order.record(1, plain(1, 1, 0))
    assert [adaptive.at(k) for k in range(20)] == [by_hand.at(k) for k in range(20)]


def test_a_small_set_gets_so_few_candidates_that_a_step_has_no_problem_twice():
    order = prompt_order(CurriculumSettings(order="adaptive", candidates=100), [{}] * 40, 8, 0)  # 40 / 8 = 5 for each
    for step in range(20):
        assert len({order.at(8 * step + k) for k in range(8)}) == 8
    alone = prompt_order(CurriculumSettings(order="adaptive"), [{}] * 3, 8, 0)
    assert [alone.at(k) for k in range(9)] == [ShuffledEpochs(3, 0).at(k) for k in range(9)]


def beliefs(order: PromptOrder) -> dict[int, tuple[float, float]]:
    return {index: (a, b) for index, a, b in order.state_dict()["beliefs"]}


def test_a_belief_decays_to_the_prior_and_gains_passes_and_failures():
    order = AdaptiveOrder(10, 0, decay=0.5)
    order.record(7, plain(1.0, 1.0, 0.0, None))
    # a = 0.5 * 1 + 0.5 * 1 + 2 passes, b = 0.5 * 1 + 0.5 * 1 + 1 failure; None is neither
    assert beliefs(order) == {7: (3.0, 2.0)}
    order.record(7, plain(0.0, 0.0))
    # a = 0.5 * 3 + 0.5 * 1 + 0, b = 0.5 * 2 + 0.5 * 1 + 2
    assert beliefs(order) == {7: (2.0, 3.5)}
    order.record(7, plain(None, None))
    assert beliefs(order) == {7: (2.0, 3.5)}


def test_a_verdict_counts_itself_and_a_plain_reward_its_value_cut_to_0_and_1():
    order = AdaptiveOrder(10, 0, decay=1.0)
    order.record(0, [verdict(1.0, 0.4), verdict(0.0, 0.2), verdict(None, None)])
    order.record(1, plain(1.7, -2.0, 0.25))
    assert beliefs(order) == {0: (2.0, 2.0), 1: (2.25, 2.75)}  # 1 + 0.25 passes and 1 + 0.75 failures


@pytest.mark.slow
def test_the_candidate_nearest_to_the_target_is_taken():
    """With beliefs so sharp that a draw is the pass rate, of {0.0, 0.5, 1.0} it is 0.5, in every epoch."""
    order = AdaptiveOrder(3, 0, candidates=3, decay=1.0)
    for index, rate in ((0, 0.0), (1, 0.5), (2, 1.0)):
        order.record(index, plain(*[rate] * 100_000))
    assert {order.at(k) for k in range(50)} == {1}


def test_the_candidates_of_an_epoch_are_disjoint_so_that_no_problem_comes_twice_in_it():
    order = AdaptiveOrder(24, 5, candidates=4)
    for epoch in range(4):
        drawn = [order.at(6 * epoch + k) for k in range(6)]  # 6 positions x 4 candidates = 24 problems
        assert len(set(drawn)) == 6


def test_a_resumed_order_goes_on_as_the_uninterrupted_one():
    whole = AdaptiveOrder(50, 1)
    chance = random.Random(0)
    for position in range(100):
        whole.record(whole.at(position), plain(*[float(chance.random() < 0.5) for _ in range(4)]))
    resumed = AdaptiveOrder(50, 1)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert [resumed.at(k) for k in range(100, 160)] == [whole.at(k) for k in range(100, 160)]
    fresh = AdaptiveOrder(50, 1)
    assert [fresh.at(k) for k in range(100, 160)] != [whole.at(k) for k in range(100, 160)]


class Learner:
    """Solves problem i with probability skill - hardness[i], cut to 0..1; a group with contrast adds to its skill."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.hardness = [self.chance.uniform(-2, 6) for _ in range(400)]  # at first 1 in 8 is neither 0 nor 1
        self.skill = 0.0

    def group(self, index: int) -> list[float]:
        return [float(self.chance.random() < self.skill - self.hardness[index]) for _ in range(8)]


def contrast(order: PromptOrder, learner: Learner, positions: int = 1600) -> float:
    """The share of groups with contrast."""
    found = 0
    for position in range(positions):
        index = order.at(position)
        rewards = learner.group(index)
        order.record(index, plain(*rewards))
        if len(set(rewards)) > 1:
            found += 1
            learner.skill += 0.003
    return found / positions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_learner_gets_more_than_twice_the_groups_with_contrast_and_learns_twice_as_much(seed):
    shuffled, adaptive = Learner(seed), Learner(seed)
    share = contrast(ShuffledEpochs(400, seed), shuffled)
    assert 0.05 < share < 0.2
    assert contrast(AdaptiveOrder(400, seed), adaptive) > 2.5 * share
    assert adaptive.skill > 2 * shuffled.skill


def asked(output: Path) -> list[str]:
    """The problem of every group of a run, in order."""
    rows = [
        row for file in sorted((output / "rollouts").glob("*.parquet")) for row in parquet.read_table(file).to_pylist()
    ]
    return [row["prompt_id"] for row in rows[::2]]


@pytest.mark.slow
def test_a_run_resumed_with_the_adaptive_order_asks_what_the_uninterrupted_one_asks(tmp_path, tiny_model):
    settings = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=", "problems": 32},
        "rewards": [{"name": "mine.py:even"}],
        "rollout": {"engine": "transformers", "group_size": 2, "prompts_per_step": 4, "max_tokens": 2},
        "train": {"steps": 12, "checkpoint_every": 6, "curriculum": {"order": "adaptive"}},
        "eval": {"problems": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "mine.py").write_text(
        "def even(completions, answer, **columns):\n    return [float(int(gold) % 2 == 0) for gold in answer]\n"
    )

    def train(output: Path, *overrides: str, resume: bool = False) -> list[str]:
        assert run(load_recipe(str(tmp_path / "recipe.yaml"), list(overrides)), "test", output, resume) == 0
        return asked(output)

    whole = train(tmp_path / "whole")
    assert len(whole) == 12 * 4
    assert whole[:24] == train(tmp_path / "broken", "train.steps=6")
    assert whole == train(tmp_path / "broken", resume=True)
    # What was recorded decides: without it, the second half asks for others.
    ids = [row.id for row in load_task(load_recipe(str(tmp_path / "recipe.yaml")).task, 1, 0).train]
    fresh = AdaptiveOrder(32, 0, candidates=8)  # 32 problems / 4 of a step
    assert whole[24:] != [ids[fresh.at(k)] for k in range(24, 48)]
    assert whole[:4] == [ids[fresh.at(k)] for k in range(4)]
