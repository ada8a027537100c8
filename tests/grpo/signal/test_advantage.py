"""Advantages against their definitions by hand, naive loops written from the papers, and TRL's own lines."""

from __future__ import annotations

import inspect
import math
import random
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grpo.config import GRPOConfig
from grpo.names import ADVANTAGE_KINDS
from grpo.signal.advantage import ADVANTAGES, STD_FLOOR, AdvantageError, group_advantages, load_advantage
from grpo.types import RewardsOfGroup

E = STD_FLOOR


def groups_of(*totals: list[float | None]) -> list[RewardsOfGroup]:
    """Groups with one reward."""
    return [RewardsOfGroup(tuple(one), {"reward": tuple(one)}, {"reward": 1.0}) for one in totals]


def flat(advantages: list[list[float | None]]) -> list[float | None]:
    return [one for advantages_G in advantages for one in advantages_G]


# -- By hand ------------------------------------------------------------------------------------------------------


def test_group_std_divides_the_centred_rewards_by_their_unbiased_std():
    # rewards 1, 0, 0, 0: mean 0.25, unbiased variance (0.75^2 + 3 * 0.25^2) / 3 = 0.25, std 0.5
    assert group_advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx([0.75 / (0.5 + E)] + [-0.25 / (0.5 + E)] * 3)


def test_group_mean_only_centres():
    assert group_advantages([1.0, 0.0, 0.5], "group_mean") == pytest.approx([0.5, -0.5, 0.0])


def test_leave_one_out_subtracts_the_mean_of_the_others():
    # 3 - (0 + 1) / 2 = 2.5, 0 - (3 + 1) / 2 = -2, 1 - (3 + 0) / 2 = -0.5; the unscored one is nobody's other
    assert group_advantages([3.0, 0.0, None, 1.0], "leave_one_out") == pytest.approx([2.5, -2.0, None, -0.5])


def test_batch_std_divides_by_the_std_of_all_centred_rewards_of_the_step():
    # centred 1, -1 and 3, -3: mean 0, unbiased variance (1 + 1 + 9 + 9) / 3 = 20 / 3
    got = ADVANTAGES["batch_std"](groups_of([12.0, 10.0], [6.0, 0.0]))
    std = math.sqrt(20 / 3) + E
    assert flat(got) == pytest.approx([1 / std, -1 / std, 3 / std, -3 / std])


def test_batch_reward_std_divides_by_the_std_of_all_rewards_of_the_step():
    # rewards 12, 10, 6, 0: mean 7, unbiased variance (25 + 9 + 1 + 49) / 3 = 28
    got = ADVANTAGES["batch_reward_std"](groups_of([12.0, 10.0], [6.0, 0.0]))
    std = math.sqrt(28) + E
    assert flat(got) == pytest.approx([1 / std, -1 / std, 3 / std, -3 / std])


def test_gdpo_normalises_each_reward_before_it_adds_them():
    # Of two completions, each reward's std is |difference| / sqrt(2), so each gives +- sqrt(1/2), whatever its scale:
    # with weights 1 and 0.5, s = +-1.5 * sqrt(1/2) where they agree and +-0.5 * sqrt(1/2) where they do not. Those
    # four, of mean 0, have the unbiased variance (2 * 1.125 + 2 * 0.125) / 3 = 2.5 / 3.
    weights = {"accuracy": 1.0, "format": 0.5}
    agree = RewardsOfGroup((1.5, 0.0), {"accuracy": (1.0, 0.0), "format": (1.0, 0.0)}, weights)
    differ = RewardsOfGroup((1.0, 5.0), {"accuracy": (1.0, 0.0), "format": (0.0, 10.0)}, weights)
    half, std = math.sqrt(0.5), math.sqrt(2.5 / 3)
    expected = [1.5 * half / std, -1.5 * half / std, 0.5 * half / std, -0.5 * half / std]
    assert flat(ADVANTAGES["gdpo"]([agree, differ])) == pytest.approx(expected, rel=5e-4)  # e is 1e-4 of stds near 1


