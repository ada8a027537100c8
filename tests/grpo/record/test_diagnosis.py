"""Each pathology, provoked on purpose, gives its sentence and no other; runs that learn give none."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo.config import GRPOConfig, RolloutSettings
from grpo.record.diagnosis import Diagnosis
from grpo.record.pathologies import __file__ as PATHOLOGIES_FILE
from grpo.record.pathologies import mismatch
from grpo.record.recorder import __doc__ as DOCUMENTED

REAL = Path(__file__).parents[2] / "cases" / "healthy_run.jsonl"  # tiny_arithmetic_cpu in process, 12 prompts a step
CONFIG = GRPOConfig(kl_coef=0.001)
ROLLOUT = RolloutSettings(max_tokens=512, max_staleness=1)
Steps = list[dict[str, float]]


def said(steps: Steps, run_dir: Path, config: GRPOConfig = CONFIG) -> list[str]:
    sentences: list[str] = []
    diagnosis = Diagnosis(config, ROLLOUT, run_dir, sentences.append)
    for step in steps:
        diagnosis.explain(step)
    return sentences


def learning(seed: int, steps: int = 200, start: float = 0.2, end: float = 0.7, entropy: float = 0.5) -> Steps:
    """A run of 16 groups of 8 that learns from `start` to `end` and then stays, with the noise of sampling."""
    rng = random.Random(seed)

    def noisy(value: float, spread: float) -> float:
        return value * math.exp(rng.gauss(0, spread))

    def share(p: float, n: int = 128) -> float:
        return sum(rng.random() < p for _ in range(n)) / n

    history = []
    for step in range(1, steps + 1):
        learned = 1 - math.exp(-step / 40)
        accuracy = share(start + (end - start) * learned)
        malformed, truncated = share(0.3 * (1 - learned)), share(0.1)
        history.append(
            {
                "step": step,
                "reward": accuracy + 0.2 * (1 - malformed),
                "accuracy": accuracy,
                "outcome/correct": accuracy,
                "outcome/malformed": malformed,
                "outcome/no_answer": truncated,
                "length": noisy(200 + step, 0.06),
                "truncated": truncated,
                "entropy": noisy(entropy * (1 - 0.8 * learned), 0.1),
                "grad_norm": noisy(0.3, 0.5),
                "zero_variance_groups": share(0.5, 16),
                "logprob_diff": noisy(0.02, 0.2),
                "kl": noisy(0.05 * learned, 0.3),
                "ess": 1 - noisy(0.02, 0.5),
                "stale": 1.0,
            }
        )
    return history


def changed(after: int, **metrics: float | Callable[[int], float]) -> Steps:
    """A run that learns, with these metrics from the step after `after` on."""
    key = {"no_answer": "outcome/no_answer", "malformed": "outcome/malformed"}
    history = learning(0, 60)
    for i, step in enumerate(history[after:]):
        step |= {key.get(name, name): x(i) if callable(x) else x for name, x in metrics.items()}
    return history


def test_a_real_run_that_learns_gives_no_sentence(tmp_path):
    steps = [json.loads(line) for line in REAL.read_text().splitlines()]
    assert steps[-1]["reward"] > 3 * steps[0]["reward"]
    assert said(steps, tmp_path) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "course",
    [{}, {"start": 0.85, "end": 0.99, "entropy": 0.3}, {"start": 0.02, "end": 0.3}, {"start": 0.5, "end": 0.6}],
    ids=["usual", "easy", "hard", "slow"],
)
def test_a_run_that_learns_gives_no_sentence_in_200_noisy_steps(tmp_path, course, seed):
    assert said(learning(seed, **course), tmp_path) == []


ALIKE = {"zero_variance_groups": 1.0}
PROVOKED = {  # a window of 5 reaches its threshold before it is full: (0.1 + 4 x 0.7) / 5 = 0.58 are truncated
    "too hard": (changed(0, **ALIKE, accuracy=0.01, reward=0.01), "the task is too hard (1% are right); take easier"),
    "too easy": (changed(0, **ALIKE, accuracy=0.99, reward=1.0), "the task is too easy (99% are right); take harder"),
    "no format": (changed(0, **ALIKE, accuracy=0.0, malformed=0.9), "90% give no readable answer; say in task.templ"),
    "all cut": (changed(0, **ALIKE, truncated=0.99), "99% are cut at rollout.max_tokens = 512 before they answer; ra"),
    "same reward": (changed(0, **ALIKE, accuracy=0.5), "the rewards do not tell one completion from another; look at"),
    "entropy": (
        changed(30, entropy=0.01, accuracy=0.4, reward=0.5),
        "to 0.01 nats: completions hardly differ any more, and nothing new is found. Raise train.clip_high (0.2;",
    ),
    "length": (
        changed(30, length=lambda i: 230 * 1.06**i, reward=0.5),
        "tokens within 20 steps, and the reward did not rise: train.loss: grpo",
    ),
    "truncation": (changed(30, truncated=0.7), "58% of the completions are cut at rollout.max_tokens = 512: raise it"),
    "format stays": (
        changed(0, malformed=0.6),
        "answer (malformed or none, not truncated) is 60% after 20 steps: add {name: format, weight: 0.2}",
    ),
    "format lost": (changed(40, malformed=lambda i: min(0.05 * i, 0.9)), "truncated) rose from 2"),
    "mismatch": (
        changed(30, logprob_diff=0.3),
        "log-probs differ from the trainer's by 0.30 on average (more than 0.1)",
    ),
    "stale": (
        changed(30, ess=0.4),
        "the samples are worth 63% of fresh ones (effective sample size), as 100% of their",
    ),
    "spike": (changed(40, grad_norm=lambda i: 50.0 if i == 3 else 0.3), "the gradient's norm is 50, 1"),
    "kl": (changed(30, kl=2.0), "the KL to the reference is 0.82 nats a token (more than 0.5): the policy is far from"),
}
PROVOKED["mismatch"][0][30]["stale"] = 0.0


@pytest.mark.parametrize("name", PROVOKED)
def test_a_pathology_gives_its_sentence_once_and_no_other(tmp_path, name):
    steps, expected = PROVOKED[name]
    (sentence,) = said(steps, tmp_path)
    assert expected in sentence


@pytest.mark.parametrize(
    ("noise", "difference", "stale", "limit"),
    [
        (1e-6, 1e-3, 0.0, "1.0e-03 on average (more than 2e-05)"),  # fp32: 0.1 is a hundred thousand times its noise
        (1e-6, 1e-5, 0.0, None),
        (1e-6, 1e-3, 0.2, None),  # of what was learned since
        (0.02, 0.09, 0.0, None),
        (0.02, 0.2, 0.0, "0.20 on average (more than 0.1)"),
        (0.06, 0.2, 0.0, None),  # four times 0.06
    ],
)
def test_a_difference_is_said_at_a_multiple_of_the_proven_noise(noise, difference, stale, limit):
    step = {"logprob_diff": difference, "stale": stale, "proven_noise": noise}
    sentence = mismatch([step], GRPOConfig(), RolloutSettings())
    assert (sentence is None) == (limit is None)
    assert limit is None or limit in sentence


def test_a_reward_that_does_not_rise_in_100_steps_is_said_and_a_controls_is_not(tmp_path):
    flat = learning(0, 120, start=0.3, end=0.3)
    for step in flat:
        step["reward"] = step["accuracy"]
    (sentence,) = said(flat, tmp_path)
    assert sentence.startswith("the reward has not risen in 100 steps (0.289 in the first 20, 0.302 in")
    assert "train.learning_rate (1e-06)" in sentence
    assert said(flat, tmp_path, CONFIG.model_copy(update={"control": "random"})) == []


def test_a_run_shorter_than_the_window_is_told_that_all_groups_are_alike(tmp_path):
    (sentence,) = said([{"zero_variance_groups": 1.0}], tmp_path, GRPOConfig(steps=1))
    assert sentence.startswith("100% of the groups of the last 1 steps have one and the same reward")


def test_a_control_whose_groups_are_alike_is_told_that_this_is_its_result(tmp_path):
    (sentence,) = said(changed(0, **ALIKE, accuracy=0.3), tmp_path, GRPOConfig(control="format_only"))
    assert "format_only pays for form alone, which all completions have, or none; that is its result" in sentence


def test_a_resumed_run_goes_on_with_its_history_and_does_not_repeat_what_it_said(tmp_path):
    whole = PROVOKED["entropy"][0]
    whole = whole[:55] + [step | {"kl": 2.0} for step in whole[55:]]
    everything = said(whole, tmp_path)
    assert len(everything) == 2
    lines = [json.dumps(step | {"kl": None} if step["step"] == 3 else step) for step in whole[:55]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert said(whole[55:], tmp_path) == everything[1:]


def test_what_is_read_is_documented_in_the_table_of_metrics():
    import re

    keys = set(re.findall(r'"((?:[a-z_]+)(?:/[a-z_]*)?)"', Path(PATHOLOGIES_FILE).read_text()))
    rows = [line.split("|")[1] for line in DOCUMENTED.splitlines() if line.strip().startswith("|")]
    documented = {key.strip() for row in rows for key in row.split(",")}
    read = {"outcome/NAME" if key.startswith("outcome/") else key for key in keys} - {"none", "format_only"}
    assert len(read) >= 9
    assert read <= documented
