"""What a run gained beyond its control: the same recipe, trained on the null rewards of `train.control`.

    gain over the control = the run's held-out accuracy after training - the control's after training

Both start from the same weights, so what they had before cancels; where it was measured twice, with a server whose
samples do not repeat, subtracting it would only add noise. The interval is over problems: paired, where both runs
answered the same ones (eval/stats/intervals.py), else that of independent proportions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from eval.stats.compare import CompareError
from eval.stats.intervals import Estimate, independent_difference, paired_difference
from eval.stats.permutation import sign_flip
from recipes.schema.load import differences

MAY_DIFFER = ("train.control", "train.seed", "train.threads", "train.trackers")  # the rest is the recipe


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run. `problems`: share of right answers after training, by held-out problem; {} if not stored."""

    recipe: dict[str, Any]
    before: Estimate
    after: Estimate
    n: int
    problems: dict[str, float]

    @property
    def control(self) -> str:
        return self.recipe["train"]["control"]


@dataclass(frozen=True, slots=True)
class Gain:
    """Example: Gain(run=Trained(...), control=Trained(...), over_control=Estimate(0.21, 0.15, 0.27), paired=400,
    p_value=1e-9)"""

    run: Trained
    control: Trained
    over_control: Estimate
    paired: int  # problems that both answered; 0: the interval is of independent proportions
    p_value: float | None  # None if not paired
    tasks: Mapping[str, Estimate] = field(default_factory=dict)  # of several tasks, the gain on each; paired


def is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def gain(a: Path, b: Path) -> Gain:
    """The gain of the one run over the other, its control, in either order.

    Raises CompareError if one did not finish, if not exactly one is a control, or if the recipes differ in more.
    """
    runs = [_read(folder) for folder in (a, b)]
    if [one.control == "none" for one in runs].count(True) != 1:
        raise CompareError(
            f"{a} has train.control: {runs[0].control}, {b} has {runs[1].control}; expected a run and a control of it "
            "(the same recipe with --set train.control=random or format_only)"
        )
    _check_recipes(*runs)
    run, control = sorted(runs, key=lambda one: one.control != "none")
    shared = sorted(run.problems.keys() & control.problems.keys()) if _same_problems(run, control) else []
    value = run.after.value - control.after.value
    if not shared:
        return Gain(run, control, Estimate(value, *independent_difference(control.after, run.after)), 0, None)
    ours, theirs = ([one.problems[key] for key in shared] for one in (run, control))
    p_value = sign_flip([_share(x) - _share(y) for x, y in zip(ours, theirs, strict=True)])
    by_task = {name: [key for key in shared if key.startswith(f"{name}/")] for name in run.recipe.get("tasks") or ()}
    tasks = {name: _paired(run, control, keys) for name, keys in by_task.items() if len(keys) > 1}
    return Gain(run, control, _paired(run, control, shared), len(shared), p_value, tasks)


def _paired(run: Trained, control: Trained, problems: Sequence[str]) -> Estimate:
    ours, theirs = ([one.problems[key] for key in problems] for one in (run, control))
    interval = paired_difference(theirs, ours, run.recipe["eval"]["samples"])
    return Estimate((sum(ours) - sum(theirs)) / len(problems), *interval)


def render(found: Gain) -> str:
    """The gain in words, for the terminal."""
    how = f"paired on {found.paired} problems, p = {found.p_value:.2g}" if found.paired else "not the same problems"
    lines = [
        f"gain over the control: {_points(found.over_control)} ({how})",
        *(f"  on {name}: {_points(one)}" for name, one in found.tasks.items()),
        f"  {_in_words('run', found.run)}",
        f"  {_in_words(f'control ({found.control.control})', found.control)}",
    ]
    if found.over_control.low <= 0:
        lines.append("  The interval holds 0: that the rewards taught anything beyond the control is not shown.")
    return "\n".join(lines)


def _points(one: Estimate) -> str:
    return f"{100 * one.value:+.1f} points, 95% interval {100 * one.low:+.1f} to {100 * one.high:+.1f}"


def _in_words(name: str, run: Trained) -> str:
    before, after = (
        f"{100 * one.value:.1f}% [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in (run.before, run.after)
    )
    change = 100 * (run.after.value - run.before.value)
    return f"{name:<22} {before} -> {after}, {change:+.1f} points, {run.n} problems"


def _share(value: float) -> Fraction:
    return Fraction(value).limit_denominator(10_000)  # what was a count over a number of samples


# -- Reading the runs ----------------------------------------------------------------------------------------------


def _read(folder: Path) -> Trained:
    if not (folder / "summary.json").is_file():
        raise CompareError(f"{folder} has no summary.json: the run did not finish; go on with zero run --resume")
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
        problems = folder / "held_out" / f"step-{summary['steps']:06d}.json"
        before, after = (
            Estimate(*(summary[key][name] for name in ("accuracy", "low", "high"))) for key in ("before", "after")
        )
        found = Trained(
            recipe=yaml.safe_load((folder / "recipe.yaml").read_bytes()),
            before=before,
            after=after,
            n=summary["after"]["n"],
            problems=json.loads(problems.read_bytes()) if problems.is_file() else {},
        )
        if not isinstance(found.control, str):
            raise ValueError(f"train.control: got {found.control!r} in recipe.yaml, expected a name")
        return found
    except (ValueError, TypeError, LookupError, yaml.YAMLError) as error:
        raise CompareError(
            f"{folder}: a file of the finished run is damaged, of summary.json, recipe.yaml and held_out/: {error}; "
            "restore it, or finish the run again with zero run --resume"
        ) from error


def _check_recipes(a: Trained, b: Trained) -> None:
    found = {key: pair for key, pair in differences(a.recipe, b.recipe).items() if key not in MAY_DIFFER}
    if found:
        listed = "; ".join(f"{key} is {one!r} in A and {other!r} in B" for key, (one, other) in found.items())
        raise CompareError(f"the two runs are of different recipes: {listed}. A control differs in train.control alone")


def _same_problems(a: Trained, b: Trained) -> bool:
    """With another seed the held-out problems are others, whatever their ids, unless the task has its own seed."""
    tasks = [a.recipe["task"]] if a.recipe.get("task") else list(a.recipe["tasks"].values())
    return a.recipe["train"]["seed"] == b.recipe["train"]["seed"] or all(one["seed"] is not None for one in tasks)