def test_gdpo_tells_apart_completions_whose_rewards_have_one_sum():
    """The collapse that the paper is about: 1 + 0 and 0 + 1 are one sum, so group_std makes them one advantage."""
    parts = {"rare": (1.0, 0.0, 0.0, 0.0), "frequent": (0.0, 1.0, 1.0, 0.0)}
    group = RewardsOfGroup((1.0, 1.0, 1.0, 0.0), parts, {"rare": 1.0, "frequent": 1.0})
    rare, frequent, *_ = ADVANTAGES["gdpo"]([group])[0]
    assert rare > 1.5 * frequent  # 0.75 / 0.5 - 0.5 / sqrt(1/3) against 0.5 / sqrt(1/3) - 0.25 / 0.5: 0.63 to 0.37
    alike = ADVANTAGES["group_std"]([group])[0]
    assert alike[0] == alike[1]


def test_a_reward_that_does_not_apply_adds_nothing():
    # "format" applies to the first two alone: +-1 / (sqrt(2) + E) once centred by their mean 1
    parts = {"format": (2.0, 0.0, None)}
    group = RewardsOfGroup((2.0, 0.0, 0.0), parts, {"format": 1.0})
    s = 1 / (math.sqrt(2) + E)
    std = math.sqrt(2 * s * s / 2) + E  # of s, -s, 0
    assert ADVANTAGES["gdpo"]([group])[0] == pytest.approx([s / std, -s / std, 0.0])


# -- Degenerate groups, failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize("rewards", [[0.3], [0.1, 0.1, 0.1], [None, 0.7], [1.0, 1.0, None]])
def test_groups_without_contrast_have_exactly_zero_advantage_alone_and_beside_others(kind, rewards):
    expected = [None if r is None else 0.0 for r in rewards]
    assert group_advantages(rewards, kind) == expected
    beside = ADVANTAGES[kind](groups_of([1.0, 0.0, 0.3], rewards, [None, 0.2, 0.9]))
    assert beside[1] == expected
    assert all(beside[0])


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_a_group_that_failed_as_a_whole_has_no_advantage_and_no_group_has_none(kind):
    assert group_advantages([None, None], kind) == [None, None]
    assert group_advantages([], kind) == []
    assert ADVANTAGES[kind]([]) == []


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_an_unscored_completion_is_none_and_leaves_the_others_as_if_it_were_not_there(kind):
    without = ADVANTAGES[kind](groups_of([1.0, 0.0, 0.3], [2.0, 0.5]))
    with_it = ADVANTAGES[kind](groups_of([1.0, None, 0.0, 0.3], [2.0, 0.5, None]))
    assert [one for one in flat(with_it) if one is not None] == flat(without)
    assert (with_it[0][1], with_it[1][2]) == (None, None)


def test_gdpo_leaves_a_failed_completion_out_of_every_rewards_baseline():
    """Its accuracy could not be graded, so that its total is None; its format was."""
    weights = {"accuracy": 1.0, "format": 1.0}
    scored = RewardsOfGroup((2.0, 0.0), {"accuracy": (1.0, 0.0), "format": (1.0, 0.0)}, weights)
    failed = RewardsOfGroup((2.0, 0.0, None), {"accuracy": (1.0, 0.0, None), "format": (1.0, 0.0, 1.0)}, weights)
    assert ADVANTAGES["gdpo"]([failed])[0] == [*ADVANTAGES["gdpo"]([scored])[0], None]


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_advantages_sum_to_zero_in_every_group(kind):
    for advantages_G in ADVANTAGES[kind](groups_of([0.2, 1.2, 0.0, 1.0, 1.0], [3.0, None, 0.4])):
        assert math.isclose(sum(a for a in advantages_G if a is not None), 0.0, abs_tol=1e-9)


# -- Naive loops on random steps ----------------------------------------------------------------------------------


def random_step(seed: int, failures: float = 0.0) -> list[RewardsOfGroup]:
    """Six groups of five completions with three rewards, the last of which does not always apply."""
    chance = random.Random(seed)
    weights = {"accuracy": 1.0, "length": -0.3, "format": 0.2}
    groups = []
    for _ in range(6):
        rows = []
        for _ in range(5):
            parts = [float(chance.random() < 0.5), chance.gauss(0, 3), chance.choice([0.0, 1.0, None])]
            rows.append([None] * 3 if chance.random() < failures else parts)
        totals = [
            None if row[0] is None else sum(w * v for w, v in zip(weights.values(), row, strict=True) if v is not None)
            for row in rows
        ]
        columns = {name: tuple(row[k] for row in rows) for k, name in enumerate(weights)}
        groups.append(RewardsOfGroup(tuple(totals), columns, weights))
    return groups


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def std(values: list[float]) -> float:
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1))


