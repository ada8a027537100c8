"""Null rewards: what a run gains whatever its rewards say.

    random         a coin flip, independent of the completion
    format_only    1 if the completion has the form that an answer is asked for in, right or wrong, else 0

Some models gain from them: Qwen2.5-Math-7B 21 points on MATH-500 from random rewards, 14 from a reward for \\boxed{}
("Spurious Rewards", arXiv 2506.10947). A result is the gain over such a control: `zero compare RUN CONTROL_RUN`.

The rewards of the recipe are computed and recorded all the same; only what advantages are made from is replaced. A
completion that could not be scored stays so.
"""

from __future__ import annotations

import random
from typing import Literal

from grpo.types import Completion, Prompt, RewardsOfGroup
from rewards import Reward
from rewards.builtin.format import format as r1_zero_shape

READABLE = ("correct", "wrong")  # outcomes of a verifier that has found an answer where it was asked for


def null_rewards(
    control: Literal["random", "format_only"],
    prompt: Prompt,
    completions: tuple[Completion, ...],
    rewards: tuple[Reward, ...],
    seed: str,
) -> RewardsOfGroup:
    """What the group earns under the control. `seed` decides the coin flips."""
    if control == "random":
        coin = random.Random(seed)
        values = [float(coin.random() < 0.5) for _ in rewards]
    else:
        values = [_has_form(prompt.prefill + c.text, r) for c, r in zip(completions, rewards, strict=True)]
    nulls = tuple(None if r.value is None else value for r, value in zip(rewards, values, strict=True))
    return RewardsOfGroup(nulls, {control: nulls}, {control: 1.0})


def _has_form(text: str, reward: Reward) -> float:
    """By the task's verifier; where the rewards have none, R1-Zero's <think> and <answer>."""
    if reward.score is not None:
        return float(reward.score.outcome in READABLE)
    return r1_zero_shape([text])[0]
