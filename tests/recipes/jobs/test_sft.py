"""A supervised run from the command line: over processes it trains what one process trains, and shows its loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.recipes.jobs.test_processes import STEPS, difference, run

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_model: Path) -> Path:
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b) * (1 + a % 3)} for a in range(20) for b in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "kind": "sft",
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "data": [{"dataset": "rows.jsonl"}],
        # As in test_processes.py: Adam without it would step by the sign of a rounding.
        "train": {"steps": STEPS, "batch_size": 5, "learning_rate": 5.0e-3, "optimizer": {"eps": 0.01}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_two_processes_train_what_one_trains(recipe_file, tmp_path) -> None:
    said = {}
    for processes in (1, 2):
        code, said[processes], errors = run(recipe_file, tmp_path / str(processes), processes)
        assert (code, errors) == (0, "")
    assert difference(tmp_path / "1", tmp_path / "2") < 1e-6
    lines = [[json.loads(line) for line in (tmp_path / n / "metrics.jsonl").open()] for n in ("1", "2")]
    assert [one["loss"] for one in lines[0]] == pytest.approx([two["loss"] for two in lines[1]], abs=1e-5)
    assert lines[0][-1]["loss"] < lines[0][0]["loss"]
    heading = next(line for line in said[1].splitlines() if "tokens/s" in line)
    assert "loss" in heading
    assert "reward" not in heading
    assert "accuracy" not in said[1]
