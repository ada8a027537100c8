"""Several runs beside each other, whatever they are to each other: curves, recipes, and their last evaluations.

    difference of two runs = the later one's held-out accuracy after its last evaluation - the other's, in that order

It is paired problem by problem where both answered the same ones (the task and the seed of its split are the same);
else its interval is that of independent proportions. Each pair is one comparison: among many, some differ by chance.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

from eval.stats.compare import CompareError
from eval.stats.intervals import Estimate, independent_difference, paired_difference
from eval.stats.permutation import sign_flip
from grpo.page.bundle import pack_json
from grpo.page.shell import BASE, asset, shell
from grpo.page.state import recipe_of
from grpo.record.atomic import write_atomic
from grpo.record.flatten import flatten
from grpo.record.run import Run, read_run

PLOTTED = ("accuracy", "reward", "length", "entropy", "loss", "heldout_loss", "grad_norm", "seconds")
ALL_PAIRS = 6  # runs, up to which every pair is compared; beyond, each with the first


@dataclass(frozen=True, slots=True)
class Member:
    """A run that is compared. `problems`: share of right answers of the last evaluation, by held-out problem."""

    name: str
    folder: Path
    run: Run
    recipe: dict[str, Any]
    problems: dict[str, float]

    @property
    def last(self) -> dict[str, Any] | None:
        """The last evaluation; None without any."""
        return self.run.evaluations[-1] if self.run.evaluations else None


@dataclass(frozen=True, slots=True)
class Pair:
    """Example: Pair(a="grpo", b="dapo", difference=Estimate(0.04, 0.01, 0.07), paired=400, p_value=0.01)"""

    a: str
    b: str
    difference: Estimate  # b's less a's
    paired: int  # problems that both answered; 0: the interval is of independent proportions
    p_value: float | None  # None if not paired


def read_members(folders: Sequence[Path]) -> list[Member]:
    """Raises CompareError for a folder that holds no run with a step."""
    members = []
    for folder, name in zip(folders, _names(folders), strict=True):
        try:
            run = read_run(folder)
        except FileNotFoundError as error:
            raise CompareError(f"{error}; a comparison needs at least one step of each run") from error
        recipe = recipe_of(run.recipe)
        members.append(Member(name, folder, run, recipe, _problems(folder, run)))
    return members


def pairs_of(members: Sequence[Member]) -> list[Pair]:
    """Of those that have an evaluation."""
    known = [one for one in members if one.last]
    both = combinations(known, 2) if len(known) <= ALL_PAIRS else ((known[0], other) for other in known[1:])
    return [_pair(a, b) for a, b in both]


def recipe_differences(members: Sequence[Member]) -> dict[str, list[Any]]:
    """Dotted key -> its value in each run, wherever they are not all the same; None where a recipe has no such key."""
    flat = [flatten(one.recipe) for one in members]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key) for one in flat] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def render(members: Sequence[Member], pairs: Sequence[Pair]) -> str:
    """For the terminal."""
    width = max(len(one.name) for one in members)
    lines = [f"{one.name:<{width}}  {one.run.facts}" for one in members]
    if differences := recipe_differences(members):
        lines.append("recipes differ in")
        lines += [f"  {key}: {' | '.join(map(_shown, values))}" for key, values in differences.items()]
    else:
        lines.append("the recipes are the same")
    lines += [f"{pair.b} - {pair.a}: {in_words(pair)}" for pair in pairs]
    tasks = [one.recipe.get("task") for one in members]
    if any(not pair.paired for pair in pairs) and all(isinstance(one, dict) and one == tasks[0] for one in tasks):
        lines.append("  runs of one task.seed hold out the same problems, which shows smaller differences")
    lines += [f"{one.name} has no evaluation on held-out problems" for one in members if not one.last]
    lines += [f"{one.name}: {sentence}" for one in members for sentence in one.run.unread]
    return "\n".join(lines)


def in_words(pair: Pair) -> str:
    """`+4.0 points, 95% interval +1.0 to +7.0 (paired on 400 problems, p = 0.01)`"""
    value, low, high = (
        f"{100 * x + 0.0:+.1f}" for x in (pair.difference.value, pair.difference.low, pair.difference.high)
    )
    how = f"paired on {pair.paired} problems, p = {pair.p_value:.2g}" if pair.paired else "not the same problems"
    shown = "" if pair.difference.low > 0 or pair.difference.high < 0 else "; a difference is not shown"
    return f"{value} points, 95% interval {low} to {high} ({how}){shown}"


def write_comparison(members: Sequence[Member], pairs: Sequence[Pair], page: Path) -> Path:
    """One page with the runs' curves over each other; returns its path. OSError names what failed."""
    state = {
        "runs": [
            {
                "name": one.name,
                "facts": one.run.facts,
                "report": _report(one.folder, page),
                "steps": [{key: row.get(key) for key in ("step", *PLOTTED)} for row in one.run.steps],
                "evaluations": one.run.evaluations,
            }
            for one in members
        ],
        "differences": [[key, list(map(_shown, values))] for key, values in recipe_differences(members).items()],
        "pairs": [{"a": pair.a, "b": pair.b, "text": in_words(pair), **_bounds(pair)} for pair in pairs],
    }
    title = f"{len(members)} runs: {', '.join(one.name for one in members)}"
    facts = "Curves of the runs over each other; differences of held-out accuracy after the last evaluations."
    said = [f"{one.name}: {sentence}" for one in members for sentence in one.run.unread]
    scripts = [asset(name) for name in (*BASE, "compare.js")]
    write_atomic(page, shell(asset("compare.html"), title, facts, scripts, {"state": pack_json(state)}, said=said))
    return page


