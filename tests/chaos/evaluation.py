"""The evaluations that faults happen to: of a server that runs already (a stand-in), or of one that they start."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyarrow import parquet

from tests.chaos.enclosure import Attempt
from tests.fakes import CLOSE, FakeOpenAI, asked, serving

LINES, PARQUET = "generations.jsonl", "generations.parquet"
HOSTILE = ["\ud800 half a pair", r"\boxed{x \neq}", r"\boxed{(10^{10})!}", r"\boxed{1/0 \le}", "", "\0"]

Row = Mapping[str, Any]


@dataclass
class Beside:
    """A server that somebody else runs, and what it was asked. `down`: it drops every connection."""

    fake: FakeOpenAI
    down: bool = False
    stored: list[tuple[int, set[str]]] = field(
        default_factory=list
    )  # after each attempt: answers so far, questions stored


@dataclass(frozen=True)
class Evaluation:
    """`zero eval` of `limit` problems. `attached`: to a server that runs already; else it starts vLLM."""

    name: str
    limit: int
    attached: bool = True
    hostile: bool = False  # the model writes what broke graders
    seconds: float = 300.0
    like: Evaluation | None = None
    beside: Beside | None = field(default=None, compare=False)

    @contextmanager
    def opened(self) -> Iterator[Evaluation]:
        if not self.attached:
            yield self
            return
        write = hostile_answer if self.hostile else answer
        beside = Beside(FakeOpenAI(lambda body, k: CLOSE if beside.down else 0.03 + 0.1 * (k % 7 == 0), write=write))
        with serving(beside.fake):
            yield replace(self, beside=beside)

    def line(self, folder: Path) -> list[str]:
        line = ["zero", "eval", "--benchmark", "arithmetic", "--limit", str(self.limit), "--output", str(folder)]
        if self.beside is not None:
            return [*line, "--base-url", self.beside.fake.url, "--concurrency", "4"]
        return [*line, "--model", "tiny", "--max-tokens", "48", "--template", "{question}=<think>"]

    def begun(self, folder: Path) -> bool:
        return (folder / "evaluation.json").is_file()

    def pasted(self, attempt: Attempt) -> list[str]:
        return []

    def stopped(self, folder: Path) -> list[str]:
        return []

    def ended(self, folder: Path) -> None:
        if self.beside is not None:
            questions = {row["question"] for row in stored(folder) if not row["failure"]}
            self.beside.stored.append((len(self.beside.fake.answered), questions))

    def records(self, folder: Path) -> tuple[Sequence[Row], Mapping[str, Any]]:
        results = folder / "results.json"
        return stored(folder), json.loads(results.read_bytes()) if results.is_file() else {}

    def log(self, folder: Path) -> str:
        return ""

    def miscounted(self, found: Any, whole: Any, exact: bool) -> list[str]:
        (rows, results), (all_rows, all_results) = found, whole
        here, there = Counter(map(key, rows)), Counter(map(key, all_rows))
        lines = [f"generations: {len(here - there)} too many, {len(there - here)} missing"] if here != there else []
        lines += [f"generations: {row['problem_id']} failed: {row['failure']}" for row in rows if row["failure"]]
        if self.beside is not None:
            lines += [] if rows == all_rows else ["generations: other rows than of an undisturbed evaluation"]
            lines += [] if results == all_results else ["results.json: other numbers than of an undisturbed evaluation"]
            lines += asked_again(self.beside)
        return lines


def answer(body: dict[str, Any]) -> str:
    """Right, wrong and no answer, by the digits of the question."""
    question = asked(body).partition("\n")[0]
    return [rf"so \boxed{{{eval(question)}}}", r"\boxed{-1}", "I do not know"][sum(map(ord, question)) % 3]


def hostile_answer(body: dict[str, Any]) -> str:
    question = asked(body).partition("\n")[0]
    return HOSTILE[sum(map(ord, question)) % len(HOSTILE)]


def key(row: Row) -> tuple[str, str, int]:
    return row["benchmark"], row["problem_id"], row["sample"]


def stored(folder: Path) -> list[Row]:
    """All that is on the disk, in whichever of the two forms, as often as it is there."""
    rows = parquet.read_table(folder / PARQUET).to_pylist() if (folder / PARQUET).is_file() else []
    if (folder / LINES).is_file():
        for line in (folder / LINES).read_bytes().splitlines():
            with suppress(ValueError):  # torn, or damaged
                rows.append(json.loads(line))
    return rows


def asked_again(beside: Beside) -> list[str]:
    """Questions whose answer was stored when an attempt ended, and that a later one asked all the same."""
    answered = [text.partition("\n")[0] for text in beside.fake.answered]
    again = [question for n, questions in beside.stored for question in answered[n:] if question in questions]
    return [f"{len(again)} stored generations were asked for again"] if again else []


ATTACHED = Evaluation("evaluation", 60)
HOSTILE_ANSWERS = Evaluation("evaluation of hostile answers", 60, hostile=True)
OWN_SERVER = Evaluation("evaluation with its own server", 120, attached=False, seconds=900.0)
