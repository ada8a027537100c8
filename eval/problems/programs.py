"""Problems whose answer is a program: how they are asked, and MBPP's test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewards.code.formats import shown

MBPP_TEST = range(11, 511)  # task ids of the test split, as its paper has them (arXiv 2108.07732, section 2.1)


def question_of(row: Mapping[str, Any], question: str, most_asserts: int | None = None) -> str:
    """The question, with what its tests ask of the program's form: names, or the code that it starts from.

    most_asserts: that are shown, of a row whose tests are asserts; None: all of them, as MBPP's paper does.
    """
    if "entry_point" in row and "prompt" in row:  # HumanEval: the question is the beginning of the program
        return f"Complete this program.\n```python\n{str(row['prompt']).strip()}\n```"
    return question + shown(row, most_asserts)


def mbpp_test_split(splits: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a folder with all of MBPP in one file, its test split."""
    for data in splits.values():
        if len(splits) == 1 and "task_id" in data.column_names:
            numbers = [i for i, task in enumerate(data["task_id"]) if task in MBPP_TEST]
            return {"test": data.select(numbers)}
    return splits
