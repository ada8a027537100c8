"""How often the 95% intervals of eval/stats/intervals.py hold the truth, by simulation.

    python -m benchmarks.coverage [--replications N] [--json FILE]

A replication draws problems from a distribution of difficulty, answers from each problem, and the interval; it is
covered if the interval holds the distribution's mean, not that of the problems drawn. The simulation's own error at
20,000 replications is 0.3 points (two standard errors). The tables are those of docs/evaluate.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eval.stats.intervals import Interval, clustered, paired_difference
from eval.stats.stats import unbiased_pass_at_k

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]  # the chance of a right answer, for each problem


class Coverage(NamedTuple):
    share: float  # of the replications whose interval holds the truth
    width: float  # of the intervals, on average


def _mixture(always: float, sometimes: float) -> Draw:
    """Problems that are always solved, sometimes (at a chance between 0 and 1), and, the rest, never."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        kind = rng.random(shape)
        return np.where(kind < always, 1.0, np.where(kind < always + sometimes, rng.random(shape), 0.0))

    return draw


def _beta(a: float, b: float) -> Draw:
    return lambda rng, shape: rng.beta(a, b, shape)


DIFFICULTIES: dict[str, tuple[Draw, float]] = {  # the distribution and its mean
    "beta(0.5, 0.5)": (_beta(0.5, 0.5), 0.5),
    "beta(2, 2)": (_beta(2, 2), 0.5),
    "beta(1, 4)": (_beta(1, 4), 0.2),
    "all easy: 0.95": (lambda rng, shape: np.full(shape, 0.95), 0.95),
    "mostly easy: beta(19, 1)": (_beta(19, 1), 0.95),
    "AIME: 20% always, 10% sometimes": (_mixture(0.2, 0.1), 0.25),
    "hard AIME: 10% always, 5% sometimes": (_mixture(0.1, 0.05), 0.125),
    "nearly all or nothing: beta(0.1, 0.9)": (_beta(0.1, 0.9), 0.1),
}
WEAKEST = "nearly all or nothing: beta(0.1, 0.9)"  # of all that were tried, where 30 problems cover the least
SIZES = ((30, 1), (30, 8), (30, 64), (200, 1), (500, 1), (500, 4))  # problems, samples


def shares_right(rng: np.random.Generator, chances: Array, samples: int) -> Array:
    """(replications, problems): the share of each problem's samples that are right."""
    return rng.binomial(samples, chances) / samples


def of_accuracy(name: str, problems: int, samples: int, replications: int, seed: int = 0) -> Coverage:
    """Coverage of avg@k's interval."""
    rng, (draw, truth) = np.random.default_rng(seed), DIFFICULTIES[name]
    shares = shares_right(rng, draw(rng, (replications, problems)), samples)
    return _coverage([clustered(row) for row in shares.tolist()], truth)


def of_pass_at_k(name: str, problems: int, samples: int, k: int, replications: int, seed: int = 0) -> Coverage:
    """Coverage of pass@k's interval; the truth is averaged over a million problems."""
    rng, (draw, _) = np.random.default_rng(seed), DIFFICULTIES[name]
    truth = float(np.mean(1 - (1 - draw(rng, (1000, 1000))) ** k))
    by_right = np.array([unbiased_pass_at_k(samples, right, k) for right in range(samples + 1)])
    values = by_right[rng.binomial(samples, draw(rng, (replications, problems)))]
    return _coverage([clustered(row, problems * samples / k) for row in values.tolist()], truth)


def same(rng: np.random.Generator, chances: Array) -> Array:
    return chances


def better(rng: np.random.Generator, chances: Array) -> Array:
    """Half of the distance to 1 is gained, on a problem in five."""
    return np.where(rng.random(chances.shape) < 0.2, (1 + chances) / 2, chances)


CHANGES: dict[str, tuple[Callable[[np.random.Generator, Array], Array], Callable[[float], float]]] = {
    "the same": (same, lambda mean: 0.0),
    "better": (better, lambda mean: 0.2 * (1 - mean) / 2),
}


def of_difference(name: str, change: str, problems: int, samples: int, replications: int, seed: int = 0) -> Coverage:
    """Coverage of the interval of the difference between a model and one that is changed."""
    rng, (draw, mean) = np.random.default_rng(seed), DIFFICULTIES[name]
    changed, difference = CHANGES[change]
    chances = draw(rng, (replications, problems))
    a, b = (shares_right(rng, side, samples).tolist() for side in (chances, changed(rng, chances)))
    intervals = [paired_difference(one, other, samples) for one, other in zip(a, b, strict=True)]
    return _coverage(intervals, difference(mean))


def _coverage(intervals: Sequence[Interval], truth: float) -> Coverage:
    low, high = np.array(intervals).T
    covered = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
    return Coverage(float(covered.mean()), float((high - low).mean()))


def _table(title: str, cell: Callable[[str, int, int], Coverage]) -> dict[str, dict[str, Coverage]]:
    print(f"\n| {title} | " + " | ".join(f"{n} x {k}" for n, k in SIZES) + " |")
    print("| --- |" + " --- |" * len(SIZES))
    table: dict[str, dict[str, Coverage]] = {}
    for row in DIFFICULTIES:
        table[row] = {f"{n}x{k}": cell(row, n, k) for n, k in SIZES}
        print(
            f"| {row} | " + " | ".join(f"{100 * found.share:.1f}" for found in table[row].values()) + " |", flush=True
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    count = args.replications
    print(f"Coverage in percent, nominal 95, {count:,} replications; problems x samples of each.")

    def half(name: str, n: int, k: int) -> Coverage:
        return of_pass_at_k(name, n, k, (k + 1) // 2, count)

    tables = {
        "accuracy": _table("avg@k", lambda name, n, k: of_accuracy(name, n, k, count)),
        "pass_at_k": _table("pass@k, k half of the samples", half),
        "difference, the same": _table("B is A", lambda name, n, k: of_difference(name, "the same", n, k, count)),
        "difference, better": _table("B is better", lambda name, n, k: of_difference(name, "better", n, k, count)),
    }
    if args.json:
        args.json.write_text(json.dumps({"replications": count, **tables}, indent=1))


if __name__ == "__main__":
    main()
