"""The tables of docs/verifier.md say what the verifier does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rewards import compare
from rewards.verifier.extract import read_answer

PAGE = (Path(__file__).parents[2] / "docs" / "verifier.md").read_text(encoding="utf-8")


def table(*header: str) -> list[list[str]]:
    """The rows of the page's table with these columns, without their backquotes."""
    lines = PAGE.splitlines()
    start = next(i for i, line in enumerate(lines) if [cell.strip() for cell in line.split("|")[1:-1]] == list(header))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([re.sub(r"\A`(.*)`\Z", r"\1", cell.strip()) for cell in line.split("|")[1:-1]])
    return rows


@pytest.mark.parametrize("row", table("gold", "answer", "outcome", "rule"), ids=lambda row: f"{row[0]}-{row[1]}")
def test_compares_as_the_page_says(row: list[str]) -> None:
    gold, answer, outcome, _ = row
    score = compare(answer, gold)
    assert score.outcome == outcome, score.reason


@pytest.mark.parametrize("row", table("completion", "outcome", "answer"), ids=lambda row: row[0])
def test_reads_as_the_page_says(row: list[str]) -> None:
    completion, outcome, answer = row
    reading = read_answer(completion)
    assert (reading.failure or "read", reading.answer or "") == (outcome, answer)
