"""Whether two models differ on the problems that both answered.

    difference      mean over the common problems of (B's share right - A's), 95% interval as in eval/stats/intervals.py
    p-value         of the signs of the problems' differences (eval/stats/permutation.py)
    detectable      (t(0.975) + t(0.8)) standard error: the smallest true difference that this many problems and
                    samples show at the 5% level four times in five (arXiv 2411.00640, section 5)
    needed          n (detectable / difference)^2 problems show the observed difference as often; more samples of the
                    same problems shrink only that part of the variance which comes from sampling

The standard error is half the interval's width over t(0.975); t has n - 1 degrees of freedom.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from eval.stats import student
from eval.stats.intervals import Estimate, clustered, paired_difference
from eval.stats.majority import tally
from eval.stats.permutation import sign_flip
from eval.stats.stats import Key, by_problem, right
from eval.store import read_generations
from eval.types import Generation
from grpo.record.flatten import flatten

FLIPPED = Fraction(1, 2)  # a problem flipped if the share of right answers changed by so much
Pair = tuple[Sequence[Generation], Sequence[Generation]]  # A's and B's graded samples of a problem, some of each


class CompareError(ValueError):
    """The two evaluations cannot be compared. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A problem on which the two models differ.

    Example: Flip(problem_id="gsm8k/test/17", question="...", gold="18", share_a=0.0, share_b=1.0, answer_a="9",
    answer_b="18")
    """

    problem_id: str
    question: str
    gold: str
    share_a: float  # of the graded samples that are right
    share_b: float
    answer_a: str | None  # given most often; None: no answer
    answer_b: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A on the problems that have graded samples of both.

    Example: Comparison(benchmark="gsm8k", n=200, samples=(1.0, 1.0), a=Estimate(0.3, 0.24, 0.37), b=Estimate(0.35,
    0.29, 0.42), difference=Estimate(0.05, -0.01, 0.11), p_value=0.12, sampling_variance=None, flips=(Flip(...),),
    only_a=(), only_b=(), ungraded=())
    """

    benchmark: str
    n: int  # problems
    samples: tuple[float, float]  # mean graded samples a problem, A's and B's
    a: Estimate
    b: Estimate
    difference: Estimate  # b - a
    p_value: float
    sampling_variance: float | None  # the part of a problem's difference; None with one sample, or unequal numbers
    flips: tuple[Flip, ...]  # the largest changes first
    only_a: tuple[str, ...]  # problem_ids, not in n
    only_b: tuple[str, ...]
    ungraded: tuple[str, ...]  # both have it, but one has no graded sample of it; not in n
    shortened: tuple[str, ...] = ()  # a completion of one had less room than the protocol says; not in n

    @property
    def standard_error(self) -> float:
        """Of the difference; infinite with a single problem."""
        if self.n < 2:
            return math.inf
        return (self.difference.high - self.difference.low) / (2 * student.quantile(0.975, self.n - 1))

    @property
    def detectable(self) -> float:
        """The smallest true difference that is shown at the 5% level with 80% power; infinite with a single problem."""
        return self._multiple * self.standard_error if self.n > 1 else math.inf

    @property
    def problems_needed(self) -> int | None:
        """Problems that show the observed difference with 80% power; None if it is 0, or n is 1."""
        if self.n < 2 or not self.difference.value:
            return None
        return math.ceil(self.n * (self.detectable / self.difference.value) ** 2)

    @property
    def samples_needed(self) -> int | None:
        """Samples of each of these n problems that do; None if that is not known, or none are enough."""
        if self.sampling_variance is None or not self.difference.value:
            return None
        allowed = self.n * (self.difference.value / self._multiple) ** 2
        of_problems = max(self.n * self.standard_error**2 - self.sampling_variance, 0.0)
        if allowed <= of_problems:
            return None
        return max(math.ceil(max(self.samples) * self.sampling_variance / (allowed - of_problems)), 1)

    @property
    def _multiple(self) -> float:
        """Of the standard error, for 80% power at the 5% level."""
        return student.quantile(0.975, self.n - 1) + student.quantile(0.8, self.n - 1)


