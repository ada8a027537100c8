r"""The benchmarks: where their problems are, and the protocol under which each is run.

    problems, dropped = load_problems(benchmark("gsm8k"), data_dir=None, limit=200)

Sampling follows common practice. Large sets are answered once, greedily. AIME and AMC have 30 or 40 problems, where
one answer each says little: 32 answers a problem (avg@32 as in DAPO, arXiv 2503.14476, section 4.1), drawn and
limited as DeepSeek-R1 was evaluated (temperature 0.6, top-p 0.95, 32,768 tokens: arXiv 2501.12948, section 3).
The generated sets are in no training corpus: a program makes them, and no training run of ours sees their split.

`python -m eval.problems.table` prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from eval.problems.custom import read_benchmark
from eval.problems.data import BOXED, DataError, as_written, gold_answer, open_splits, read_rows
from eval.problems.generated import generate
from eval.problems.programs import mbpp_test_split, question_of
from eval.problems.protocol import (
    ANSWER,
    BOXED_STEPS,
    PROGRAM,
    Benchmark,
    Generated,
    Grade,
    Protocol,
    Puzzles,
    Source,
    grader,
)
from eval.problems.puzzles import puzzles
from eval.types import Problem
from rewards.code.formats import COLUMNS as TESTS_COLUMNS
from rewards.nearest import did_you_mean
from rewards.sandbox import AT_ONCE, together
from rewards.verifier.extract import STRICT
from rewards.verifier.golds import normal_gold

COMPETITION = {"samples": 32, "temperature": 0.6, "top_p": 0.95, "max_tokens": 32_768}
MAA = "(c) Mathematical Association of America; owner's terms"
# Of the generators that can be trusted (rewards/puzzles/trust.json), quick ones of each kind.
PUZZLES = (
    "basic_arithmetic", "calendar_arithmetic", "caesar_cipher", "chain_sum", "course_schedule", "dice",
    "family_relationships", "largest_island", "leg_counting", "maze", "number_sequence", "simple_equations",
    "spell_backward", "syllogism", "word_sorting",
)  # fmt: skip
EXPRESSION = r"Please reason step by step, and put your final expression, without the target, within \boxed{}."

NEEDED = {
    "countdown": ("numbers", "target"),
    "reasoning_gym": ("metadata",),
}  # columns that a verifier cannot do without
TAKEN = {**NEEDED, "multiple_choice": ("choices",), "code": TESTS_COLUMNS}  # columns that it reads
SHOWN = 3  # dropped problems that an error quotes


def _asked(data: Source | Generated | Puzzles, **more: Any) -> Protocol:
    return Protocol(data, **{"instruction": BOXED_STEPS, "max_tokens": 4096, **more})


def _math() -> Iterator[Benchmark]:
    yield Benchmark(
        "gsm8k",
        _asked(Source("openai/gsm8k", "question", "answer", "main", answer_pattern=r"####\s*(.+)"), max_tokens=2048),
        problems=1319,
        source="https://arxiv.org/abs/2110.14168",
        licence="MIT",
    )
    yield Benchmark(
        "math",
        _asked(Source("DigitalLearningGmbH/MATH-lighteval", "problem", "solution", answer_pattern=BOXED)),
        problems=5000,
        source="https://arxiv.org/abs/2103.03874",
        licence="MIT",
        subject="type",
        level="level",
    )
    yield Benchmark(
        "math500",
        _asked(Source("HuggingFaceH4/MATH-500", "problem", "answer")),
        problems=500,
        source="https://arxiv.org/abs/2305.20050",
        licence="MIT",
        subject="subject",
        level="level",
    )
    yield Benchmark(
        "minerva_math",  # the hub's copy with whole solutions, the same file as in --data-dir
        _asked(Source("svc-huggingface/minerva-math", "problem", "solution", answer_pattern=BOXED)),
        problems=272,
        source="https://arxiv.org/abs/2206.14858",
        licence="MIT OpenCourseWare; owners' terms",
        subject="type",
    )
    olympiad = Source(
        "Hothan/OlympiadBench",
        "question",
        "final_answer",
        "OE_TO_maths_en_COMP",  # open-ended, text only, English, competition
        hub_split="train",
        context="context",
        tolerance="error",
    )
    yield Benchmark(
        "olympiadbench",
        _asked(olympiad),
        problems=675,
        source="https://arxiv.org/abs/2402.14008",
        licence="owners' terms",
        subject="subfield",
    )


def _competitions() -> Iterator[Benchmark]:
    yield Benchmark(
        "aime24",
        _asked(Source("HuggingFaceH4/aime_2024", "problem", "answer", hub_split="train"), **COMPETITION),
        problems=30,
        source="https://artofproblemsolving.com/wiki/index.php/2024_AIME_I",
        licence=MAA,
    )
    yield Benchmark(
        "aime25",
        _asked(Source("math-ai/aime25", "problem", "answer"), **COMPETITION),
        problems=30,
        source="https://artofproblemsolving.com/wiki/index.php/2025_AIME_I",
        licence=MAA,
    )
    yield Benchmark(
        "amc23",
        _asked(Source("math-ai/amc23", "question", "answer"), **COMPETITION),
        problems=40,
        source="https://artofproblemsolving.com/wiki/index.php/2023_AMC_12A_Problems",
        licence=MAA,
    )


def _programs() -> Iterator[Benchmark]:
    asked = {"instruction": PROGRAM, "max_tokens": 2048, "verifier": "code"}
    yield Benchmark(
        "humaneval",
        _asked(Source("openai/openai_humaneval", "prompt", "canonical_solution"), **asked),
        problems=164,
        source="https://arxiv.org/abs/2107.03374",
        licence="MIT",
    )
    yield Benchmark(
        "mbpp",
        _asked(Source("google-research-datasets/mbpp", "text", "code", "full"), **asked),
        problems=500,
        source="https://arxiv.org/abs/2108.07732",
        licence="CC BY 4.0",
    )


def _generated() -> Iterator[Benchmark]:
    arithmetic = Generated("arithmetic", problems=600, levels=(1, 2, 3, 4, 5, 6))
    yield _panel(arithmetic, _asked(arithmetic, max_tokens=2048))
    countdown = Generated("countdown", problems=300, levels=(1, 2, 3))
    yield _panel(countdown, _asked(countdown, instruction=EXPRESSION, max_tokens=2048, verifier="countdown"))


def _puzzles() -> Iterator[Benchmark]:
    data = Puzzles({"datasets": list(PUZZLES)}, problems=300)
    yield Benchmark(
        "puzzles",
        _asked(data, instruction=ANSWER, verifier="reasoning_gym", max_tokens=2048),
        problems=data.problems,
        source="https://github.com/open-thought/reasoning-gym",
        licence="Apache-2.0",
        subject="subject",
    )


def _panel(data: Generated, protocol: Protocol) -> Benchmark:
    return Benchmark(
        data.task, protocol, data.problems, source="eval/problems/generated.py", licence="Apache-2.0", level="level"
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    b.name: b for make in (_math, _competitions, _programs, _generated, _puzzles) for b in make()
}


def benchmark(name: str) -> Benchmark:
    """The built-in benchmark of that name, or the one that a .yaml file describes (eval/problems/custom.py).

    Raises:
        DataError: neither, or a file that does not describe one.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if not name.endswith((".yaml", ".yml")):
        raise DataError(
            f"unknown benchmark {name!r}{did_you_mean(name, BENCHMARKS)}; there are {', '.join(BENCHMARKS)}; for a "
            "data set of your own give a .yaml file that names its columns"
        )
    own = read_benchmark(Path(name))
    if own.name in BENCHMARKS:
        raise DataError(f"{name}: name: {own.name} is a built-in benchmark; give another name")
    return own