def _pair(a: Member, b: Member) -> Pair:
    one, other = (_estimate(member) for member in (a, b))
    shared = sorted(a.problems.keys() & b.problems.keys()) if _same_problems(a.recipe, b.recipe) else []
    if len(shared) < 2:
        return Pair(a.name, b.name, Estimate(other.value - one.value, *independent_difference(one, other)), 0, None)
    before, after = ([member.problems[key] for key in shared] for member in (a, b))
    value = (sum(after) - sum(before)) / len(shared)
    exact = [_share(y) - _share(x) for x, y in zip(before, after, strict=True)]
    interval = paired_difference(before, after, _samples(b.recipe))
    return Pair(a.name, b.name, Estimate(value, *interval), len(shared), sign_flip(exact))


def _estimate(member: Member) -> Estimate:
    assert member.last is not None
    return Estimate(*(float(member.last[name]) for name in ("accuracy", "low", "high")))


def _bounds(pair: Pair) -> dict[str, float]:
    return {name: getattr(pair.difference, name) for name in ("value", "low", "high")}


def _same_problems(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """With another seed the held-out problems are others, whatever their ids, unless the task has its own seed."""
    tasks = _tasks(a)
    if not tasks or tasks != _tasks(b):
        return False
    seeds = [train.get("seed") if isinstance(train := one.get("train"), dict) else None for one in (a, b)]
    return all(task.get("seed") is not None for task in tasks.values()) or seeds[0] == seeds[1]


def _tasks(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, without their shares; {} where there are none that can be read."""
    several = recipe.get("tasks")
    tasks: dict[str, Any] = several if isinstance(several, dict) else {"": recipe.get("task")}
    if not all(isinstance(task, dict) for task in tasks.values()):
        return {}
    return {name: {key: value for key, value in task.items() if key != "share"} for name, task in tasks.items()}


def _samples(recipe: dict[str, Any]) -> float:
    settings = recipe.get("eval")
    samples = settings.get("samples") if isinstance(settings, dict) else None
    return samples if isinstance(samples, int) and samples > 0 else 1


def _share(value: float) -> Fraction:
    return Fraction(value).limit_denominator(10_000)  # what was a count over a number of samples


def _problems(folder: Path, run: Run) -> dict[str, float]:
    """Of the last evaluation; {} where they were not kept, or cannot be read."""
    if not run.evaluations:
        return {}
    try:
        kept = json.loads((folder / "held_out" / f"step-{run.evaluations[-1]['step']:06d}.json").read_bytes())
    except (OSError, ValueError, TypeError):
        return {}
    good = isinstance(kept, dict) and all(isinstance(x, int | float) and 0 <= x <= 1 for x in kept.values())
    return kept if good else {}


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many more of them as tell all apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise CompareError(f"{', '.join(map(str, folders))}: a folder is given twice; expected different runs")


def _report(folder: Path, page: Path) -> str | None:
    """Where the run's own page is, seen from this one; None if it has none."""
    report = folder / "report.html"
    return Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix() if report.is_file() else None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "-" if value is None else json.dumps(value)
