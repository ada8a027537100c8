"""A teacher that a recipe names: refused where it reads other tokens, else drawn to, over a whole run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from grpo.config import ModelError
from grpo.policy.load import load_tokenizer
from recipes.jobs.teacher import check_teacher
from recipes.schema.load import load_recipe, model_settings, resolve_model
from tests import forked

DISTILLED = ["rollout.engine=transformers", "train.advantage=teacher"]


def check(*overrides: str) -> None:
    recipe = load_recipe("tiny_arithmetic_cpu", [*DISTILLED, *overrides])
    check_teacher(recipe, load_tokenizer(model_settings(recipe)))


def test_a_teacher_of_the_same_tokenizer_is_taken() -> None:
    check("train.teacher=tiny")


def test_one_of_another_tokenizer_is_refused_by_a_token(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"has another tokenizer than tiny: of \d+ tokens \d+ differ, such as "):
        check(f"train.teacher={tiny_model}")


def test_one_that_knows_too_few_tokens_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(resolve_model("tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 4}))
    with pytest.raises(ModelError, match="knows 4 tokens, the tokenizer has number"):
        check(f"train.teacher={folder}")


def test_one_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="/no/such/teacher"):
        check("train.teacher=/no/such/teacher")


@pytest.mark.slow
def test_a_run_whose_teacher_is_the_policy_itself_finds_no_difference(tmp_path: Path) -> None:
    small = ["train.teacher=tiny", "train.steps=2", "eval.problems=4", "rollout.prompts_per_step=4"]
    settings = [part for one in (*DISTILLED, *small) for part in ("--set", one)]
    program = "from recipes.command.main import main; main()"
    line = [sys.executable, "-c", program, "run", "tiny_arithmetic_cpu", *settings, "--output", str(tmp_path / "out")]
    done = forked.run(line)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert abs(lines[0]["kl"]) < 1e-6  # before the first update
    assert lines[0]["trained_tokens"] == lines[0]["tokens"]
