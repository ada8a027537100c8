"""Labelled pairs for measuring a verifier: (gold, answer) with `equal` true by construction.

For each gold answer, rewritings that must pass and near misses that must fail, the kinds that were used least so
far in its data set first, so that rare kinds are not drowned. A seed repeats the same pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from benchmarks import shapes
from benchmarks.golds import Gold
from benchmarks.near_misses import NEAR_MISSES, UNEVALUATED
from benchmarks.rewritings import REWRITINGS, Change

# How many rewritings, and as many near misses, each gold of a set gets at most.
PER_GOLD: Mapping[str, int] = {"gsm8k": 2, "math": 3}
PER_GOLD_OF_SMALL_SETS = 10


@dataclass(frozen=True, slots=True)
class Pair:
    r"""Example: Pair("math", "math/test/17", "\\frac{1}{2}", "0.5", "fraction_to_decimal", True)."""

    dataset: str
    row: str
    gold: str
    answer: str
    kind: str
    equal: bool


def pairs(golds: Iterable[Gold], seed: int = 0) -> Iterator[Pair]:
    """Every gold's pairs, in order. The same golds and seed give the same pairs."""
    used: Counter[tuple[str, str]] = Counter()
    for gold in golds:
        if not gold.text:
            continue
        draw = Random(f"{seed}/{gold.row}")
        limit = PER_GOLD.get(gold.dataset, PER_GOLD_OF_SMALL_SETS)
        for changes, equal, n in ((REWRITINGS, True, limit), (NEAR_MISSES, False, limit), (UNEVALUATED, False, 1)):
            yield from _of_one(gold, changes, equal, n, draw, used)
        yield from _at_the_ends(gold, draw)


def _of_one(
    gold: Gold, changes: Mapping[str, Change], equal: bool, n: int, draw: Random, used: Counter[tuple[str, str]]
) -> Iterator[Pair]:
    """At most `n` pairs, of the kinds used least so far; no two with the same answer, none with the gold itself."""
    kinds = draw.sample(list(changes), len(changes))
    bare = re.sub(r"(?<!\\)\$", "", gold.text).strip()  # OlympiadBench's stand in dollars
    seen = {bare}
    for kind in sorted(kinds, key=lambda kind: used[gold.dataset, kind]):
        if len(seen) > n:
            return
        answer = changes[kind](bare, draw)
        if answer and answer not in seen:
            seen.add(answer)
            used[gold.dataset, kind] += 1
            yield Pair(gold.dataset, gold.row, gold.text, answer, kind, equal)


def _at_the_ends(gold: Gold, draw: Random) -> Iterator[Pair]:
    """Golds of our own where floats give out: a number far from 1, and one that differs in its last digit."""
    found = shapes.number(gold.text)
    if not found or not found.is_integer or draw.random() > 0.05:
        return
    n = int(abs(found.value))
    zeros = "0" * draw.choice([12, 16, 20, 30])
    huge, tiny = f"1{zeros}{n}", f"0.{zeros}{n + 1}"
    for text, other, kind in ((huge, f"1{zeros}{n + 1}", "huge"), (tiny, f"0.{zeros}{n + 2}", "tiny")):
        if Fraction(text) != Fraction(other) and len(other) == len(text):
            yield Pair(gold.dataset, gold.row, text, other, f"{kind}_last_digit", False)
