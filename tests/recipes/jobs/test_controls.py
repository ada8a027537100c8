"""Null rewards are what they say, and a run is compared with its control by problems."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from eval.stats.compare import CompareError
from eval.stats.intervals import Estimate, paired_difference, wilson
from grpo.signal.null_rewards import null_rewards
from grpo.types import Completion, Prompt
from recipes.command.main import main
from recipes.jobs.controls import gain, render
from recipes.jobs.train import run
from recipes.schema.load import load_recipe
from rewards import Reward, Score

PROMPT = Prompt("p/1", "1+1=<think>", (5,), "2", prefill="<think>")


def completion(text: str) -> Completion:
    return Completion((1,), (0.0,), (0,), text, "stop")


def verdict(outcome: str) -> Reward:
    value = None if outcome in ("timeout", "error") else float(outcome == "correct")
    return Reward(value, {"accuracy": value}, Score(value, None, outcome, ""))


def test_format_only_pays_for_any_readable_answer_and_leaves_failures_out():
    outcomes = ("correct", "wrong", "no_answer", "malformed", "timeout")
    rewards = tuple(map(verdict, outcomes))
    nulls = null_rewards("format_only", PROMPT, (completion("x"),) * 5, rewards, "seed")
    assert nulls.total_G == (1.0, 1.0, 0.0, 0.0, None)
    assert nulls.parts == {"format_only": nulls.total_G}


def test_format_only_without_a_verifier_pays_for_r1_zeros_shape_as_the_template_opened_it():
    texts = ("so</think> <answer>7</answer>", "so</think> 7", "<answer>7</answer>")
    nulls = null_rewards("format_only", PROMPT, tuple(map(completion, texts)), (Reward(0.3),) * 3, "seed")
    assert nulls.total_G == (1.0, 0.0, 0.0)


def test_random_is_a_fair_coin_that_neither_text_nor_reward_moves():
    right, wrong = (verdict("correct"),) * 64, (verdict("wrong"),) * 64
    one = null_rewards("random", PROMPT, (completion("a"),) * 64, right, "0/1/p").total_G
    assert one == null_rewards("random", PROMPT, (completion("b"),) * 64, wrong, "0/1/p").total_G
    flips = [null_rewards("random", PROMPT, (), right, f"0/{step}/p").total_G for step in range(100)]
    heads = sum(map(sum, flips))
    assert abs(heads / 6400 - 0.5) < 4 * math.sqrt(0.25 / 6400)
    assert len(set(flips)) == 100


# -- Comparing -----------------------------------------------------------------------------------------------------


def folder(path: Path, control: str, right: list[int], stored: bool = True, **settings: object) -> Path:
    """A finished run of 2 steps that answers these of the held-out problems (0 or 1 each)."""
    path.mkdir()
    n = len(right)
    low, high = wilson(sum(right), n)
    recipe = {
        "train": {
            "control": control,
            "seed": settings.get("seed", 0),
            "steps": 2,
            "loss": settings.get("loss", "grpo"),
        },
        "task": {"name": "arithmetic", "seed": settings.get("task_seed")},
        "eval": {"samples": 1},
    }
    after = {"accuracy": sum(right) / n, "low": low, "high": high, "n": n}
    before = {"accuracy": 0.1, "low": 0.05, "high": 0.2, "n": n}
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (path / "summary.json").write_text(json.dumps({"before": before, "after": after, "steps": 2}))
    if stored:
        (path / "held_out").mkdir()
        problems = {f"arithmetic/test/{i}": float(x) for i, x in enumerate(right)}
        (path / "held_out" / "step-000002.json").write_text(json.dumps(problems))
    return path


RIGHT, NULL = [1] * 60 + [0] * 40, [1] * 20 + [0] * 70 + [1] * 10  # 60% and 30% of 100; both right on 20


def test_the_gain_is_paired_on_the_problems_that_both_answered(tmp_path):
    found = gain(folder(tmp_path / "run", "none", RIGHT), folder(tmp_path / "null", "random", NULL))
    assert found.paired == 100
    assert found.over_control.value == pytest.approx(0.6 - 0.3)
    interval = paired_difference(list(map(float, NULL)), list(map(float, RIGHT)))
    assert (found.over_control.low, found.over_control.high) == interval
    # 40 problems for the run, 10 for the control: twice the binomial tail of at most 10 heads in 50
    exact = 2 * sum(math.comb(50, k) for k in range(11)) / 2**50
    assert found.p_value == pytest.approx(exact, rel=1e-6)
    text = render(found)
    assert text.startswith("gain over the control: +30.0 points, 95% interval +1")
    assert "control (random)       10.0% [5.0, 20.0] -> 30.0%" in text
    assert "+50.0 points, 100 problems" in text
    assert "is not shown" not in text


@pytest.mark.parametrize("name", ["summary.json", "held_out/step-000002.json", "recipe.yaml"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_a_run_whose_result_is_damaged_is_refused_by_name(tmp_path, name, content):
    run, control = folder(tmp_path / "run", "none", RIGHT), folder(tmp_path / "null", "random", NULL)
    (run / name).write_bytes(content)
    with pytest.raises(CompareError, match=r"(?s)run: a file of the finished run is damaged, .*restore it, or finish"):
        gain(run, control)


def test_the_order_of_the_two_folders_does_not_matter(tmp_path):
    a, b = folder(tmp_path / "run", "none", RIGHT), folder(tmp_path / "null", "format_only", NULL)
    assert gain(a, b) == gain(b, a)


@pytest.mark.parametrize("how", [{"stored": False}, {"seed": 1}])
def test_without_the_same_problems_the_interval_is_that_of_independent_proportions(tmp_path, how):
    found = gain(folder(tmp_path / "run", "none", RIGHT), folder(tmp_path / "null", "random", NULL, **how))
    assert (found.paired, found.p_value) == (0, None)
    # Newcombe's method 10: d - sqrt((p1 - l1)^2 + (u2 - p2)^2), d + sqrt((u1 - p1)^2 + (p2 - l2)^2)
    (l1, u1), (l2, u2) = wilson(60, 100), wilson(30, 100)
    low, high = 0.3 - math.hypot(0.6 - l1, u2 - 0.3), 0.3 + math.hypot(u1 - 0.6, 0.3 - l2)
    assert found.over_control == Estimate(pytest.approx(0.3), pytest.approx(low), pytest.approx(high))


def test_seeds_may_differ_where_the_task_has_its_own(tmp_path):
    run_folder = folder(tmp_path / "run", "none", RIGHT, task_seed=5)
    assert gain(run_folder, folder(tmp_path / "null", "random", NULL, seed=1, task_seed=5)).paired == 100


def test_a_gain_that_is_not_shown_is_said_to_be_none(tmp_path):
    found = gain(folder(tmp_path / "run", "none", RIGHT), folder(tmp_path / "null", "random", RIGHT))
    assert "The interval holds 0: that the rewards taught anything beyond the control is not shown." in render(found)


def test_two_runs_that_are_no_pair_of_run_and_control_are_refused(tmp_path):
    a, b = folder(tmp_path / "a", "none", RIGHT), folder(tmp_path / "b", "none", NULL)
    with pytest.raises(CompareError, match=r"a has train\.control: none, .*b has none; expected a run and a control"):
        gain(a, b)
    other = folder(tmp_path / "other", "random", NULL, loss="dapo")
    with pytest.raises(CompareError, match=r"of different recipes: train\.loss is 'grpo' in A and 'dapo' in B"):
        gain(a, other)
    (other / "summary.json").unlink()
    with pytest.raises(CompareError, match=r"other has no summary\.json: the run did not finish"):
        gain(a, other)


def test_compare_takes_a_run_and_its_control_and_refuses_one_of_each_kind(tmp_path):
    a, b = folder(tmp_path / "run", "none", RIGHT), folder(tmp_path / "null", "random", NULL)
    shown = CliRunner().invoke(main, ["compare", str(a), str(b)])
    assert shown.exit_code == 0
    assert shown.output.startswith("gain over the control: +30.0 points")
    (tmp_path / "evaluation").mkdir()
    refused = CliRunner().invoke(main, ["compare", str(a), str(tmp_path / "evaluation")])
    assert refused.exit_code == 2
    assert "run is a training run" in refused.output
    assert "evaluation is not; give runs, such as a run and its control, or evaluations" in refused.output


@pytest.mark.slow
def test_a_run_and_its_controls_are_compared_as_they_are_written(tmp_path, tiny_model):
    recipe = [
        f"model={{path: {tiny_model}, dtype: float32}}",
        "rollout={engine: transformers, group_size: 2, prompts_per_step: 2, max_tokens: 4, max_prompt_tokens: 16}",
        "train={steps: 1, tokens_per_micro_batch: 256}",
        "eval.problems=6",
    ]
    for control in ("none", "random", "format_only"):
        settings = load_recipe("tiny_arithmetic_cpu", [*recipe, f"train.control={control}"])
        assert run(settings, "test", tmp_path / control, resume=False) == 0
    summary = json.loads((tmp_path / "random" / "summary.json").read_text())
    assert summary["control"] == "random"
    assert "problems" not in summary["after"]
    for control in ("random", "format_only"):
        found = gain(tmp_path / "none", tmp_path / control)
        assert found.paired == found.run.n > 0
