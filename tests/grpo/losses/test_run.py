"""Losses in whole runs: a KL in the reward, a steered entropy, and a loss of one's own that breaks its contract."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from recipes.command.main import main

LOSSES = """
import torch

def nan(inputs):
    return inputs.logprobs_T * float("nan")
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    (tmp_path / "mine.py").write_text(LOSSES)
    settings = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=", "problems": 16},
        "rewards": [{"name": "format"}],  # the same for all completions: whatever is learned is the KL's
        "rollout": {"engine": "transformers", "group_size": 4, "prompts_per_step": 4, "max_tokens": 8},
        "train": {"steps": 2, "learning_rate": 1.0e-3},
        "eval": {"problems": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(recipe: Path, output: Path, *settings: str) -> tuple[int, str]:
    overrides = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(main, ["run", str(recipe), "--output", str(output), *overrides])
    return result.exit_code, result.stderr


@pytest.mark.slow
def test_a_kl_in_the_reward_moves_the_advantages_and_the_entropy_steers_its_coefficient(recipe, tmp_path):
    settings = ("kl_coef=0.1", "kl_place=reward", "kl_estimator=k1", "entropy_target=100", "entropy_top_share=0.5")
    assert run(recipe, tmp_path / "out", *(f"train.{one}" for one in settings))[0] == 0
    first, second = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    assert first["kl_penalty"] == pytest.approx(0, abs=1e-3)  # nothing has been trained yet
    assert abs(second["kl_penalty"]) > 1e-4
    assert (first["entropy_coef"], second["entropy_coef"]) == (0.0, 0.005)
    assert math.isfinite(second["loss"])
    assert second["grad_norm"] > 1e-3


def test_a_loss_that_gives_nan_ends_the_run_with_one_message_and_one_that_is_not_there_before_it_starts(
    recipe, tmp_path
):
    code, message = run(recipe, tmp_path / "out", "train.loss=mine.py:nan")
    assert code == 2
    assert "mine.py:nan' returned nan for token 0 (" in message
    assert "Traceback" not in message
    code, message = run(recipe, tmp_path / "none", "train.loss=mine.py:nun")
    assert code == 2
    assert "has no function 'nun' (did you mean 'nan'" in message
    assert not (tmp_path / "none").exists()
