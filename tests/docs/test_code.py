"""docs/code.md: the task of one's own works as it stands on the page, and so does the Python."""

from __future__ import annotations

import re
from pathlib import Path

from recipes.schema.load import load_recipe
from recipes.tasks import load_task
from rewards import RewardSum
from tests.sandboxes import needs

pytestmark = needs()
PAGE = (Path(__file__).parents[2] / "docs" / "code.md").read_text(encoding="utf-8")
ROWS, RECIPE, PYTHON = (
    re.search(rf"^```{name}\n(.*?)^```", PAGE, re.S | re.M)[1] for name in ("json", "yaml", "python")
)


def test_a_task_of_ones_own_works_the_first_time(tmp_path):
    (tmp_path / "sums.jsonl").write_text(ROWS)
    (tmp_path / "my_recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(str(tmp_path / "my_recipe.yaml"))
    task = load_task(recipe.task, 10, seed=0)
    assert (len(task.train), len(task.held_out), task.rejected) == (1, 1, [])
    answers = {
        "Read two": "```python\na, b = map(int, input().split())\nprint(a + b)\n```",
        "Read a l": "```python\nprint(input()[::-1])\n```",
    }
    rewards = RewardSum(recipe.rewards, tmp_path)
    for row in [*task.train, *task.held_out]:
        right = answers[row.question[:8]]
        assert task.grade(right, row.columns).outcome == "correct"
        columns = {name: [value] * 2 for name, value in row.columns.items()}
        assert [one.value for one in rewards.score([right, "```\nprint(5)\n```"], columns)] == [1.0, 0.0]


def test_the_python_of_the_page_runs():
    exec(PYTHON, {})