def naive(kind: str, step: list[RewardsOfGroup]) -> list[float]:
    """Each formula of the module's docstring, one completion at a time, of a step in which nothing failed."""
    everyone = [r for group in step for r in group.total_G]
    centred = [r - mean(list(group.total_G)) for group in step for r in group.total_G]
    sums = []
    for group in step:
        for i in range(len(group.total_G)):
            s = 0.0
            for name, values in group.parts.items():
                there = [value for value in values if value is not None]
                if values[i] is not None and len(there) > 1:
                    s += group.weights[name] * (values[i] - mean(there)) / (std(there) + E)
            sums.append(s)
    found = []
    for g, group in enumerate(step):
        rewards = list(group.total_G)
        for i, r in enumerate(rewards):
            others = rewards[:i] + rewards[i + 1 :]
            at = g * len(rewards) + i
            found.append(
                {
                    "group_std": (r - mean(rewards)) / (std(rewards) + E),
                    "group_mean": r - mean(rewards),
                    "leave_one_out": r - mean(others),
                    "batch_std": (centred[at] - mean(centred)) / (std(centred) + E),
                    "batch_reward_std": centred[at] / (std(everyone) + E),
                    "gdpo": (sums[at] - mean(sums)) / (std(sums) + E),
                }[kind]
            )
    return found


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize("seed", range(3))
def test_random_steps_agree_with_the_naive_definition(kind, seed):
    step = random_step(seed)
    assert flat(ADVANTAGES[kind](step)) == pytest.approx(naive(kind, step), abs=1e-12)


# -- TRL ----------------------------------------------------------------------------------------------------------

TRL = {
    "group_std": ("sum_then_normalize", "group"),
    "group_mean": ("sum_then_normalize", "none"),
    "batch_reward_std": ("sum_then_normalize", "batch"),
    "gdpo": ("normalize_then_sum", "group"),
}


def lines_of_trl(trainer: type, settings: dict[str, Any], step: list[RewardsOfGroup]) -> list[float]:
    """Run the lines of TRL's trainer that turn rewards into advantages, as they are installed."""
    from trl.trainer.utils import nanstd

    source = inspect.getsource(trainer._generate_and_score_completions)
    start = source.index("        unscorable_mask = ")
    end = source.index("        advantages = torch.nan_to_num(advantages, nan=0.0)")
    rows = [list(zip(*group.parts.values(), strict=True)) for group in step]
    per_function = [[math.nan if v is None else v for v in row] for group in rows for row in group]
    weights = list(step[0].weights.values())
    names: dict[str, Any] = {
        "torch": torch,
        "nanstd": nanstd,
        "device": "cpu",
        "num_generations": len(step[0].total_G),
        "rewards_per_func": torch.tensor(per_function, dtype=torch.float64),
        "self": SimpleNamespace(
            reward_funcs=weights, reward_weights=torch.tensor(weights, dtype=torch.float64), **settings
        ),
    }
    exec(textwrap.dedent(source[start:end]), names)
    return torch.nan_to_num(names["advantages"], nan=0.0).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRL)
@pytest.mark.parametrize("failures", [0.0, 0.3])
def test_random_steps_agree_with_trls_grpo_trainer(kind, failures):
    from trl import GRPOTrainer

    aggregation, scale = TRL[kind]
    for seed in range(3):
        step = random_step(seed, failures)
        expected = lines_of_trl(GRPOTrainer, {"multi_objective_aggregation": aggregation, "scale_rewards": scale}, step)
        got = [one or 0.0 for one in flat(ADVANTAGES[kind](step))]  # TRL has 0 where ours is None
        assert got == pytest.approx(expected, abs=1e-6)  # its Bessel factor is in fp32


