"""The verifier against labelled pairs made from the benchmarks' gold answers, and each gold against itself."""

from __future__ import annotations

import functools
import random
from collections import Counter

import pytest

from benchmarks import algebra, shapes
from benchmarks.changes import NEAR_MISSES, REWRITINGS
from benchmarks.confusion import disagrees, graded, own_failures
from benchmarks.golds import DATA, SETS, Gold, read_golds
from benchmarks.pairs import Pair, pairs

pytestmark = pytest.mark.slow

SAMPLE = 2000
AGREEMENT = 0.995
GOLDS = {
    **dict.fromkeys(("gsm8k", "aime24", "aime25", "amc23"), 20),
    **{"math": 400, "math500": 100, "minerva_math": 100, "olympiadbench": 100},
}

# Golds that no answer can pass: (row, what stands there, why).
NO_GOLD = {
    "math/train/5529": r"the solution ends in an empty \boxed{}",
    "math/train/5531": r"the solution ends in an empty \boxed{}",
}


def golds(dataset: str) -> list[Gold]:
    if not (DATA / dataset).is_dir():
        pytest.skip(f"no {DATA / dataset}: set ZERO_DATA_DIR to the benchmark data's folder")
    return list(read_golds(dataset))


@functools.cache
def sample(seed: int = 0) -> tuple[Pair, ...]:
    """SAMPLE pairs of all data sets, as many of each kind as there are: the rare kinds whole, the others cut."""
    draw = random.Random(seed)
    made = list(pairs([g for name, n in GOLDS.items() for g in draw.sample(golds(name), n)], seed))
    nth: Counter[str] = Counter()

    def rank(pair: Pair) -> int:
        nth[pair.kind] += 1
        return nth[pair.kind]

    return tuple(sorted(draw.sample(made, len(made)), key=rank)[:SAMPLE])


@pytest.mark.parametrize("dataset", SETS)
def test_every_gold_passes_its_own_verifier_in_a_tag_and_in_a_box(dataset: str) -> None:
    failures = {gold.row: (gold.text, score.reason) for gold, _, score in own_failures(golds(dataset))}
    assert set(failures) == {row for row in NO_GOLD if row.startswith(f"{dataset}/")}, failures
    assert all(text == "" for text, _ in failures.values())


def test_of_labelled_pairs_none_is_a_false_positive_and_nearly_all_agree() -> None:
    labelled = sample()
    rows = list(zip(labelled, graded(labelled), strict=True))
    wrong = [(pair, score) for pair, score in rows if disagrees(pair, score)]
    assert [(pair, score) for pair, score in wrong if not pair.equal] == []
    assert len(wrong) <= (1 - AGREEMENT) * len(rows), wrong


def test_the_sample_holds_most_kinds_and_both_labels() -> None:
    labelled = sample()
    kinds = {pair.kind for pair in labelled}
    assert len(labelled) == SAMPLE
    assert len(kinds & set(REWRITINGS)) > len(REWRITINGS) * 0.8
    assert len(kinds & set(NEAR_MISSES)) > len(NEAR_MISSES) * 0.8
    assert 0.4 < sum(pair.equal for pair in labelled) / SAMPLE < 0.6


def test_a_seed_repeats_the_pairs_and_another_gives_others() -> None:
    assert sample.__wrapped__(0) == sample(0)
    assert set(sample(0)) != set(sample(1))


@pytest.mark.parametrize(
    ("gold", "change", "answer"),
    [
        ("0", "negated", None),  # -0 is 0
        ("11", "digits_transposed", None),
        ("1/2", "fraction_inverted", r"\frac{2}{1}"),
        ("1/1", "fraction_inverted", None),
        ("(3, 3)", "order_swapped", None),
        ("(1, 2)", "order_swapped", "(2, 1)"),
        ("(0.5, 1/2)", "order_swapped", None),
        (r"\{1, 2\}", "element_repeated", None),  # the same set
        ("[0, 1]", "in_interval", r"x \in [0, 1]"),
        ("(0, 1)", "in_interval", None),  # may be a point
        (r"x^2 + y^2", "letters_swapped", None),
        (r"\begin{pmatrix} 1 & 2 \\ 2 & 1 \end{pmatrix}", "matrix_transposed", None),
        (r"(0, 1] \cup [1, 2)", "gap_closed", None),
        (r"50\%", "unit_dropped", None),
        ("1,234", "permuted", None),
    ],
)
def test_a_change_whose_label_would_not_be_sure_is_not_made(gold: str, change: str, answer: str | None) -> None:
    changes = {**REWRITINGS, **NEAR_MISSES}
    made = {changes[change](gold, random.Random(seed)) for seed in range(10)}
    assert answer in made if answer else made == {None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac{\sqrt{8}}{2}", r"\sqrt 2"),
        (r"2x(x+1)", "2x^2+2x"),
        (r"\frac12 x", "x/2"),
        ("(1+i)^2", "2i"),
        (r"\sqrt[3]{8}\pi", r"2 \cdot \pi"),
    ],
)
def test_the_generators_own_reader_reads_expressions(text: str, value: str) -> None:
    assert algebra.reads_equal(text, value)
    assert not algebra.reads_equal(text, f"{value} + 1")


@pytest.mark.parametrize(
    "text", ["f(x)", r"\sin x", "AB", "abcd", r"3\frac12", r"1 \pm 2", r"\frac{dx}{dt}", "1/2x", "{"]
)
def test_the_generators_own_reader_refuses_what_it_is_not_sure_of(text: str) -> None:
    assert algebra.read(text) is None


def test_the_shape_of_a_gold_is_told_by_its_text() -> None:
    number = shapes.number(r"\$1,234.50")
    assert number
    assert (number.before, number.core, float(number.value)) == (r"\$", "1,234.50", 1234.5)
    assert shapes.items("1,234") is None
    assert shapes.items(r"\left( 1, \frac{1}{2} \right)") == shapes.Items("(", ("1", r"\frac{1}{2}"), ")")
    assert shapes.named("y = 2y + 1") is None
