"""The table and the page of a chain: what each stage did, of one that is finished and of one that is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recipes.command.main import main
from recipes.stages.artifact import Artifact
from recipes.stages.summary import read_rows


def measured(right: int, length: float, language: float | None, readable: int, **more: Any) -> dict[str, Any]:
    """Of 10 answers."""
    outcomes = {"correct": right, "wrong": readable - right, "malformed": 10 - readable}
    bounds = {"low": max(0.0, right / 10 - 0.2), "high": min(1.0, right / 10 + 0.2)}
    return {
        "accuracy": right / 10,
        **bounds,
        "n": 10,
        "outcomes": outcomes,
        "length": length,
        "language": language,
    } | more


def stage(folder: Path, name: str, before: dict[str, Any], after: dict[str, Any], prefix: str = "sums/") -> None:
    place = folder / "stages" / name
    (place / "held_out").mkdir(parents=True)
    for step, one in ((0, before), (4, after)):
        right = round(10 * one["accuracy"])
        problems = {f"{prefix}{i}": float(i < right) for i in range(10)}
        (place / "held_out" / f"step-{step:06d}.json").write_text(json.dumps(problems))
    summary = {"before": before, "after": after, "steps": 4, "wall_seconds": 60.0}
    (place / "stage.json").write_text(json.dumps(asdict(Artifact("id", "grpo", "model", None, summary))))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    stages = {
        "first": {"kind": "grpo", "model": {"path": "tiny"}},
        "<b>": {"kind": "grpo", "model": {"path": "first"}},
        "mixed": {"kind": "grpo", "model": {"path": "first"}},
        "last": {"kind": "sft", "model": {"path": "mixed"}},
    }
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    stage(tmp_path, "first", measured(2, 40.0, 0.5, 4), measured(6, 20.0, 1.0, 10))
    stage(tmp_path, "<b>", measured(6, 20.0, None, 10), measured(5, 21.5, None, 10))
    tasks = {"a": measured(9, 5.0, None, 10), "b": measured(1, 7.0, None, 5)}
    before = measured(4, 20.0, None, 10, tasks={"a": measured(7, 4.0, None, 10)})
    stage(tmp_path, "mixed", before, measured(5, 6.0, None, 8, tasks=tasks), prefix="a/")
    return tmp_path


def test_each_stage_has_its_accuracy_length_format_and_language_before_and_after(chain: Path) -> None:
    said = CliRunner().invoke(main, ["report", str(chain)])
    assert said.exit_code == 0, said.output
    lines = {line.split()[0]: line for line in said.output.splitlines() if line.strip()}
    assert "60.0% [40.0, 80.0]" in lines["first"]
    assert "+40.0 [" in lines["first"]
    for measure in ("40.0 → 20.0", "40.0% → 100.0%", "50.0% → 100.0%", "1m 00s"):
        assert measure in lines["first"]
    assert "-10.0 [" in lines["<b>"]  # paired with the stage that it started from
    assert "not finished" in lines["last"]
    assert "mixed" in lines["last"]
    page = (chain / "report.html").read_text()
    for cell in ("40.0 → 20.0", "&lt;b&gt;", "format", "language", 'href="stages/first/report.html"'):
        assert cell in page
    assert "<b>" not in page.partition("<main>")[2].partition("</main>")[0]


def test_a_stage_of_several_tasks_has_a_line_for_each_and_is_paired_with_its_own_start(chain: Path) -> None:
    said = CliRunner().invoke(main, ["report", str(chain)]).output.splitlines()
    place = next(i for i, line in enumerate(said) if line.startswith("mixed"))
    a, b = said[place + 1 : place + 3]
    assert a.startswith("  a ")
    assert "90.0% [70.0, 100.0]" in a
    assert "4.0 → 5.0" in a
    assert b.startswith("  b ")
    assert "50.0%" in b  # of its format; nothing is known of before
    mixed = next(row for row in read_rows(chain) if row["name"] == "mixed")
    assert mixed["change"]["value"] == pytest.approx(0.1)


def test_what_is_no_chain_and_what_is_damaged_is_one_message(chain: Path, tmp_path: Path) -> None:
    (chain / "stages" / "first" / "stage.json").write_text("{")
    said = CliRunner().invoke(main, ["report", str(chain)])
    assert (said.exit_code, said.output.count("error:")) == (2, 1)
    assert "stage.json is damaged" in said.output
    (chain / "chain.yaml").write_text("stages: [1, 2]")
    said = CliRunner().invoke(main, ["report", str(chain)])
    assert said.exit_code == 2
    assert "expected the directory of a chain" in said.output
