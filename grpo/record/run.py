"""A run as its directory tells it, finished, stopped or still going."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo.record.display import interval
from grpo.record.duration import duration
from grpo.record.stored import HELD_OUT, ROLLOUTS, RecordError, missing_steps, read_lines, read_rollouts


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run. `steps` and `evaluations` are the lines of their files, in order."""

    title: str
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]  # those that graded a problem
    summary: dict[str, Any]  # {} until the run is finished
    recipe: str  # YAML, "" if there is none
    notes: list[dict[str, Any]]  # {"step", "time", "text"}: what was said, after which step
    unread: list[str]  # a sentence for everything that is missing or cannot be read

    @property
    def headline(self) -> str:
        """`30.0% [25.0, 35.0] → 90.0% [86.0, 94.0] (400 problems)`, "" without an evaluation."""
        if not self.evaluations:
            return ""
        first, last = self.evaluations[0], self.evaluations[-1]
        change = interval(first) if first is last else f"{interval(first)} → {interval(last)}"
        return f"{change} ({last['n']} problems)"

    @property
    def facts(self) -> str:
        """`Held-out accuracy, 95% interval: ... . 4 steps, 3m 05s, engine vllm`"""
        facts = [f"{len(self.steps)} step{'s' * (len(self.steps) != 1)}"]
        if isinstance(seconds := self.summary.get("wall_seconds"), int | float):
            facts.append(duration(seconds))
        if "engine" in self.summary:
            facts.append(f"engine {self.summary['engine']}")
        known = ", ".join(facts if self.summary else [*facts, "not finished"])
        measured = "; ".join(filter(None, (self.headline, *self.of_tasks)))
        return f"Held-out accuracy, 95% interval: {measured}. {known}" if self.headline else known

    @property
    def of_tasks(self) -> list[str]:
        """Where the run has several tasks: `sums 30.0% [25.0, 35.0] → 90.0% [86.0, 94.0]`, of each."""
        ends = [row["tasks"] for row in (*self.evaluations[:1], *self.evaluations[1:][-1:]) if row.get("tasks")]
        names = ends[-1] if ends else ()
        return [f"{name} " + " → ".join(interval(one[name]) for one in ends if name in one) for name in names]


def read_run(run_dir: Path) -> Run:
    """Raises: FileNotFoundError if `run_dir` holds no run."""
    metrics, summary, recipe = (run_dir / name for name in ("metrics.jsonl", "summary.json", "recipe.yaml"))
    if not metrics.exists():
        raise FileNotFoundError(f"{run_dir} is no run directory with a finished step: it has no metrics.jsonl")
    unread: list[str] = []
    run = run_of(
        run_dir,
        read_lines(metrics, say=unread.append),
        read_lines(run_dir / "evaluations.jsonl", HELD_OUT, unread.append),
        read_lines(run_dir / "logs" / "notes.jsonl", say=unread.append),
        recipe.read_text(encoding="utf-8", errors="replace") if recipe.exists() else "",
        summary.read_bytes() if summary.exists() else None,
        unread,
    )
    return replace(run, unread=[*run.unread, *damaged_rollouts(run_dir)])


def run_of(
    run_dir: Path,
    steps: list[dict[str, Any]],
    evaluations: list[dict[str, Any]],
    notes: list[dict[str, Any]],
    recipe: str,
    summary: bytes | None,
    unread: list[str],
) -> Run:
    """A run of what was read of its files; what is wrong with that comes after `unread`."""
    said = [*unread, *missing_steps(run_dir / "metrics.jsonl", steps, max((row["step"] for row in steps), default=0))]
    graded = {row["step"]: row for row in evaluations if row["n"]}  # the last word on a step
    return Run(
        title=_title(run_dir / "recipe.yaml", recipe, said),
        steps=list(steps),
        evaluations=[graded[step] for step in sorted(graded)],
        summary=_summary(run_dir / "summary.json", summary, said),
        recipe=recipe,
        notes=list(notes),
        unread=said,
    )


def run_title(recipe: Mapping[str, Any]) -> str:
    """`Zero: smollm2 on gsm8k`, of a resolved recipe."""
    model, task = recipe.get("model") or {}, recipe.get("task") or {}
    names = " and ".join(recipe.get("tasks") or {}) or task.get("name") or task.get("dataset") or "task"
    return f"Zero: {Path(str(model.get('path', 'model'))).name} on {names}"


def damaged_rollouts(run_dir: Path) -> list[str]:
    """A sentence for each rollouts file that cannot be opened."""
    said = []
    for path in sorted((run_dir / "rollouts").glob(ROLLOUTS)):
        try:
            read_rollouts(path, columns=[])
        except RecordError as error:
            said.append(str(error))
    return said


def _summary(path: Path, content: bytes | None, unread: list[str]) -> dict[str, Any]:
    try:
        summary = json.loads(content) if content is not None else {}
    except ValueError as error:
        summary = error
    if not isinstance(summary, dict):
        unread.append(f"{path} cannot be read: {summary}; expected an object")
    return summary if isinstance(summary, dict) else {}


@lru_cache(maxsize=8)  # a page that follows a run asks every second
def parsed_recipe(text: str) -> Any:
    """What the YAML of a recipe holds, not to be changed. Raises yaml.YAMLError."""
    import yaml

    return yaml.safe_load(text)


def _title(path: Path, recipe: str, unread: list[str]) -> str:
    import yaml

    try:
        return run_title(parsed_recipe(recipe)) if recipe else path.parent.name
    except (yaml.YAMLError, AttributeError) as error:
        unread.append(f"{path} cannot be read: {error}")
        return path.parent.name
