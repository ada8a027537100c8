"""Statistics of graded generations: avg@k, pass@k, maj@k, truncation, missing answers, lengths.

    avg@k    mean over problems of the share of a problem's graded samples that are right
    pass@k   mean over problems of 1 - C(n - c, k) / C(n, k), c of n samples right (arXiv 2107.03374, eq. 1)
    maj@k    mean over problems of the majority vote of k samples (eval/stats/majority.py)

Each with its 95% interval over problems (eval/stats/intervals.py). A sample that failed, or that the verifier could not
grade, is in none of them: it is counted under its cause. A problem with fewer than k graded samples has no pass@k and
no maj@k. Up to one problem in twenty may be left out for that; with more, the set has none either, because problems
whose samples fail are not like the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from eval.stats.intervals import Estimate, clustered, estimate, wilson
from eval.stats.majority import Vote, majority, tally
from eval.types import Generation

__all__ = ["avg_at_k", "by_problem", "clustered", "maj_at_k", "pass_at_k", "summary", "unbiased_pass_at_k", "wilson"]

MAX_LEFT_OUT = 0.05  # share of the problems that may have fewer than k graded samples

Key = tuple[str, str]  # benchmark, problem_id
Ballot = tuple[list[Vote], int]  # of one problem: its votes, and its graded samples


def by_problem(generations: Iterable[Generation]) -> dict[Key, list[Generation]]:
    """The generations of each problem. Raises ValueError if one is there twice."""
    problems: dict[Key, list[Generation]] = {}
    seen: set[tuple[str, str, int]] = set()
    for generation in generations:
        key = (generation.benchmark, generation.problem_id)
        if (*key, generation.sample) in seen:
            raise ValueError(f"sample {generation.sample} of {key[1]} is there twice; expected each sample once")
        seen.add((*key, generation.sample))
        problems.setdefault(key, []).append(generation)
    return problems


def graded(generations: Iterable[Generation]) -> dict[Key, list[Generation]]:
    """The generations that have a value, by problem; problems without one are left out."""
    return by_problem(generation for generation in generations if generation.value is not None)


def right(samples: Iterable[Generation]) -> int:
    return sum(sample.value == 1.0 for sample in samples)


def avg_at_k(generations: Iterable[Generation]) -> Estimate | None:
    """Mean over problems of the share of their graded samples that are right; None if nothing was graded."""
    return estimate([right(samples) / len(samples) for samples in graded(generations).values()])


def pass_at_k(generations: Iterable[Generation], k: int) -> Estimate | None:
    """The chance that one of k samples is right, or more; None if too many problems have fewer than k."""
    return _pass([(len(samples), right(samples)) for samples in graded(generations).values()], k)


def unbiased_pass_at_k(n: int, correct: int, k: int) -> float | None:
    """1 - C(n - correct, k) / C(n, k); None for k > n. Example: unbiased_pass_at_k(4, 1, 2) = 0.5"""
    if k < 1:
        raise ValueError(f"k: got {k}, expected 1 or more")
    return 1 - math.comb(n - correct, k) / math.comb(n, k) if k <= n else None


def maj_at_k(generations: Iterable[Generation], k: int) -> Estimate | None:
    """How often the majority vote of k samples is right; None if too many problems have fewer than k.

    None too if an answer counts as right that was not extracted, as may be in generations that others graded.
    """
    ballots = _ballots(graded(generations).values())
    return _majority(ballots, k) if ballots else None


def summary(generations: Sequence[Generation], samples: int) -> dict[str, Any]:
    """What `results.json` says about one benchmark's generations, of which `samples` were asked for each problem.

    A statistic that is not defined is None. Beside what eval/page/report.py shows there are `n_graded`, the problems with
    a graded sample, which `accuracy` is the mean over, and `n_defined`, for each k those with k of them or more.
    `n_generations` are those that came: the sum of `outcomes`. Raises ValueError if a sample is there twice.

    Example: {"accuracy": {"value": 0.25, "low": 0.18, "high": 0.34}, "n_problems": 200, "n_graded": 200,
    "n_samples": 1, "n_generations": 200, "failed": {}, "outcomes": {"correct": 50, ...}, "truncated": {...}, ...}
    """
    problems = graded(generations)
    came = [generation for generation in generations if generation.failure is None]
    return {
        "accuracy": _json(avg_at_k(generations)),
        "n_problems": len(by_problem(generations)),
        "n_graded": len(problems),
        "n_samples": samples,
        "n_generations": len(came),
        "failed": dict(Counter(generation.failure for generation in generations if generation.failure)),
        "outcomes": dict(Counter(generation.outcome for generation in came if generation.outcome)),
        **_at_each_k(problems.values(), _ks(samples)),
        "truncated": _rate([g for g in came if g.finish_reason], lambda g: g.finish_reason == "length"),
        "no_answer": _rate([g for g in came if g.outcome], lambda g: g.outcome == "no_answer"),
        "length": _lengths(came),
        "by": {
            "subject": _by(generations, lambda generation: generation.subject),
            "level": _by(generations, lambda generation: generation.level),
        },
    }


def _ks(samples: int) -> list[int]:
    """1, 2, 4, ... and all of them."""
    return [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]


def _at_each_k(problems: Collection[Sequence[Generation]], ks: Sequence[int]) -> dict[str, Any]:
    counts = [(len(samples), right(samples)) for samples in problems]
    ballots = _ballots(problems)
    return {
        "pass_at_k": {str(k): _json(_pass(counts, k)) for k in ks},
        "maj_at_k": {str(k): _json(_majority(ballots, k) if ballots else None) for k in ks},
        "n_defined": {str(k): sum(n >= k for n, _ in counts) for k in ks},
    }


def _ballots(problems: Collection[Sequence[Generation]]) -> list[Ballot] | None:
    """None if an answer counts as right that was not extracted: it could not vote."""
    if any(sample.value and sample.extracted is None for samples in problems for sample in samples):
        return None
    return [(tally([vote for sample in samples if (vote := _vote(sample))]), len(samples)) for samples in problems]


def _vote(sample: Generation) -> tuple[str, float] | None:
    if sample.extracted is None or sample.value is None or sample.outcome in ("no_answer", "malformed"):
        return None
    return sample.extracted, sample.value


def _pass(counts: Sequence[tuple[int, int]], k: int) -> Estimate | None:
    return _defined([(unbiased_pass_at_k(n, correct, k), n) for n, correct in counts], k)


def _majority(ballots: Sequence[Ballot], k: int) -> Estimate | None:
    return _defined([(majority(votes, n, k), n) for votes, n in ballots], k)


def _defined(values: Sequence[tuple[float | None, int]], k: int) -> Estimate | None:
    """Over the problems that have a value, if nearly all have one; with each its number of samples.

    n samples hold n / k draws of k that have none in common. An interval may not claim more: where pass@k is near 1
    on nearly all problems, their spread hides the rare ones where it is not.
    """
    there = [(value, n) for value, n in values if value is not None]
    if len(values) - len(there) > MAX_LEFT_OUT * len(values):
        return None
    most = sum(n for _, n in there) / k if k > 1 else math.inf
    return estimate([value for value, _ in there], most)


def _rate(generations: Sequence[Generation], is_one: Callable[[Generation], bool]) -> dict[str, float] | None:
    """Mean over problems of the share of their generations that are one."""
    shares = [sum(map(is_one, given)) / len(given) for given in by_problem(generations).values()]
    return _json(estimate(shares))


def _lengths(came: Sequence[Generation]) -> dict[str, Any]:
    """In tokens, of the generations whose length is known."""
    tokens: dict[str, list[int]] = {}
    for generation in came:
        if generation.tokens is not None and generation.outcome:
            tokens.setdefault(generation.outcome, []).append(generation.tokens)
    every = [count for counts in tokens.values() for count in counts]
    by_outcome = {outcome: {"n": len(counts), **_distribution(counts)} for outcome, counts in tokens.items()}
    return {**_distribution(every), "max": max(every, default=None), "by_outcome": by_outcome}


def _distribution(counts: Sequence[int]) -> dict[str, float | None]:
    if not counts:
        return {"mean": None, "p50": None, "p90": None}
    p50, p90 = np.percentile(counts, [50, 90])
    return {"mean": sum(counts) / len(counts), "p50": float(p50), "p90": float(p90)}


def _by(generations: Iterable[Generation], part: Callable[[Generation], str | None]) -> dict[str, Any]:
    parts: dict[str, list[Generation]] = {}
    for generation in generations:
        if name := part(generation):
            parts.setdefault(name, []).append(generation)
    return {
        name: {"accuracy": _json(avg_at_k(given)), "n_problems": len(by_problem(given))}
        for name, given in sorted(parts.items())
    }


def _json(value: Estimate | None) -> dict[str, float] | None:
    return asdict(value) if value else None
