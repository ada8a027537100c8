"""Solved problems that come before the question (few-shot): the first ones of the benchmark's training split.

A data set's own solution is shown where an answer can be read from it under the protocol, else the gold answer in the
first form that the protocol reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.problems.benchmarks import splits_of
from eval.problems.data import DataError, gold_answer, read_rows
from eval.problems.generated import generate
from eval.problems.protocol import Benchmark, Generated, Puzzles, Source, grader
from eval.types import Problem

Shot = tuple[str, str]  # question, answer as a model would write it
SPLITS = ("train", "dev", "validation")  # where examples are taken from, the first that is there
FRAMES = {
    "tag": "<answer>{}</answer>",
    "boxed": r"\boxed{{{}}}",
    "hashes": "#### {}",
    "phrase": "The answer is {}.",
    "last_line": "{}",
}


def load_shots(benchmark: Benchmark, data_dir: Path | None = None) -> list[Shot]:
    """As many as the protocol says. Raises DataError if there are no more of them, or no split to take them from."""
    protocol = benchmark.protocol
    if not protocol.shots:
        return []
    data = protocol.data
    if isinstance(data, Puzzles):
        raise DataError(f"{benchmark.name}: shots: puzzles have answers and no solutions to show; leave shots out")
    rows = _made(data, protocol.shots) if isinstance(data, Generated) else _read(benchmark, data, data_dir)
    grade, found = grader(protocol), []
    for question, solution, answer, columns in rows:
        texts = [solution, *(FRAMES[place].format(answer) for place in protocol.read)]
        problem = Problem("shot", question, answer, columns=columns)
        if written := next((text for text in texts if grade(text, problem).value == 1.0), None):
            found.append((question, written))
        if len(found) == protocol.shots:
            return found
    raise DataError(f"{benchmark.name}: shots: {protocol.shots} examples were asked for, there are {len(found)}")


def _made(data: Generated, n: int) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    for row in generate(data.task, "train", n, data.seed, levels=list(data.levels)):
        yield row["question"], row["answer"], row["answer"], row


def _read(
    benchmark: Benchmark, data: Source, data_dir: Path | None
) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    splits = splits_of(benchmark, data, data_dir)
    split = next((name for name in SPLITS if name in splits and name != data.split), None)
    if split is None:
        raise DataError(
            f"{benchmark.name}: shots: no split to take examples from; expected one of {', '.join(SPLITS)} beside "
            f"{data.split}, there is {', '.join(splits)}"
        )
    for _, row in read_rows(splits, split, benchmark.name, [data.question, data.answer]):
        if answer := gold_answer(row[data.answer], data.answer_pattern):
            yield str(row[data.question]), str(row[data.answer]), answer, row