def compare(a: Sequence[Generation], b: Sequence[Generation]) -> Comparison:
    """Compare two models' generations of a benchmark; their order and the numbers of samples need not agree.

    Raises CompareError if they have no graded problem in common, or a problem has two gold answers; ValueError if a
    sample is there twice.
    """
    problems_a, problems_b = by_problem(a), by_problem(b)
    pairs = _pairs(problems_a, problems_b)
    samples = [sum(len(pair[side]) for pair in pairs.values()) / len(pairs) for side in (0, 1)]
    shares = [[_share(pair[side]) for pair in pairs.values()] for side in (0, 1)]
    means = [[float(share) for share in side] for side in shares]
    estimates = [Estimate(math.fsum(side) / len(side), *clustered(side)) for side in means]
    interval = paired_difference(means[0], means[1], min(samples))
    return Comparison(
        benchmark=", ".join(dict.fromkeys(benchmark for benchmark, _ in pairs)),
        n=len(pairs),
        samples=(samples[0], samples[1]),
        a=estimates[0],
        b=estimates[1],
        difference=Estimate(estimates[1].value - estimates[0].value, *interval),
        p_value=sign_flip([share_b - share_a for share_a, share_b in zip(*shares, strict=True)]),
        sampling_variance=_sampling_variance(pairs.values()),
        flips=_flips(pairs),
        only_a=tuple(key[1] for key in problems_a if key not in problems_b),
        only_b=tuple(key[1] for key in problems_b if key not in problems_a),
        ungraded=tuple(key[1] for key in problems_a if key in problems_b and key not in pairs),
    )


def compare_folders(a: Path, b: Path, any_protocol: bool = False) -> list[Comparison]:
    """Compare two evaluations' folders, benchmark by benchmark, those that both have (see `unshared`).

    Raises CompareError if they have none in common, or asked, sampled or graded one differently, unless any_protocol;
    StoreError if a folder holds no generations.
    """
    results_a, results_b = _results(a), _results(b)
    shared = [name for name in results_a if name in results_b]
    if not shared:
        raise CompareError(f"no benchmark in common: {a} has {listed(results_a)}, {b} has {listed(results_b)}")
    if not any_protocol:
        for name in shared:
            _check_protocol(name, results_a[name], results_b[name])
    generations = read_generations(a), read_generations(b)
    pairs = {name: [[one for one in side if one.benchmark == name] for side in generations] for name in shared}
    if any_protocol:
        return [compare(*pair) for pair in pairs.values()]
    limits = {name: (results_a[name].get("protocol") or {}).get("max_tokens") for name in pairs}
    return [_of_whole(name, pair[0], pair[1], limits[name]) for name, pair in pairs.items()]


def unshared(a: Path, b: Path) -> tuple[list[str], list[str]]:
    """The benchmarks that only A's folder has, and only B's, which `compare_folders` leaves out."""
    results_a, results_b = _results(a), _results(b)
    return [name for name in results_a if name not in results_b], [name for name in results_b if name not in results_a]


# -- Pairs ---------------------------------------------------------------------------------------------------------


def _pairs(a: Mapping[Key, Sequence[Generation]], b: Mapping[Key, Sequence[Generation]]) -> dict[Key, Pair]:
    for key in a:
        if key in b and a[key][0].answer != b[key][0].answer:
            raise CompareError(
                f"{key[1]} has the gold answer {a[key][0].answer!r} in A and {b[key][0].answer!r} in B; "
                "expected the same problems"
            )
    pairs: dict[Key, Pair] = {key: (_graded(a[key]), _graded(b[key])) for key in a if key in b}
    pairs = {key: pair for key, pair in pairs.items() if all(pair)}
    if not pairs:
        raise CompareError(
            f"no graded problem in common: A has {listed([key[1] for key in a])}, B has {listed([key[1] for key in b])}"
        )
    return pairs


def _graded(samples: Sequence[Generation]) -> list[Generation]:
    return [sample for sample in samples if sample.value is not None]


def _share(samples: Sequence[Generation]) -> Fraction:
    return Fraction(right(samples), len(samples))


def _sampling_variance(pairs: Collection[Pair]) -> float | None:
    """Mean over problems of the variance of B's share minus A's that sampling alone explains: p (1 - p) / (k - 1)."""
    counts_a, counts_b = ([len(pair[side]) for pair in pairs] for side in (0, 1))
    if min(*counts_a, *counts_b) < 2 or max(counts_a) != max(counts_b):
        return None
    shares = [(float(_share(samples)), len(samples)) for pair in pairs for samples in pair]
    return math.fsum(share * (1 - share) / (k - 1) for share, k in shares) / len(pairs)