@pytest.mark.parametrize("failures", [0.0, 0.3])
def test_leave_one_out_agrees_with_trls_rloo_trainer(failures):
    from trl import RLOOTrainer

    settings = {"reward_clip_range": None, "beta": 0.0, "normalize_advantages": False}
    for seed in range(3):
        step = random_step(seed, failures)
        got = [one or 0.0 for one in flat(ADVANTAGES["leave_one_out"](step))]
        assert got == pytest.approx(lines_of_trl(RLOOTrainer, settings, step), abs=1e-6)


# -- One's own ----------------------------------------------------------------------------------------------------

OWN = """
import numpy, torch

def doubled(groups):
    return [[None if r is None else 2 * r for r in group.total_G] for group in groups]

def arrays(groups):
    return numpy.array([[1, 2], [3, 4]])

def tensors(groups):
    return (torch.tensor([1.0, 2.0]), [torch.tensor(3.0), numpy.float32(4)])

def skips_all(groups):
    return [[None for _ in group.total_G] for group in groups]

def flat(groups):
    return [r for group in groups for r in group.total_G]

def too_few(groups):
    return [[1.0, 2.0]]

def short(groups):
    return [[1.0, 2.0], [1.0]]

def nan(groups):
    return [[0.0, float("nan")], [0.0, None]]

def text(groups):
    return [[0.0, 1.0], ["a", 0.0]]

def nothing(groups):
    pass

def trains_failures(groups):
    return [[r or 0.0 for r in group.total_G] for group in groups]

def raises(groups):
    return groups[0].total
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(OWN)
    return str(tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("doubled", [[2.0, 0.0], [1.0, 0.5]]),
        ("arrays", [[1.0, 2.0], [3.0, 4.0]]),
        ("tensors", [[1.0, 2.0], [3.0, 4.0]]),
        ("skips_all", [[None, None], [None, None]]),
    ],
)
def test_ones_own_advantage_may_return_lists_arrays_or_tensors_of_numbers_and_none(own, name, expected):
    got = load_advantage(f"{own}:{name}")(groups_of([1.0, 0.0], [0.5, 0.25]))
    assert got == expected
    assert {type(one) for one in flat(got)} <= {float, type(None)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat", r"got 4 lists, expected one list for each of the 2 groups, with one number for each completion"),
        ("too_few", r"got 1 lists, expected one list for each of the 2 groups"),
        ("short", r"got \[1.0\] for group 1, expected a list of 2 numbers"),
        ("nan", r"completion 1 of group 0: got nan, expected a finite number, or None to leave it out of training"),
        ("text", r"completion 0 of group 1: got 'a', expected a finite number"),
        ("nothing", r"got NoneType, expected one list for each of the 2 groups"),
        ("trains_failures", r"completion 1 of group 1: got 0.0, expected None: its reward is None"),
        ("raises", r"raised AttributeError: .*'total', while given 2 groups \(.*mine.py:38\)"),
    ],
)
def test_ones_own_advantage_that_breaks_its_contract_is_one_error_that_names_it(own, name, message):
    with pytest.raises(AdvantageError, match=rf"\Atrain.advantage '.*mine.py:{name}':? {message}"):
        load_advantage(f"{own}:{name}")(groups_of([1.0, 0.0], [0.5, None]))


def test_ones_own_advantage_that_is_not_there_is_named_with_the_nearest(own):
    with pytest.raises(AdvantageError, match=r"train.advantage .*has no function 'doubld' \(did you mean 'doubled'"):
        load_advantage(f"{own}:doubld")
    with pytest.raises(AdvantageError, match=r"train.advantage .*there is no file .*absent.py"):
        load_advantage(f"{Path(own).parent}/absent.py:f")


def test_a_recipe_takes_every_built_in_and_refuses_an_unknown_one():
    assert [*ADVANTAGES, "teacher"] == list(ADVANTAGE_KINDS)
    assert [GRPOConfig(advantage=name).advantage_kind for name in ADVANTAGES] == list(ADVANTAGES)
    assert GRPOConfig().advantage_kind == "group_std"
    assert GRPOConfig(loss="dr_grpo").advantage_kind == "group_mean"
    with pytest.raises(ValueError, match=r"got 'group_mad', expected auto, group_std, .* or package.module:function"):
        GRPOConfig(advantage="group_mad")
