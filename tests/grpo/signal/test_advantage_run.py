"""Advantages in whole runs: the one of the docs, the step-wide ones, and one that breaks its contract."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from typer.testing import CliRunner

from recipes.command.main import main

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[3] / "docs" / "plug_in.md").read_text(encoding="utf-8")
REWARDS = """
def digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / 8 for text in completions]

def brief(completions, **columns):
    return [-len(text) / 80 for text in completions]
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    (tmp_path / "mine.py").write_text(REWARDS)
    settings = {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=", "problems": 16},
        "rewards": [{"name": "mine.py:digits"}, {"name": "mine.py:brief", "weight": 0.5}],
        "rollout": {"engine": "transformers", "group_size": 4, "prompts_per_step": 4, "max_tokens": 8},
        "train": {"steps": 2, "learning_rate": 1.0e-4},
        "eval": {"problems": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run(recipe: Path, advantage: str, output: Path) -> str:
    """What a run says on its standard error; fails the test unless its exit code is 0 or 2."""
    result = CliRunner().invoke(
        main, ["run", str(recipe), "--output", str(output), "--set", f"train.advantage={advantage}"]
    )
    assert result.exit_code == (2 if result.stderr.startswith("error: ") else 0), result.output
    return result.stderr


def groups(output: Path) -> list[list[dict]]:
    rows = load_dataset("parquet", data_files=str(output / "rollouts" / "*.parquet"), split="train")
    keys = sorted({(row["step"], row["group"]) for row in rows})
    return [[row for row in rows if (row["step"], row["group"]) == key] for key in keys]


def test_the_ten_lines_of_the_docs_train_as_they_stand(recipe, tmp_path):
    code = re.search(r"```python\n# my_advantages.py.*?```", PAGE, re.DOTALL)
    setting = re.search(r'train: {advantage: "(my_advantages.py:\w+)"}', PAGE)
    assert code
    assert setting
    (tmp_path / "my_advantages.py").write_text(code[0].removeprefix("```python\n").removesuffix("```"))
    assert run(recipe, setting[1], tmp_path / "out") == ""
    assert len(groups(tmp_path / "out")) == 8
    for rows in groups(tmp_path / "out"):
        median = statistics.median(row["reward"] for row in rows)
        assert [row["advantage"] for row in rows] == pytest.approx([row["reward"] - median for row in rows])


def test_gdpo_trains_on_each_reward_normalised_over_the_whole_step(recipe, tmp_path):
    assert run(recipe, "gdpo", tmp_path / "out") == ""
    found = groups(tmp_path / "out")
    for step in (found[:4], found[4:]):
        sums = []
        for rows in step:
            parts = [json.loads(row["rewards"]) for row in rows]
            for i in range(len(rows)):
                s = 0.0
                for name, weight in (("digits", 1.0), ("brief", 0.5)):
                    values = [part[name] for part in parts]
                    s += weight * (values[i] - statistics.mean(values)) / (statistics.stdev(values) + 1e-4)
                sums.append(s)
        expected = [s / (statistics.stdev(sums) + 1e-4) for s in sums]
        assert [row["advantage"] for rows in step for row in rows] == pytest.approx(expected, abs=1e-9)


def test_one_that_is_not_there_or_breaks_its_contract_ends_the_run_with_one_message(recipe, tmp_path):
    (tmp_path / "bad.py").write_text("def nan(groups):\n    return [[float('nan')] * 4 for _ in groups]\n")
    message = run(recipe, "bad.py:nan", tmp_path / "out")
    assert re.search(r"train.advantage '.*bad.py:nan': completion 0 of group 0: got nan, expected a finite", message)
    assert "Traceback" not in message
    assert "train.advantage: no file absent.py, neither in" in run(recipe, "absent.py:nan", tmp_path / "none")
    assert "has no function 'nun' (did you mean 'nan'" in run(recipe, "bad.py:nun", tmp_path / "nun")
    assert not (tmp_path / "nun").exists()  # refused before anything is loaded
