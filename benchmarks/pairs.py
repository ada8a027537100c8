"""Labelled pairs for measuring a verifier: (gold, answer) with `equal` true by construction.

For each gold answer, rewritings that must pass and near misses that must fail, the kinds that were used least so
far in its data set first, so that rare kinds are not drowned. A seed repeats the same pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from benchmarks import near_misses, rewritings, shapes  # noqa: F401 - they register their changes
from benchmarks.changes import NEAR_MISSES, REWRITINGS, UNEVALUATED, Change
from benchmarks.golds import Gold

# How many rewritings, and as many near misses, a gold gets at most: fewer where there are thousands of its like.
PER_GOLD = 10
PER_INTEGER_OF_LARGE_SETS = 2
LARGE_SETS = ("gsm8k", "math")
SHARE_AT_THE_ENDS = 0.05


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
        number = shapes.number(gold.text)
        many = gold.dataset in LARGE_SETS and number and number.value.denominator == 1
        limit = PER_INTEGER_OF_LARGE_SETS if many else PER_GOLD
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
    """Golds of our own where floats give out: far from 1, against an answer that differs in the last digit."""
    for kind, text, other in _where_floats_end(gold.text, "0" * draw.choice([12, 16, 20, 30])):
        if draw.random() < SHARE_AT_THE_ENDS:
            yield Pair(gold.dataset, gold.row, text, other, kind, False)


def _where_floats_end(gold: str, zeros: str) -> Iterator[tuple[str, str, str]]:
    """Example: "12", "000" -> ("huge_last_digit", "100012", "100013"), ("tiny_last_digit", "0.00012", "0.00013")."""
    number, value = shapes.number(gold), shapes.expression(gold)
    if number and number.is_integer and number.is_bare and number.value >= 0:
        n = int(number.value)
        yield "huge_last_digit", f"1{zeros}{n}", f"1{zeros}{n + 1}"
        yield "tiny_last_digit", f"0.{zeros}{n}5", f"0.{zeros}{n}6"
    elif value is not None and value.is_number and not number:
        far = f"10^{{{len(zeros)}}}({gold})"
        yield "huge_expression", f"{far} + 1", f"{far} + 2"
