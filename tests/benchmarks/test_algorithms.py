"""The table of algorithms: its variants are recipes, and what it says of runs is counted right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import algorithms
from recipes.schema.load import load_recipe


@pytest.mark.parametrize("group", algorithms.VARIANTS)
def test_every_variant_is_a_recipe_of_its_own(group):
    variants = algorithms.VARIANTS[group].values()
    loaded = [load_recipe(algorithms.RECIPE, [*algorithms.COMMON, *settings]) for settings in variants]
    assert len({recipe.model_dump_json() for recipe in loaded}) == len(variants)


def test_a_mean_over_seeds_has_students_interval_within_0_and_1():
    assert algorithms.mean_interval([0.5, 0.6, 0.7]) == pytest.approx((0.6, 0.6 - 0.2484, 0.6 + 0.2484), abs=1e-4)
    assert algorithms.mean_interval([0.9, 0.94])[2] == 1.0
    assert algorithms.mean_interval([0.9]) == (0.9, 0.0, 1.0)


def store(run: Path, accuracies: dict[int, float], staleness: float) -> None:
    run.mkdir(parents=True)
    told = [json.dumps({"step": step, "accuracy": value}) for step, value in accuracies.items()]
    (run / "evaluations.jsonl").write_text("\n".join(told))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "staleness": staleness}))


def test_the_table_has_finished_runs_only_and_its_own_variants(tmp_path):
    store(algorithms.place(tmp_path, "staleness", "1", 0), {0: 0.2, 24: 0.9}, 1.0)
    store(algorithms.place(tmp_path, "staleness", "1", 1), {0: 0.2, 24: 0.8}, 0.5)
    store(algorithms.place(tmp_path, "staleness", "1", 2), {0: 0.2}, 0.5)  # not finished
    store(algorithms.place(tmp_path, "staleness", "1, uncorrected", 0), {0: 0.2, 24: 0.3}, 1.0)
    found = algorithms.curves(tmp_path, "staleness")
    assert found == {"1": {0: [0.2, 0.2], 24: [0.9, 0.8]}, "1, uncorrected": {0: [0.2], 24: [0.3]}}
    text = algorithms.group_table(tmp_path, "staleness", found).splitlines()
    assert text[2] == "| 1 | 20.0% [20.0%, 20.0%] | 85.0% [21.5%, 100.0%] | 80.0% to 90.0% | 2 | 0.75 |"
    assert text[3].startswith("| 1, uncorrected | 20.0%")
    algorithms.plot({"staleness": found}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
