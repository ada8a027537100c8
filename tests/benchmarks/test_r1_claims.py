"""What the stages of chains say of the paper's claims, from folders that are written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.r1_claims import CLAIMS, RECIPE, Seed, claim_table, interval, stage_table
from recipes.schema.chain import load_chain

NAMES = ("r1_zero", "r1_zero_english", "cold_start", "reasoning_rl", "sft", "final_rl", "distilled", "student_rl")


def seed(folder: Path, accuracy: dict[str, float], reached: dict[str, list[float]]) -> Seed:
    measures = {"length": 20.0, "language": 0.5}
    rows = [
        {"name": name, "model": "base", "before": {"accuracy": 0.1, **measures}}
        | {"after": {"accuracy": accuracy.get(name, 0.5), **measures}}
        for name in NAMES
    ]
    for name in NAMES:
        stage = folder / "stages" / name
        stage.mkdir(parents=True)
        found = reached.get(name, [0.1, 0.7])
        lines = [json.dumps({"step": 5 * i, "accuracy": one}) + "\n" for i, one in enumerate(found)]
        (stage / "evaluations.jsonl").write_text("".join(lines))
        (stage / "metrics.jsonl").write_text('{"trained_tokens": 30}\n{"trained_tokens": 12}\n')
    (folder / "summary.json").write_text(json.dumps({"stages": [*rows, {"name": "samples", "model": "base"}]}))
    return Seed(folder)


def test_claims_are_differences_within_a_seed_with_the_interval_of_their_mean(tmp_path: Path) -> None:
    seeds = [
        seed(tmp_path / "0", {"distilled": 0.8, "student_rl": 0.6}, {"r1_zero": [0.1, 0.2, 0.6]}),
        seed(tmp_path / "1", {"distilled": 0.7, "student_rl": 0.6}, {"r1_zero": [0.1, 0.6]}),
    ]
    lines = {line.split(" | ")[1]: line for line in claim_table(seeds).splitlines()[2:]}
    assert len(lines) == len(CLAIMS)
    assert "| +15.0 [-48.5, +78.5] points | +20.0, +10.0 |" in lines["a distilled student is better than by RL alone"]
    assert "| +2.5 [-29.3, +34.3] steps | +5.0, +0.0 |" in lines["a cold start spares RL steps to 60%"]
    assert "| distilled | base | 75.0 [11.5, 100.0] | 50.0 [50.0, 50.0] | 20.0 [20.0, 20.0] | 42 |" in stage_table(
        seeds
    )


def test_a_seed_that_never_came_there_is_counted_and_no_mean(tmp_path: Path) -> None:
    seeds = [seed(tmp_path / str(i), {}, {"r1_zero": [0.1, 0.2 + 0.5 * i]}) for i in range(2)]
    assert "not in 1 of 2 seeds steps | +inf, +0.0" in claim_table(seeds)
    assert interval([float("nan"), 1.0]) == "not in 1 of 2 seeds"
    assert interval([1.0]) == "+1.0"


@pytest.mark.slow
def test_the_recipe_has_every_stage_that_a_claim_is_about() -> None:
    assert {stage.name for stage in load_chain(RECIPE).stages} == {*NAMES, "samples"}
