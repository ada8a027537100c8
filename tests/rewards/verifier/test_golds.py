"""Gold answers are made ready when they are loaded, and what can grade them is said."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from eval.problems.data import gold_answer
from recipes.command.main import main
from rewards import compare
from rewards.verifier.golds import normal_gold, summary


@pytest.mark.parametrize(
    ("given", "text", "kind", "changes"),
    [
        ("42", "42", "number", ()),
        (r"\angle APD = 108^\circ", r"108^\circ", "number", ("label",)),
        ("V_1:V_2=11:21", "11:21", "number", ("label",)),
        (r"\text{The value is } 5", "5", "number", ("sentence",)),
        ("The answer is 42.", "The answer is 42.", "number", ()),  # which every comparison leaves out
        ("\x0crac{1}{2}", r"\frac{1}{2}", "number", ("characters",)),
        (r"\frac{1}{2} \text{ or } 0.5", r"\frac{1}{2}", "number", ("alternatives",)),
        (r"1 \text{ or } 2", r"1 \text{ or } 2", "mathematics", ()),
        ("x=5", "x=5", "number", ()),
        ("f(x)=2x", "f(x)=2x", "mathematics", ()),
        ("x+y=3", "x+y=3", "mathematics", ()),
        ("MR=MC", "MR=MC", "mathematics", ()),
        (r"\text{(B)}", r"\text{(B)}", "choice", ()),
        (r"\text{Evelyn}", r"\text{Evelyn}", "word", ()),
        (r"(1,2),(3,4)", "(1,2),(3,4)", "mathematics", ()),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", "mathematics", ()),
        (r"\sum_{k=1}^{n} a_k", r"\sum_{k=1}^{n} a_k", "symbolic", ()),
        (r"\text{two lines}", r"\text{two lines}", "text", ()),
        ("all primes that are 3 modulo 4", "all primes that are 3 modulo 4", "text", ()),
    ],
)
def test_a_gold_answer_made_ready(given: str, text: str, kind: str, changes: tuple[str, ...]) -> None:
    gold = normal_gold(given)
    assert (gold.text, gold.kind, gold.changes) == (text, kind, changes)
    if "alternatives" not in changes:  # whoever answers with both has not decided
        assert compare(given, gold.text).outcome == compare(gold.text, given).outcome == "correct"


def test_a_column_with_broken_characters_is_mended_as_it_is_read() -> None:
    assert gold_answer("\x0crac{1}{2}", None) == r"\frac{1}{2}"


def test_the_summary_counts_kinds_and_changes() -> None:
    golds = [normal_gold(one) for one in ("42", r"\angle A=5^\circ", r"\text{two lines}")]
    assert summary(golds) == [
        "3 gold answers: 2 number, 1 text",
        "1 had a label before the value",
        "1 can be compared only as text: an answer in other words is refused",
    ]


def test_the_command_makes_a_file_ready_and_can_leave_out_what_only_text_grades(tmp_path) -> None:
    data, output = tmp_path / "data.jsonl", tmp_path / "ready.jsonl"
    rows = [{"id": i, "gold": gold} for i, gold in enumerate(["42", r"\angle A=5^\circ", r"\text{two lines}"])]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["rewards", "golds", "--data", str(data), "--column", "gold"]
    result = CliRunner().invoke(main, [*words, "--output", str(output), "--drop-text"])
    assert result.exit_code == 0, result.output
    assert "3 gold answers: 2 number, 1 text" in result.output
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert written == [
        {"id": 0, "gold": "42", "gold_kind": "number"},
        {"id": 1, "gold": r"5^\circ", "gold_kind": "number"},
    ]
    refused = CliRunner().invoke(main, ["rewards", "golds", "--data", str(data)])
    assert refused.exit_code == 2
    assert "no column 'answer'" in refused.output
