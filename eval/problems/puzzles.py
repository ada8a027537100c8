"""Puzzles of the reasoning-gym package (https://github.com/open-thought/reasoning-gym), mixed, graded, and split.

    made = puzzles({"dataset": "chain_sum", "max_terms": 3}, {"train": 1000, "held_out": 100}, seed=0)
    made.rows["train"][0]  # {"id": "reasoning_gym/chain_sum/5f2c...", "question": ..., "answer": "156",
                           #  "subject": "chain_sum", "level": None, "metadata": '{"source_dataset": ...}'}

A configuration names one generator, with its own settings beside it, or several:

    {dataset: chain_sum, max_terms: 3}
    {datasets: [{dataset: chain_sum, weight: 2, levels: [0, 1, 2]}, {dataset: leg_counting}, gcd]}

`levels` are those of the generator's own curriculum (all its difficulties at once, 0 the easiest); rows take them in
turn. `weight` is its share of the rows, of which any first part is mixed in the same way. `untrusted: true` takes a
generator that rewards/puzzles/trust.py refuses.

Which split a puzzle belongs to is decided by a hash of its question, in lower case and without white space: no seed
and no size can make the splits overlap; their seeds differ too. One in five is held out. Where a generator has fewer
different puzzles than asked for, what it has is taken, and `Made.short` says how many these are.

Generators disturb the state of random, print, and some depend on the hash seed of strings: they run in a process of
their own (puzzle_maker.py), with that seed fixed.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.problems.generated import Row, Split
from rewards.nearest import did_you_mean
from rewards.puzzles.trust import trusted

OURS = ("dataset", "weight", "levels", "untrusted")  # keys of an entry; the others are the generator's
NOT_TAKEN = {"seed": "task.seed, or --seed, chooses the puzzles", "size": "task.problems says how many"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One generator of a mixture. Example: Entry("chain_sum", 2.0, (0, 1), False, {"allow_negation": True})"""

    dataset: str
    weight: float = 1.0
    levels: tuple[int, ...] = ()  # (): no curriculum, the settings alone
    untrusted: bool = False
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """`short`: what there was less of than asked for, in words."""

    rows: Mapping[Split, list[Row]]
    short: Sequence[str]


def entries(config: Mapping[str, Any]) -> list[Entry]:
    """The generators of a configuration. Raises ValueError, one line a problem, for what can be seen without them."""
    if ("dataset" in config) == ("datasets" in config):
        got = "both" if "dataset" in config else f"neither of them, but {sorted(config)}" if config else "neither"
        raise ValueError(f"got {got}, expected one: dataset: NAME, or datasets: [{{dataset: NAME, weight: 1}}, ...]")
    given = [config]
    if "datasets" in config:
        given = config["datasets"]
        if not isinstance(given, list | tuple) or not given:
            raise ValueError(f"datasets: got {given!r}, expected a list such as [{{dataset: chain_sum, weight: 2}}]")
        if more := sorted(set(config) - {"datasets"}):
            raise ValueError(f"{', '.join(more)}: beside datasets; expected within an entry of the list")
    found = [_normal_entry(one) for one in given]
    places = ["" if "dataset" in config else f"datasets.{i}." for i in range(len(found))]
    if problems := [line for one, where in zip(found, places, strict=True) for line in _problems(one, where)]:
        raise ValueError("\n".join(problems))
    names = [one["dataset"] for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"datasets: {', '.join(twice)} more than once; expected each generator once")
    return [_entry(one) for one in found]


def _normal_entry(one: Any) -> dict[str, Any]:
    if isinstance(one, str):
        return {"dataset": one}
    if not isinstance(one, Mapping) or "dataset" not in one:
        raise ValueError(f"datasets: got {one!r}, expected {{dataset: NAME}}, with weight, levels or its settings")
    return dict(one)


def _problems(one: Mapping[str, Any], where: str) -> Iterator[str]:
    """What is wrong with an entry, a line each."""
    name = one["dataset"]
    if name not in trusted():
        near = did_you_mean(str(name), trusted())
        yield f"{where}dataset: got {name!r}{near}; reasoning-gym has {', '.join(trusted())}"
        return
    weight = one.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        yield f"{where}weight: got {weight!r}, expected a number above 0"
    if not isinstance(one.get("untrusted", False), bool):
        yield f"{where}untrusted: got {one['untrusted']!r}, expected true or false"
    trust = trusted()[name]
    if trust.graded == "refused" and not one.get("untrusted"):
        yield f"{where}dataset: {name} is refused: {trust.reason}. To take it all the same: untrusted: true"
    for key in NOT_TAKEN.keys() & one.keys():
        yield f"{where}{key}: not taken here; {NOT_TAKEN[key]}"
    if "levels" in one and (line := _wrong_levels(one["levels"], name, trust.levels)):
        yield f"{where}levels: {line}"


def _wrong_levels(levels: Any, name: str, n: int) -> str | None:
    if not n:
        return f"{name} has no curriculum; leave levels out"
    whole = isinstance(levels, list | tuple) and all(type(level) is int and 0 <= level < n for level in levels)
    if whole and levels and len(set(levels)) == len(levels):
        return None
    return f"got {levels!r}, expected a list of different levels of {name}, 0 to {n - 1}"


def _entry(one: Mapping[str, Any]) -> Entry:
    settings = {key: value for key, value in one.items() if key not in OURS}
    weight, levels = float(one.get("weight", 1)), tuple(one.get("levels", ()))
    return Entry(one["dataset"], weight, levels, bool(one.get("untrusted", False)), settings)


def puzzles(config: Mapping[str, Any], numbers: Mapping[Split, int], seed: int) -> Made:
    """So many different puzzles of each split, the same for the same arguments. Seconds, of which three to start.

    Raises:
        ValueError: a configuration that `entries` or a generator refuses, one without any puzzle, or no reasoning-gym.
    """
    asked = [
        {"dataset": one.dataset, "weight": one.weight, "levels": one.levels, "settings": one.settings}
        for one in entries(config)
    ]
    return _made(json.dumps({"entries": asked, "numbers": numbers, "seed": seed}, sort_keys=True))


@functools.lru_cache(4)  # a run reads its task once, a sweep or a test many times
def _made(request: str) -> Made:
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ValueError("the package reasoning-gym is not installed; install it: pip install 'zero-rl[puzzles]'")
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "eval.problems.puzzle_maker"],
        input=request,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with code {done.returncode}"]
        raise ValueError(f"the process that makes the puzzles failed: {last[0]}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ValueError(answer["error"])
    return Made(answer["rows"], answer["short"])
