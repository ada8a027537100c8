"""The generated tasks: solvable, graded, disjoint and repeatable."""

import ast
import operator
from collections import Counter
from fractions import Fraction

import pytest

from eval.problems.generated import TASKS, generate

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def evaluate(node: ast.expr, used: list[int]) -> Fraction:
    """The exact value of an expression; the numbers it reads are appended to `used`."""
    if isinstance(node, ast.Constant):
        used.append(node.value)
        return Fraction(node.value)
    assert isinstance(node, ast.BinOp)
    return OPERATORS[type(node.op)](evaluate(node.left, used), evaluate(node.right, used))


def value_of(expression: str) -> tuple[Fraction, list[int]]:
    used: list[int] = []
    return evaluate(ast.parse(expression, mode="eval").body, used), used


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_answer_of_every_arithmetic_problem_is_its_value_and_never_negative(split):
    for row in generate("arithmetic", split, 600, seed=3):
        assert row["answer"] == str(value_of(row["question"])[0])
        assert int(row["answer"]) >= 0


def test_the_answer_of_every_countdown_problem_uses_each_number_once_and_makes_the_target():
    for row in generate("countdown", "train", 600, seed=3):
        value, used = value_of(row["answer"])
        assert value == row["target"]
        assert sorted(used) == sorted(row["numbers"])
        assert str(row["target"]) in row["question"]


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_problem_whatever_the_seeds_and_sizes(name):
    train = [row["id"] for seed in range(4) for row in generate(name, "train", 700, seed)]
    held_out = [row["id"] for seed in range(4, 8) for row in generate(name, "held_out", 300, seed)]
    assert not set(train) & set(held_out)


def test_a_problem_turned_round_stays_in_its_split():
    def operands(split):
        return {tuple(row["question"].split(" + ")) for row in generate("arithmetic", split, 1500, 0, levels=[1])}

    train, held_out = operands("train"), operands("held_out")
    assert any((b, a) in held_out for a, b in held_out if a != b)
    assert not {(b, a) for a, b in train} & held_out


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_distinct_and_take_the_levels_in_turn(name):
    levels = list(TASKS[name])
    rows = generate(name, "train", 100 * len(levels), seed=1)
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["level"] for row in rows] == levels * 100


def test_the_same_arguments_give_the_same_rows_and_a_smaller_n_a_first_part():
    rows = generate("countdown", "train", 60, seed=5)
    assert generate("countdown", "train", 60, seed=5) == rows
    assert generate("countdown", "train", 25, seed=5) == rows[:25]
    assert generate("countdown", "train", 60, seed=6) != rows


def test_about_one_problem_in_five_is_held_out():
    counts = Counter(split for split in ("train", "held_out") for _ in all_of(split))
    assert counts.total() == 90 * 91 // 2 + 90 * 9  # every a - b with 10 <= a <= 99 and 1 <= b <= a
    assert 0.18 < counts["held_out"] / counts.total() < 0.22


def all_of(split):
    """Every problem of level 2, found by asking for too many."""
    with pytest.raises(ValueError, match="no more than") as error:
        generate("arithmetic", split, 10_000, seed=0, levels=[2])
    return range(int(str(error.value).split("no more than ")[1].split()[0]))


def test_asking_for_more_than_exists_says_how_many_there_are_and_what_to_change():
    with pytest.raises(ValueError, match=r"level 2 has no more than \d+ held_out problems.*lower n to \d+ or add"):
        generate("arithmetic", "held_out", 50_000, seed=0, levels=[1, 2])


@pytest.mark.parametrize(
    ("name", "split", "config", "message"),
    [
        ("arithmetics", "train", {}, "did you mean 'arithmetic'"),
        ("arithmetic", "test", {}, "expected 'train' or 'held_out'"),
        ("arithmetic", "train", {"level": [1]}, "unknown key 'level' .*did you mean 'levels'"),
        ("arithmetic", "train", {"levels": [1, 9]}, r"among \[1, 2, 3, 4, 5, 6\], got \[1, 9\]"),
        ("countdown", "train", {"levels": []}, "list of different levels"),
        ("countdown", "train", {"levels": 2}, "list of different levels"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(name, split, config, message):
    with pytest.raises(ValueError, match=message):
        generate(name, split, 10, 0, **config)