def _flips(pairs: Mapping[Key, Pair]) -> tuple[Flip, ...]:
    changes = {key: _share(b) - _share(a) for key, (a, b) in pairs.items()}
    flipped = [key for key in pairs if abs(changes[key]) >= FLIPPED]
    return tuple(_flip(key[1], *pairs[key]) for key in sorted(flipped, key=lambda key: -abs(changes[key])))


def _flip(problem_id: str, a: Sequence[Generation], b: Sequence[Generation]) -> Flip:
    return Flip(
        problem_id=problem_id,
        question=a[0].question,
        gold=a[0].answer,
        share_a=float(_share(a)),
        share_b=float(_share(b)),
        answer_a=_usual_answer(a),
        answer_b=_usual_answer(b),
    )


def _usual_answer(samples: Sequence[Generation]) -> str | None:
    votes = tally([(sample.extracted, sample.value or 0.0) for sample in samples if sample.extracted is not None])
    return votes[0].answer if votes else None


# -- Folders -------------------------------------------------------------------------------------------------------


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompareError(f"{path} does not exist; expected the folder of an evaluation that ended") from None
    except ValueError as error:
        raise CompareError(f"{path} is not JSON ({error}); expected what zero eval wrote") from None


def _check_protocol(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    if a.get("protocol_hash") == b.get("protocol_hash"):
        return
    one, other = flatten(a.get("protocol") or {}), flatten(b.get("protocol") or {})
    fields = [field for field in {**one, **other} if one.get(field) != other.get(field)]
    differ = "; ".join(f"{field} is {one.get(field)!r} in A and {other.get(field)!r} in B" for field in fields)
    raise CompareError(
        f"{name} was evaluated under two protocols: {differ or 'their hashes differ'}. Evaluate both under one, "
        "or compare them all the same with --any-protocol"
    )


def _budgets(generations: Sequence[Generation]) -> dict[str, list[int]]:
    """Problem -> the different limits of tokens that its graded completions had, where they are known."""
    found: dict[str, set[int]] = {}
    for one in generations:
        if one.value is not None and one.max_tokens is not None:
            found.setdefault(one.problem_id, set()).add(one.max_tokens)
    return {problem: sorted(limits) for problem, limits in found.items()}


def _of_whole(name: str, a: Sequence[Generation], b: Sequence[Generation], most: int | None) -> Comparison:
    """The comparison on the problems whose completions all had the protocol's room, `most` tokens where that is known.

    Where none had it, on all of them if their room was the same in A and in B. Raises CompareError if it was not.
    """
    out = {one.problem_id for one in (*a, *b) if one.value is not None and (one.max_tokens or most or 0) < (most or 0)}
    whole_a, whole_b = ([one for one in side if one.problem_id not in out] for side in (a, b))
    if not all(any(one.value is not None for one in side) for side in (whole_a, whole_b)):
        whole_a, whole_b, out = list(a), list(b), set()
    _check_budgets(name, _budgets(whole_a), _budgets(whole_b))
    return replace(compare(whole_a, whole_b), shortened=tuple(sorted(out)))


def _check_budgets(name: str, a: Mapping[str, list[int]], b: Mapping[str, list[int]]) -> None:
    """Under one protocol, where a prompt leaves less of the context than max_tokens, completions get only that."""
    if differ := [problem for problem in a if problem in b and a[problem] != b[problem]]:
        shown = "; ".join(f"{one}: {_either(a[one])} in A, {_either(b[one])} in B" for one in differ[:3])
        least = min(limit for problem in differ for limit in (*a[problem], *b[problem]))
        raise CompareError(
            f"{name}: {len(differ)} problems had other limits of tokens in A than in B, because prompt and answer were "
            f"longer than what a model takes. {shown}. Evaluate both with --max-tokens {least} or less, or compare "
            "them all the same with --any-protocol"
        )


def _either(limits: Sequence[int]) -> str:
    return " or ".join(map(str, limits))


def listed(names: Collection[str], most: int = 5) -> str:
    shown = ", ".join(list(names)[:most]) or "nothing"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
