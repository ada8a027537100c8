"""docs/algorithms.md: its tables name what there is, its settings load, its own loss trains."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from grpo.config import GRPOConfig, ModelSettings
from grpo.losses.objective import Objective
from grpo.names import ADVANTAGE_KINDS, NORMALISERS
from grpo.policy.adapters import add_adapter
from grpo.policy.load import load_model
from recipes.jobs.train import run
from recipes.schema.load import builtin_recipes, load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")


def first_column(heading: str) -> list[str]:
    """What stands in backquotes at the start of the rows under a heading."""
    section = PAGE.split(f"\n## {heading}")[1].split("\n## ")[0]
    return re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.split("## Your own loss")[1], re.DOTALL)[0]


def test_the_tables_name_every_loss_advantage_and_paper_recipe():
    assert sorted(first_column("Losses")) == sorted(NORMALISERS)
    assert sorted(first_column("Advantages")) == sorted(ADVANTAGE_KINDS)
    recipes = first_column("Published methods")
    assert len(recipes) == 5
    assert set(recipes) <= builtin_recipes().keys()


@pytest.mark.parametrize("settings", first_column("KL, entropy"))
def test_a_setting_of_the_page_makes_an_objective(settings):
    Objective(GRPOConfig.model_validate(yaml.safe_load(settings)))


@pytest.mark.parametrize("settings", first_column("Adapters"))
def test_an_adapter_of_the_page_can_be_attached(settings, tiny_model):
    model = ModelSettings.model_validate({"path": str(tiny_model), "dtype": "float32", **yaml.safe_load(settings)})
    policy = add_adapter(load_model(model), model)
    assert 0 < sum(p.requires_grad for p in policy.parameters()) < len(list(policy.parameters()))


@pytest.mark.slow
def test_the_pages_own_loss_is_ten_lines_and_trains(tmp_path):
    code = block("python")
    body = code.split("\n\n\n")[1].strip().splitlines()
    assert len(body) <= 10
    (tmp_path / "my_losses.py").write_text(code)
    recipe = yaml.safe_load(builtin_recipes()["tiny_arithmetic_cpu"][0].read_text())
    recipe["train"] = {"steps": 2, "learning_rate": 1e-4, **yaml.safe_load(block("yaml"))["train"]}
    recipe["rollout"] |= {"engine": "transformers", "group_size": 8, "prompts_per_step": 4}
    recipe["eval"] = {"problems": 4}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert run(load_recipe(str(tmp_path / "mine.yaml")), "mine", tmp_path / "out", resume=False) == 0
    steps = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(step["loss"]) and step["grad_norm"] > 0 for step in steps)
