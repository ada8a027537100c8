"""docs/environments.md: the environment and the tool of one's own work as they stand on the page."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet

from grpo.environments.environment import ADAPTERS, BUILT_IN, LOADED
from grpo.environments.host import EnvironmentHost
from grpo.environments.settings import EnvironmentSettings
from recipes.jobs.train import run
from recipes.schema.load import load_recipe
from rewards.user.loading import load_function

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
GAME, TOOL = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
RECIPE, PART, ADAPTED = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "my_games.py").write_text(GAME)
    (tmp_path / "my_tools.py").write_text(TOOL)
    (tmp_path / "my_recipe.yaml").write_text(RECIPE)


@pytest.mark.slow
def test_an_environment_of_ones_own_works_the_first_time(tmp_path):
    changes = ["rollout.engine=transformers", "train.steps=2", "eval.problems=4"]
    recipe = load_recipe(str(tmp_path / "my_recipe.yaml"), changes)
    run(recipe, "my_recipe.yaml", tmp_path / "run", False)
    rows = [
        row for path in sorted((tmp_path / "run/rollouts").glob("*")) for row in parquet.read_table(path).to_pylist()
    ]
    assert len(rows) == 2 * 64
    for row in rows:
        episode = json.loads(row["episode"])
        said = [message["content"] for message in episode["messages"] if message["role"] == "user"]
        assert all(text.startswith("The total is") for text in said)
        assert row["reward"] == episode["score"]["value"] in (0.0, 1.0)
        assert len(said) <= 3


def test_a_tool_of_ones_own_answers(tmp_path):
    # The part of a recipe is one: the rest is any.
    whole = yaml.safe_dump({**yaml.safe_load(RECIPE), **yaml.safe_load(PART)})
    (tmp_path / "tool.yaml").write_text(whole)
    settings = load_recipe(str(tmp_path / "tool.yaml")).task.environment

    async def played(host: EnvironmentHost) -> list:
        async with host.session() as session:
            return [
                await session.start({"id": "r", "question": "How many is a dozen?"}, ""),
                await session.step("I look. <lookup>dozen</lookup> <lookup>ell</lookup>"),
                await session.step("<answer>12</answer>"),
            ]

    with closing(EnvironmentHost(settings)) as host:
        (asked,), (answered,), end = asyncio.run(played(host))
    assert asked["content"].startswith("How many is a dozen?\nWrite <lookup>word</lookup>")
    assert answered == {"role": "user", "content": "<result>12</result>\n<result>not found</result>"}
    assert end == ()


def test_the_recipe_of_an_adapted_environment_is_one(tmp_path):
    (tmp_path / "adapted.yaml").write_text(yaml.safe_dump({**yaml.safe_load(RECIPE), **yaml.safe_load(ADAPTED)}))
    settings = load_recipe(str(tmp_path / "adapted.yaml")).task.environment
    assert settings
    assert settings.name in ADAPTERS
    assert set(settings.config) <= set(inspect.signature(load_function(ADAPTERS["verifiers"], LOADED)).parameters)


def test_the_page_names_all_that_there_is():
    assert all(f"| `{name}` |" in PAGE for name in (*BUILT_IN, *ADAPTERS))
    settings = set(EnvironmentSettings.model_fields) - {"name", "config"}
    assert settings == {name for name in settings if f"| `{name}` |" in PAGE}
