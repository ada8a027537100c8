"""Comparing answers: a table of pairs, the benchmarks' own gold answers, and what must not need a worker."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from rewards import compare, verify
from rewards.verifier import math as grading
from rewards.verifier.extract import boxed
from rewards.verifier.numeric import quantity

CASES = [json.loads(line) for line in (Path(__file__).parents[2] / "cases" / "compare.jsonl").open(encoding="utf-8")]
DATA = Path(os.environ.get("ZERO_DATA_DIR", Path(__file__).resolve().parents[3] / "../shared/data"))


def rows(name: str) -> list[dict]:
    if not (DATA / name).is_file():
        pytest.skip(f"no {DATA / name}: set ZERO_DATA_DIR to the benchmark data's folder")
    return [json.loads(line) for line in (DATA / name).open(encoding="utf-8")]


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(item: dict) -> None:
        raise AssertionError(f"asked a worker about {item}")

    monkeypatch.setattr(grading._pool, "ask", refuse)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['gold']!r}-{case['answer']!r}")
def test_compares_as_the_table_says(case: dict) -> None:
    score = compare(case["answer"], case["gold"])
    assert score.outcome == case["outcome"], score.reason
    assert score.value == {"correct": 1.0, "wrong": 0.0, "error": None}[case["outcome"]]


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        *[(answer, "correct") for answer in ("42", "84/2", "$42.00", "42.")],
        *[(answer, "wrong") for answer in ("41", "12+30", "4 2", "=", "+-*/", "", "42,42", "(42", "4" * 1000)],
    ],
)
def test_arithmetic_never_needs_a_worker(answer: str, outcome: str) -> None:
    assert compare(answer, "42").outcome == outcome


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize("split", ["gsm8k/train.jsonl", "gsm8k/test.jsonl"])
def test_every_gsm8k_gold_is_an_exact_number_that_only_itself_answers(split: str) -> None:
    for row in rows(split):
        gold = row["answer"].rpartition("####")[2].strip()
        assert quantity(gold) is not None
        assert verify(row["answer"], gold, read=("hashes",)).value == 1.0
        assert verify(f"<think>t</think><answer>{gold}</answer>", gold).value == 1.0
        assert verify(f"<think>t</think><answer>{gold}1</answer>", gold).value == 0.0


@pytest.mark.usefixtures("no_worker")
def test_every_math500_gold_passes_in_a_tag_and_in_a_box() -> None:
    for row in rows("math500/test.jsonl"):
        gold = row["answer"]
        assert verify(f"<think>t</think><answer>{gold}</answer>", gold).value == 1.0, gold
        assert verify(f"<think>t</think>Thus $\\boxed{{{gold}}}$.", gold).value == 1.0, gold


def test_math500_golds_pass_against_the_solution_they_come_from() -> None:
    for row in rows("math500/test.jsonl")[:100]:
        assert compare(boxed(row["solution"])[-1], row["answer"]).value == 1.0, row["answer"]


def test_a_respelled_gold_passes_and_a_changed_one_fails() -> None:
    for row in rows("math500/test.jsonl")[::5]:
        gold = row["answer"]
        respelled = gold.replace("\\frac", "\\dfrac").replace(" ", "").replace("\\left", "").replace("\\right", "")
        assert compare(f"${respelled}$", gold).value == 1.0, respelled
        for changed in (f"{gold}+1", f"7{gold}", f"{gold},{gold}"):
            assert compare(changed, gold).value == 0.0, changed


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize("opening", ["(", "{", "[", "\\{", "((1,", "\\frac{"])
def test_deep_nesting_is_malformed_in_no_time(opening: str) -> None:
    assert compare(opening * 60, "x").outcome == "malformed"
    assert compare(opening * 400 + "x" + ")" * 400, "x").outcome == "malformed"


PIECES = [
    *(
        "1",
        "23",
        ".",
        ",",
        "/",
        "-",
        "+",
        "=",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "\\{",
        "\\}",
        " ",
        "%",
        "$",
        "^",
        "_",
        "x",
        "e",
        "!",
    ),
    *(
        "\\frac",
        "\\frac{1}{",
        "\\pm",
        "\\sqrt",
        "\\sin ",
        "\\ln(x)+",
        "\\text{",
        "\\boxed{",
        "\\times",
        "\\cup",
        "\\overline{6}",
    ),
    *(
        " or ",
        "\0",
        "\u0664",
        "10^",
        "cm",
        "1<",
        "99^99*",
        "99!*",
        "x^2",
        "\\begin{pmatrix}",
        "&",
        "\\\\",
        "|",
        "π",
        "1,111 ",
        ";",
    ),
]


@pytest.mark.slow
def test_random_texts_get_a_verdict_and_never_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading._pool, "ask", lambda item: ("wrong", ""))
    draw = random.Random(0)
    for _ in range(5000):
        answer, gold = ("".join(draw.choices(PIECES, k=draw.randrange(1, 12))) for _ in range(2))
        assert verify(f"<answer>{answer}</answer>", gold + "1").value in (0.0, 1.0)
        assert compare(gold, gold).outcome in ("correct", "error", "malformed")


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_repeated_to_the_limit_is_settled_in_this_process_and_is_no_answer(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grading._pool, "ask", lambda item: pytest.fail(f"asked a worker about {item}"))
    for gold in ("42", "x^2+y", "1, 2", "(1,2]", "5 cm", "Evelyn", "x+y=3", "1<x<2", "\\sqrt{x}+\\sin x"):
        for answer in (piece * (2000 // len(piece)), "7" + piece * (1900 // len(piece)) + "7"):
            assert compare(answer, gold).value == 0.0


def test_an_unfinished_thought_that_holds_the_answer_earns_nothing() -> None:
    score = verify("<think>It must be <answer>42</answer>", "42")
    assert (score.outcome, score.value, score.extracted) == ("no_answer", 0.0, None)
