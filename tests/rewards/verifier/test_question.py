"""Beside its question: what it says already is no answer, its words are units, a number may have to be written out."""

from __future__ import annotations

import pytest

from rewards import compare, grader, verify
from rewards.registry import load_reward
from rewards.verifier.perturb import near_misses
from rewards.verifier.symbolic import ask_math_verify


@pytest.mark.parametrize(
    ("question", "gold", "answer", "value"),
    [
        (r"Compute $\dbinom{31}{28}.$", "4495", r"\binom{31}{28}", 0.0),
        (r"Compute $\dbinom{31}{28}.$", "4495", r"{31 \choose 28}", 0.0),
        (r"Compute $\dbinom{31}{28}.$", "4495", "4495", 1.0),
        (r"Compute $\dbinom{31}{28}.$", "4495", r"\binom{31}{3}", 1.0),
        ("Factor $x^2+2x+1$.", "(x+1)^2", "x^2+2x+1", 0.0),
        ("Factor $x^2+2x+1$.", "(x+1)^2", "1+2x+x^2", 0.0),
        ("Factor $f(x)=x^2+2x+1$.", "(x+1)^2", "x^2+2x+1", 0.0),
        ("Factor $x^2+2x+1$.", "(x+1)^2", "(x+1)(x+1)", 1.0),
        ("Write $0.5$ as a fraction.", r"\frac{1}{2}", "0.5", 0.0),
        (r"Write $25\%$ as a decimal.", "0.25", r"25\%", 0.0),
        ("What is the larger of $2^{10}$ and $10^3$?", "2^{10}", "2^{10}", 1.0),
        ("There are $42$ eggs. How many are left?", "42", "42.0", 1.0),
        ("There are $42$ eggs. How many are left?", "42", "42 eggs", 1.0),
        ("What is $x$ if $x+1=6$?", "x=5", "5", 1.0),
        ("Find $a^2+b^2$.", "13", "a^2+b^2=13", 1.0),
        ("Find $x$.", "13", "a^2+b^2=13", 0.0),
        ("How many zorgs are there?", "7", "7 zorgs", 1.0),
        ("How many are there?", "7", "7 zorgs", 0.0),
        ("Find all $f$.", "f(x)=ax+b", "f(x)=cx+d", 1.0),
        ("Find all $f$ in terms of $a$.", "f(x)=ax", "f(x)=bx", 0.0),
        ("The spring constant is $k$.", "kx", "cx", 0.0),
        ("Who is it, $Ann$ or $Bob$?", r"\text{Bob}", "Bob", 1.0),
        (None, "4495", r"\binom{31}{28}", 1.0),
        ("", "4495", r"\binom{31}{28}", 1.0),
    ],
)
def test_an_answer_beside_its_question(question: str | None, gold: str, answer: str, value: float) -> None:
    assert compare(answer, gold, question).value == value
    assert verify(f"\\boxed{{{answer}}}", gold, question=question).value == value
    assert grader("math")(f"<answer>{answer}</answer>", {"answer": gold, "question": question}).value == value


@pytest.mark.parametrize("column", ["question", "problem", "prompts"])
def test_the_reward_finds_the_question_in_its_column(column: str) -> None:
    given = {column: ["Compute $2^{10}$."]}
    accuracy = load_reward("accuracy")
    assert accuracy([r"\boxed{2^{10}}"], answer=["1024"], **given) == [0.0]
    assert accuracy([r"\boxed{4^5}"], answer=["1024"], **given) == [1.0]
    conversation = {column: [[{"role": "user", "content": "Compute $2^{10}$."}]]}
    assert accuracy([r"\boxed{2^{10}}"], answer=["1024"], **conversation) == [0.0]


@pytest.mark.parametrize(
    ("answer", "gold", "value"),
    [
        ("2^{10}", "1024", 0.0),
        (r"\sqrt{25}", "5", 0.0),
        ("1024", "1024", 1.0),
        ("x = 1024", "1024", 1.0),
        (r"\frac{10}{4}", "2.5", 1.0),
        (r"1024\text{ ways}", "1024", 1.0),
        ("2^{10}", "2^{10}", 1.0),
        (r"\sqrt{8}", r"2\sqrt{2}", 1.0),
    ],
)
def test_where_answers_must_be_evaluated_a_number_is_written_out(answer: str, gold: str, value: float) -> None:
    assert compare(answer, gold, evaluated=True).value == value
    assert load_reward("accuracy")([f"\\boxed{{{answer}}}"], answer=[gold], evaluated=True) == [value]


@pytest.mark.parametrize(
    ("answer", "gold", "tolerance", "value"),
    [
        ("3.15", "3.14", "0.01", 1.0),
        ("3.16", "3.14", "0.01", 0.0),
        ("3.15", "3.14", 1e-1, 1.0),
        ("3.15", "3.14", None, 0.0),
        ("3.15", "3.14", "", 0.0),
        ("3.15", "3.14", "none", 0.0),
        ("2.01, 1.001", "1, 2", "0.01,0.1", 1.0),
        ("2.2, 1.001", "1, 2", "0.01,0.1", 0.0),
        ("2.01, 1.001, 3", "1, 2", "0.1", 0.0),
    ],
)
def test_a_tolerance_is_what_numbers_may_differ_by(answer: str, gold: str, tolerance: object, value: float) -> None:
    assert verify(f"\\boxed{{{answer}}}", gold, tolerance=tolerance).value == value


@pytest.mark.parametrize(
    ("gold", "near"),
    [
        ("x^2=-4y", "x^2=+4y"),
        ("x^2=-4y", "y^2=-4x"),
        ("x^2=-4y", "x^4=-2y"),
        ("x^2=-4y", "x^3=-4y"),
        (r"A \cup B", r"A \cap B"),
    ],
)
def test_near_misses_of_a_gold_answer_have_each_kind(gold: str, near: str) -> None:
    assert near in near_misses(gold)
    assert gold not in near_misses(gold)


def test_math_verify_is_believed_only_where_it_tells_the_gold_answer_from_near_misses() -> None:
    gold, answer = "x^2=-4y, y=1", "x^4=-2y, y=1"
    assert ask_math_verify(answer, gold)[0] == "wrong"
    assert ask_math_verify(r"2\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} 2k")[0] == "correct"


@pytest.mark.parametrize(
    ("answer", "gold", "outcome"),
    [
        (42, 42, "correct"),
        (42, 42.0, "correct"),
        ("1, 2", [1, 2], "correct"),
        (None, "42", "wrong"),
        ("42", None, "error"),
        ("42", float("nan"), "wrong"),
        ("\ud800", "1", "wrong"),
        ("x" * 10**6, "1", "malformed"),
        ("1", "x" * 10**6, "error"),
    ],
)
def test_what_is_no_text_is_taken_for_one_or_is_an_outcome(answer: object, gold: object, outcome: str) -> None:
    assert compare(answer, gold).outcome == outcome
