"""Reading the answer: a table of completions, and texts that would hang a careless reader."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rewards.verifier.extract import STRICT, read_answer

CASES = [json.loads(line) for line in (Path(__file__).parents[2] / "cases" / "extract.jsonl").open(encoding="utf-8")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["completion"][:50]))
def test_reads_what_the_table_says(case: dict) -> None:
    reading = read_answer(case["completion"], case.get("read", STRICT))
    assert (reading.failure, reading.answer) == (case["outcome"], case["answer"])


@pytest.mark.parametrize(
    "text",
    [
        "{" * 3_000_000,
        "\\boxed{" * 500_000,
        "\\boxed{" * 300_000 + "}" * 300_000,
        "\\boxed{1}" * 100_000,
        "<answer>" * 300_000,
        "<answer>1</answer>" * 50_000,
        "<think>" * 300_000,
        "</think>" * 300_000,
        "answer is " * 300_000,
        "####" * 500_000,
        "#### " + " " * 2_000_000,
        "answer is" + " ." * 500_000,
        "\0" * 2_000_000,
        "\n" * 2_000_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_megabytes_take_less_than_five_seconds_of_a_core(text: str) -> None:
    started = time.process_time()
    for source in ("tag", "boxed", "hashes", "phrase", "last_line"):
        read_answer(text, (source,))  # type: ignore[arg-type]
    assert time.process_time() - started < 5


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"got \['box'\], expected some of \['tag', 'boxed'"):
        read_answer("1", ("box",))  # type: ignore[arg-type]
