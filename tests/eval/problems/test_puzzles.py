"""Puzzles: what a configuration may say, splits that share no question, mixtures, levels, and how many there are."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest

from eval.problems.benchmarks import benchmark, load_problems
from eval.problems.data import DataError
from eval.problems.puzzle_maker import normal
from eval.problems.puzzles import Entry, _made, entries, puzzles
from recipes.schema.load import load_recipe

pytest.importorskip("reasoning_gym")

SUMS = {"dataset": "chain_sum", "min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}  # 200 in all
MIXED = {
    "datasets": [
        {"dataset": "chain_sum", "weight": 3, "levels": [0, 2]},
        "isomorphic_strings",  # which depends on the hash seed of strings
        {"dataset": "list_functions"},  # which moves the global random state
        {"dataset": "pool_matrix", "weight": 0.5},  # and numpy's
    ]
}


@pytest.fixture(scope="module")
def mixed():
    return puzzles(MIXED, {"train": 44, "held_out": 22}, seed=3)


def test_a_configuration_is_one_generator_or_several():
    assert entries(SUMS) == [Entry("chain_sum", 1.0, (), False, {k: v for k, v in SUMS.items() if k != "dataset"})]
    assert [(one.dataset, one.weight, one.levels) for one in entries(MIXED)] == [
        ("chain_sum", 3.0, (0, 2)),
        ("isomorphic_strings", 1.0, ()),
        ("list_functions", 1.0, ()),
        ("pool_matrix", 0.5, ()),
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "got neither, expected one: dataset"),
        ({"max_terms": 3}, r"neither of them, but \['max_terms'\]"),
        ({"dataset": "gcd", "datasets": ["gcd"]}, "got both"),
        ({"dataset": "chain_sums"}, "did you mean 'chain_sum'"),
        ({"dataset": 3}, "got 3; reasoning-gym has ab,"),
        ({"datasets": []}, r"datasets: got \[\], expected a list"),
        ({"datasets": "gcd"}, "datasets: got 'gcd', expected a list"),
        ({"datasets": [{"name": "gcd"}]}, r"expected \{dataset: NAME\}"),
        ({"datasets": ["gcd", "gcd"]}, "gcd more than once"),
        ({"datasets": ["gcd"], "max_terms": 3}, "max_terms: beside datasets"),
        (
            {"datasets": ["gcd", {"dataset": "lcm", "weight": 0}]},
            r"datasets\.1\.weight: got 0, expected a number above 0",
        ),
        ({"dataset": "gcd", "weight": True}, "weight: got True"),
        ({"dataset": "gcd", "weight": float("nan")}, "weight: got nan"),
        ({"dataset": "gcd", "seed": 3}, "seed: not taken here; task.seed"),
        ({"dataset": "gcd", "levels": [9]}, "levels: got .9., expected a list of different levels of gcd, 0 to 3"),
        ({"dataset": "gcd", "levels": [0, 0]}, "different levels"),
        ({"dataset": "gcd", "levels": "hard"}, "levels: got 'hard'"),
        ({"dataset": "acre", "levels": [0]}, "acre has no curriculum"),
        ({"dataset": "propositional_logic"}, "is refused: .* near misses .* untrusted: true"),
        ({"dataset": "rush_hour", "untrusted": "yes"}, "untrusted: got 'yes'"),
    ],
)
def test_what_can_be_seen_without_the_generators_is_refused_at_once(config, words):
    with pytest.raises(ValueError, match=words):
        entries(config)


def test_a_generator_that_is_not_trusted_is_taken_where_the_recipe_says_so():
    assert entries({"dataset": "rush_hour", "untrusted": True})[0].untrusted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"max_term": 3},
            "chain_sum: unknown key 'max_term' .did you mean .max_terms",
        ),
        ({"max_terms": "3"}, "max_terms: got '3', expected a whole number, such as 6"),
        ({"allow_negation": 1}, "allow_negation: got 1, expected true or false"),
        ({"max_terms": 1}, "chain_sum: these settings are refused by the generator: max_terms must be >= min_terms"),
        ({"max_terms": 9, "levels": [0]}, "max_terms is what levels set"),
    ],
)
def test_settings_are_checked_by_the_generators_own_class(config, words):
    with pytest.raises(ValueError, match=words):
        puzzles({"dataset": "chain_sum", **config}, {"train": 1}, 0)


@pytest.mark.slow
def test_a_mixture_has_its_weights_and_levels_in_any_first_part(mixed):
    for n in (11, 22, 44):
        rows = mixed.rows["train"][:n]
        share = Counter(row["subject"] for row in rows)
        assert share == {
            "chain_sum": 6 * n // 11,
            "isomorphic_strings": 2 * n // 11,
            "list_functions": 2 * n // 11,
            "pool_matrix": n // 11,
        }
        levels = Counter(row["level"] for row in rows if row["subject"] == "chain_sum")
        assert levels == {0: 3 * n // 11, 2: 3 * n // 11}
    assert mixed.short == []


@pytest.mark.slow
def test_no_question_is_twice_nor_in_both_splits_whatever_the_seed(mixed):
    train, held_out = ([normal(row["question"]) for row in mixed.rows[split]] for split in ("train", "held_out"))
    others = puzzles(MIXED, {"train": 44, "held_out": 22}, seed=4)
    more = [normal(row["question"]) for row in others.rows["train"]]
    assert (len(set(train)), len(set(held_out))) == (44, 22)
    assert not set(held_out) & set(train + more)
    assert len({row["id"] for rows in mixed.rows.values() for row in rows}) == 66


@pytest.mark.slow
def test_the_same_request_makes_the_same_rows_in_any_process(mixed, monkeypatch):
    request = {
        "entries": [
            {"dataset": one.dataset, "weight": one.weight, "levels": one.levels, "settings": one.settings}
            for one in entries(MIXED)
        ],
        "numbers": {"train": 30, "held_out": 10},
        "seed": 3,
    }
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    again = _made.__wrapped__(json.dumps(request))
    assert again.rows == {"train": mixed.rows["train"][:30], "held_out": mixed.rows["held_out"][:10]}
    assert os.environ["PYTHONHASHSEED"] == "7"


@pytest.mark.slow
def test_a_generator_of_few_puzzles_says_how_many_it_has():
    made = puzzles(SUMS, {"train": 1000, "held_out": 1000}, seed=0)
    train, held_out = (len(made.rows[split]) for split in ("train", "held_out"))
    assert train + held_out == 200  # 10 x 10 sums and as many differences
    assert 20 < held_out < 60
    assert sorted(made.short) == sorted(
        f"chain_sum has no more than {n} different {split} puzzles with these settings: none new in 1000 draws"
        for n, split in ((train, "train"), (held_out, "held-out"))
    )


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="reasoning-gym is not installed; install it: pip install"):
        puzzles(SUMS, {"train": 1}, seed=99)


@pytest.mark.slow
def test_a_benchmark_of_puzzles_is_four_lines(tmp_path):
    file = tmp_path / "sums.yaml"
    file.write_text(f"puzzles: {json.dumps(SUMS)}\nproblems: 12\nmax_tokens: 64\n")
    loaded = load_problems(benchmark(str(file)), limit=5)
    assert (len(loaded.problems), loaded.dropped) == (5, [])
    assert {problem.subject for problem in loaded.problems} == {"chain_sum"}
    assert json.loads(loaded.problems[0].columns["metadata"]) == {"source_dataset": "chain_sum"}
    file.write_text("puzzles: {dataset: chain_sums}\nproblem: 3\n")
    with pytest.raises(DataError, match="did you mean 'chain_sum'") as error:
        benchmark(str(file))
    assert "problem: unknown key (did you mean 'problems'?)" in str(error.value)


@pytest.mark.slow
def test_the_mixture_of_the_recipe_for_a_gpu_has_every_generator_at_each_of_its_levels():
    config = load_recipe("puzzles_1.7b_1gpu").task.config
    rows = puzzles(config, {"train": 72, "held_out": 9}, seed=0).rows["train"]
    assert {(row["subject"], row["level"]) for row in rows} == {
        (one["dataset"], level) for one in config["datasets"] for level in one["levels"]
    }
