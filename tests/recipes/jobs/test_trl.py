"""A recipe through TRL's trainer: the same prompts, rewards and run directory; what TRL cannot do is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from datasets import load_dataset
from transformers import AutoModelForCausalLM

from grpo.policy.checkpoint import checkpoints
from recipes.jobs.train import run
from recipes.jobs.trl_settings import left_out, micro_batch, refuse
from recipes.schema.load import RecipeError, load_recipe

pytestmark = pytest.mark.slow

REWARDS = '''
def digits(completions, log_metric, **columns):
    """Share of characters that are digits."""
    log_metric("seen", float(len(completions)))
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
'''


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model: Path) -> Path:
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    recipe = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}="},
        "rewards": [{"name": "my_rewards.py:digits", "weight": 0.5}],
        "rollout": {
            "engine": "transformers",
            "group_size": 4,
            "prompts_per_step": 2,
            "max_tokens": 6,
            "max_prompt_tokens": 16,
        },
        "train": {"steps": 2, "learning_rate": 2.0e-4, "warmup_steps": 2, "tokens_per_micro_batch": 64},
        "eval": {"problems": 4},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def train(recipe_file: Path, output: Path, *overrides: str) -> list[dict]:
    assert run(load_recipe(str(recipe_file), list(overrides)), "test", output, False) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def prompts(output: Path) -> list[list[str]]:
    """The prompts of each step, one for each completion."""
    steps = sorted((output / "rollouts").glob("*.parquet"))
    return [load_dataset("parquet", data_files=str(path), split="train")["prompt_id"][:] for path in steps]


def test_a_full_disk_leaves_no_part_of_a_checkpoint(recipe_file, small_disk):
    with pytest.raises(OSError, match=r"cannot write .*checkpoints/step-000002: No space left on device; free some"):
        train(recipe_file, small_disk / "out", "train.backend=trl")  # the weights have 7 MB
    assert list((small_disk / "out" / "checkpoints").iterdir()) == []


@pytest.fixture
def both(recipe_file: Path, tmp_path: Path) -> dict[str, list[dict]]:
    return {side: train(recipe_file, tmp_path / side, f"train.backend={side}") for side in ("zero", "trl")}


def test_trl_gets_the_prompts_of_each_step_and_leaves_the_run_directory_that_ours_leaves(both, tmp_path, tiny_model):
    assert prompts(tmp_path / "trl") == prompts(tmp_path / "zero")
    ours, theirs = both["zero"], both["trl"]
    assert [line["step"] for line in theirs] == [1, 2]
    # A warm-up of 2 steps: half the rate, then all of it; transformers' own schedule would begin at 0.
    assert [line["learning_rate"] for line in theirs] == [1e-4, 2e-4]
    shared = {"reward", "reward_std", "accuracy", "length", "truncated", "tokens", "zero_variance_groups", "failed"}
    shared |= {"loss", "grad_norm", "entropy", "kl", "clipped", "trained_tokens", "tokens_per_second", "seconds"}
    assert shared <= ours[0].keys()
    assert shared <= theirs[0].keys()
    for line in theirs:
        assert line["reward"] == pytest.approx(0.5 * line["reward/digits"])
        assert line["logged/seen"] == 4.0  # a group at a time, as in ours
        parts = ("wait", "reward", "train", "rest")
        assert sum(line[f"seconds_{part}"] for part in parts) == pytest.approx(line["seconds"])
        of_training = sum(line[f"seconds_{part}"] for part in ("forward", "backward", "optimizer"))
        assert of_training == pytest.approx(line["seconds_train"])

    out = tmp_path / "trl"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["backend"] == "trl"
    assert summary["before"]["n"] == summary["after"]["n"] == 4
    # The same weights and greedy answers before the first step.
    assert summary["before"] == json.loads((tmp_path / "zero" / "summary.json").read_text())["before"]
    assert [json.loads(line)["step"] for line in (out / "evaluations.jsonl").read_text().splitlines()] == [0, 2]
    trained = AutoModelForCausalLM.from_pretrained(checkpoints(out)[-1][1])
    start = AutoModelForCausalLM.from_pretrained(tiny_model)
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    assert any(moved)


def test_losses_kl_and_lora_run_through_trl(recipe_file, tmp_path):
    lines = train(
        recipe_file,
        tmp_path / "out",
        "train.backend=trl",
        "train.loss=dr_grpo",
        "train.kl_coef=0.1",
        "model.lora={r: 4, alpha: 8}",
        "train.optimizer={betas: [0.9, 0.95], weight_decay: 0.01}",
    )
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)  # the adapter starts as the identity
    assert (checkpoints(tmp_path / "out")[-1][1] / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.updates_per_batch=2", r"train.updates_per_batch: got 2, .* no such setting; leave it at 1"),
        ("train.control=random", r"train.control: got 'random'"),
        ("train.curriculum={order: adaptive}", r"train.curriculum: got .*adaptive"),
        (
            "train.optimizer={amsgrad: true}",
            r"optimizer.amsgrad: TRL's trainer takes betas, eps and weight_decay",
        ),
    ],
)
def test_what_trl_cannot_do_is_refused_before_anything_is_loaded(recipe_file, tmp_path, override, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe_file, tmp_path / "out", override, "train.backend=trl")
    assert not (tmp_path / "out").exists()


def test_staleness_and_resuming_are_refused_and_the_engine_is_left_out_with_a_sentence(recipe_file):
    overrides = ["train.backend=trl", "rollout.engine=vllm", "rollout.max_staleness=1"]
    recipe = load_recipe(str(recipe_file), overrides)
    with pytest.raises(RecipeError, match=r"rollout.max_staleness: got 1(.|\n)*--resume: "):
        refuse(recipe, resume=True)
    recipe = load_recipe(str(recipe_file), [*overrides[:1], "rollout.engine=transformers", "train.correction=none"])
    refuse(recipe, resume=False)
    assert left_out(recipe).endswith("without effect: train.correction, rollout.engine")


def test_a_micro_batch_is_the_largest_divisor_whose_padded_rows_fit():
    # 64 completions of at most 108 tokens: 4096 tokens hold 37 rows, and 32 is the largest divisor of 64 below.
    assert micro_batch(64, 108, 4096) == 32
    assert micro_batch(64, 108, 10_000) == 64
    assert micro_batch(12, 100, 799) == 6  # 7 fit
    assert micro_batch(64, 5000, 4096) == 1
