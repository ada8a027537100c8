"""Gold answers that are sentences: a model's short answer will hardly ever be equal to one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.problems.data import BOXED, gold_answer

WORDS = 4  # or more, or a line break, is no name and no unit
MOST = 0.5  # share of the rows
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")  # no LaTeX command
# What the end of a solution looks like, and the setting that reads it; in the order in which they are tried.
PATTERNS = (r"####\s*(.+)", BOXED, r"(?i)answer is:?\s*\$?([^\s]+?)\.?\s*$", r"(-?\d[\d,]*(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Advice:
    """Example: Advice(sentences=93, rows=100, example="She sells ... #### 18", pattern=r"####\\s*(.+)", read="18")"""

    sentences: int
    rows: int
    example: str
    pattern: str | None  # that reads an answer in most of them
    read: str | None  # by it, of the example

    def __str__(self) -> str:
        shown = " ".join(self.example.split())
        shown = shown if len(shown) <= 100 else f"{shown[:60]} ... {shown[-35:]}"
        said = f"{self.sentences} of {self.rows} gold answers are sentences, such as {shown!r}: "
        if self.pattern is None:
            return (
                f"{said}a model's answer must equal all of it. Name another column in task.columns.answer, or set "
                "task.answer_pattern to a regular expression with one group, around the answer"
            )
        # As it stands in YAML: single quotes, in which a backslash is itself.
        quoted = "'" + self.pattern.replace("'", "''") + "'"
        return f"{said}set task.answer_pattern: {quoted}, which reads {self.read!r} there"


def advice(answers: Sequence[str]) -> Advice | None:
    """What to say of the gold answers of a task; None where most of them are short."""
    sentences = [answer for answer in answers if is_sentence(answer)]
    if len(sentences) <= MOST * len(answers):
        return None
    for pattern in PATTERNS:
        read = [gold_answer(answer, pattern) for answer in sentences]
        good = [one for one in read if one and not is_sentence(one)]
        if len(good) > 0.9 * len(sentences):
            return Advice(len(sentences), len(answers), sentences[0], pattern, read[0])
    return Advice(len(sentences), len(answers), sentences[0], None, None)


def is_sentence(answer: str) -> bool:
    return len(_WORD.findall(answer)) >= WORDS or len(answer.strip().splitlines()) > 1