class Loaded(NamedTuple):
    """Problems to ask, in the set's own order; and those that were dropped, as (id, reason)."""

    problems: list[Problem]
    dropped: list[tuple[str, str]]


def load_problems(benchmark: Benchmark, data_dir: Path | None = None, limit: int | None = None) -> Loaded:
    """The first `limit` problems of a set, those dropped whose gold answer does not pass the benchmark's own verifier.

    Args:
        data_dir: a folder with BENCHMARK/test.jsonl (or .parquet) in it, for a set that is not the user's own file.

    Raises:
        DataError: no such data, folder, split or column, or no problem left. The message says what is there.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{benchmark.name}: limit: got {limit}, expected at least 1")
    loaded = Loaded([], [])
    grade = grader(replace(benchmark.protocol, read=STRICT))  # gold answers are handed over in <answer> tags
    verifier = benchmark.protocol.verifier
    problems = list(_problems(benchmark, data_dir, limit))
    programs = len(problems) if verifier == "code" else 0  # which take processes of their own
    with together(programs), ThreadPoolExecutor(AT_ONCE if programs else 1) as threads:
        reasons = list(threads.map(lambda problem: _unsolvable(problem, verifier, grade), problems))
    for problem, reason in zip(problems, reasons, strict=True):
        if reason:
            loaded.dropped.append((problem.id, reason))
        else:
            loaded.problems.append(problem)
    if not loaded.problems:
        shown = "; ".join(f"{problem}: {reason}" for problem, reason in loaded.dropped[:SHOWN])
        raise DataError(f"{benchmark.name}: no problem is left. Dropped: {shown}")
    return loaded


def _unsolvable(problem: Problem, verifier: str, grade: Grade) -> str | None:
    """Why no answer could be right; None where the gold answer passes."""
    if not problem.question or not problem.answer:
        return f"no {'answer' if problem.question else 'question'}"
    score = grade(f"<answer>{as_written(problem.answer, problem.columns, verifier)}</answer>", problem)
    if score.outcome == "correct":
        return None
    return f"gold answer {problem.answer!r} does not pass the verifier: {score.reason}"


def _problems(benchmark: Benchmark, data_dir: Path | None, limit: int | None) -> Iterator[Problem]:
    data = benchmark.protocol.data
    if isinstance(data, Puzzles):
        return _make_puzzles(benchmark, data, limit)
    return _make(benchmark, data, limit) if isinstance(data, Generated) else _read(benchmark, data, data_dir, limit)


def _make(benchmark: Benchmark, data: Generated, limit: int | None) -> Iterator[Problem]:
    n = min(limit or data.problems, data.problems)
    for row in generate(data.task, data.split, n, data.seed, levels=list(data.levels)):
        yield _problem(benchmark, row["id"], row["question"], row["answer"], row, None)


def _make_puzzles(benchmark: Benchmark, data: Puzzles, limit: int | None) -> Iterator[Problem]:
    try:
        made = puzzles(data.config, {data.split: min(limit or data.problems, data.problems)}, data.seed)
    except ValueError as error:
        raise DataError("\n".join(f"{benchmark.name}: {line}" for line in str(error).split("\n"))) from error
    for row in made.rows[data.split]:
        yield _problem(benchmark, row["id"], row["question"], row["answer"], row, None)


def _read(benchmark: Benchmark, data: Source, data_dir: Path | None, limit: int | None) -> Iterator[Problem]:
    grouped = (benchmark.subject, benchmark.level, data.context, data.tolerance)
    needed = [data.question, data.answer, *NEEDED.get(benchmark.protocol.verifier, ()), *filter(None, grouped)]
    for row_id, row in read_rows(splits_of(benchmark, data, data_dir), data.split, benchmark.name, needed, limit):
        answer = gold_answer(_plain(row[data.answer]), data.answer_pattern)
        parts = [row[column] for column in (data.context, data.question) if column]
        question = "\n\n".join(str(part).strip() for part in parts if part)
        if answer and benchmark.protocol.verifier == "math":
            answer = normal_gold(answer).text
        elif benchmark.protocol.verifier == "code":
            question, answer = question_of(row, question), str(row[data.answer] or "")
        yield _problem(benchmark, row_id, question, answer or "", row, data.tolerance)


def _problem(
    benchmark: Benchmark, row_id: str, question: str, answer: str, row: Mapping[str, Any], tolerance: str | None
) -> Problem:
    taken = (*TAKEN.get(benchmark.protocol.verifier, ()), *filter(None, [tolerance]))
    return Problem(
        id=row_id,
        question=question,
        answer=answer,
        subject=_group(row, benchmark.subject),
        level=_group(row, benchmark.level),
        columns={column: row[column] for column in taken if row.get(column) is not None},
    )


def _group(row: Mapping[str, Any], column: str | None) -> str | None:
    """MATH writes "Level 5" where MATH-500 writes 5."""
    value = row.get(column) if column else None
    return None if value is None else str(value).removeprefix("Level ")


def _plain(value: Any) -> Any:
    """AMC's answers are floats, 27.0 for 27; OlympiadBench keeps each in a list."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def splits_of(benchmark: Benchmark, data: Source, data_dir: Path | None) -> Mapping[str, Any]:
    """The data under the name of the benchmark's split, wherever it comes from."""
    place = benchmark.local or (data_dir and _folder(benchmark.name, data.split, data_dir))
    instead = f"give a folder with {benchmark.name}/{data.split}.jsonl in it: --data-dir DIR"
    try:
        splits = open_splits(str(place or data.dataset), None if place else data.subset, None, instead)
    except DataError as error:
        raise DataError(f"{benchmark.name}: {error}") from error
    if benchmark.name == "mbpp" and data.split not in splits:
        splits = mbpp_test_split(splits)
    given = "train" if place and place.is_file() else None if place else data.hub_split
    return {**splits, data.split: splits[given]} if given and given in splits else splits


def _folder(name: str, split: str, data_dir: Path) -> Path:
    if (folder := data_dir / name).is_dir():
        return folder
    expected = f"expected {folder}/{split}.jsonl or .parquet"
    if not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir}: there is no such folder; {expected}")
    there = ", ".join(sorted(path.name for path in data_dir.iterdir() if path.is_dir())) or "no folder at all"
    raise DataError(f"--data-dir {data_dir}: no folder {name}; {expected}; it has {there}")
