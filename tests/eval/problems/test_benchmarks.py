"""The benchmarks: every gold answer passes its own verifier, and what is missing is said in one message."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from eval.problems.benchmarks import BENCHMARKS, benchmark, load_problems
from eval.problems.data import DataError
from eval.problems.generated import generate
from eval.problems.protocol import BOXED_STEPS, Generated, Source, grader
from eval.problems.table import table
from recipes.task_data import SOURCES
from tests.sandboxes import needs

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("ZERO_DATA_DIR", ROOT / "../shared/data"))
PAGE = ROOT / "docs" / "benchmarks.md"
ASTRONOMY = "Introduction to Astronomy (8.282J Spring 2006)"
PUBLISHED = [name for name, one in BENCHMARKS.items() if isinstance(one.protocol.data, Source)]


def data_dir(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"no {DATA / name}: set ZERO_DATA_DIR to the benchmark data's folder")
    return DATA


def folder(path, name, rows):
    (path / name).mkdir()
    (path / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def math500(path, rows):
    return load_problems(
        benchmark("math500"), folder(path, "math500", [{"subject": "Algebra", "level": 1, **row} for row in rows])
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[needs(), pytest.mark.slow]) if one.protocol.verifier == "code" else name
        for name, one in BENCHMARKS.items()
    ],
)
def test_every_gold_answer_passes_its_own_verifier_and_none_is_missing(name):
    one = benchmark(name)
    problems, dropped = load_problems(one, data_dir(name) if name in PUBLISHED else None)
    assert dropped == []
    assert len(problems) == one.problems
    assert len({problem.id for problem in problems}) == one.problems
    assert all(problem.id.startswith("reasoning_gym/" if name == "puzzles" else f"{name}/") for problem in problems)
    assert all((problem.subject is None) == (one.subject is None) for problem in problems)
    assert all((problem.level is None) == (one.level is None) for problem in problems)


@pytest.mark.parametrize(
    "name", [name for name, one in BENCHMARKS.items() if one.protocol.verifier not in ("code", "reasoning_gym")]
)
def test_a_right_answer_in_the_form_that_the_instruction_asks_for_is_correct_and_another_is_not(name):
    one = benchmark(name)
    problem = load_problems(one, data_dir(name) if name in PUBLISHED else None, limit=1).problems[0]
    grade = grader(one.protocol)
    assert "boxed" in one.protocol.instruction
    assert grade(f"So it is $\\boxed{{{problem.answer}}}$.", problem).outcome == "correct"
    assert grade("So it is $\\boxed{123456789}$.", problem).outcome == "wrong"
    assert grade("So it is clear.", problem).outcome == "no_answer"


@needs()
@pytest.mark.parametrize(
    ("name", "shown"), [("humaneval", "has_close_elements"), ("mbpp", 'assert remove_Occ("hello","l")')]
)
def test_a_program_is_asked_for_and_graded_by_its_tests(name, shown):
    one = benchmark(name)
    problem = load_problems(one, data_dir(name), limit=1).problems[0]
    grade = grader(one.protocol)
    assert shown in problem.question
    assert "```python" in one.protocol.instruction
    assert grade(f"```python\n{problem.answer}\n```", problem).outcome == "correct"
    assert grade("```python\nimport os; os._exit(0)\n```", problem).outcome == "wrong"
    assert grade("So it is clear.", problem).outcome == "no_answer"


# The first row of each set, read by hand.
@pytest.mark.parametrize(
    ("name", "problem_id", "starts", "answer", "subject", "level"),
    [
        ("gsm8k", "gsm8k/test/0", "Janet", "18", None, None),
        ("math", "math/test/0", "How many vertical asymptotes", "2", "Algebra", "3"),
        ("math500", "math500/test/0", "Convert the point", r"\left( 3, \frac{\pi}{2} \right)", "Precalculus", "2"),
        ("aime24", "aime24/test/0", "Every morning Aya", "204", None, None),
        ("aime25", "aime25/test/0", "Find the sum of all integer bases", "70", None, None),
        ("amc23", "amc23/test/0", "Cities $A$ and $B$", "27", None, None),
        ("minerva_math", "minerva_math/test/0", "Each of the two Magellan telescopes", "1.6", ASTRONOMY, None),
        ("olympiadbench", "olympiadbench/test/0", "Xenia and Sergey", "2", "Combinatorics", None),
    ],
)  # fmt: skip
def test_a_limit_takes_the_first_problems_of_the_set(name, problem_id, starts, answer, subject, level):
    problems = load_problems(benchmark(name), data_dir(name), limit=3).problems
    first = problems[0]
    assert len(problems) == 3
    assert (first.id, first.answer, first.subject, first.level) == (problem_id, answer, subject, level)
    assert first.question.startswith(starts)


def test_the_error_that_olympiadbench_allows_a_numeric_answer_is_granted_to_that_row_alone():
    one = benchmark("olympiadbench")
    problems = load_problems(one, data_dir("olympiadbench")).problems
    ((tolerant, answer),) = [(problem, problem.answer) for problem in problems if problem.columns]
    grade = grader(one.protocol)
    assert (answer, tolerant.columns) == ("4.2", {"error": "1e-1"})
    given = [f"\\boxed{{{value}}}" for value in ("4.3", "4.1", "4.31", "0.05", "4.2\\%")]
    assert [grade(text, tolerant).outcome for text in given] == ["correct", "correct", "wrong", "wrong", "correct"]
    exact = replace(tolerant, columns={})
    assert [grade(text, exact).outcome for text in given] == ["wrong", "wrong", "wrong", "wrong", "correct"]


def test_a_context_comes_before_its_question(tmp_path):
    row = {"question": "Find $x$.", "final_answer": ["1", "2"], "subfield": "Algebra", "error": None}
    rows = [{**row, "context": "Let $x^2 - 3x + 2 = 0$."}, {**row, "context": None}]
    problems = load_problems(benchmark("olympiadbench"), folder(tmp_path, "olympiadbench", rows)).problems
    assert [problem.question for problem in problems] == ["Let $x^2 - 3x + 2 = 0$.\n\nFind $x$.", "Find $x$."]
    assert problems[0].answer == "1, 2"


def test_problems_that_no_answer_solves_are_dropped_with_the_reason_and_the_others_keep_their_ids(tmp_path):
    golds = ["1", "", None, "</answer>", "2"]
    problems, dropped = math500(tmp_path, [{"problem": f"{i}?", "answer": gold} for i, gold in enumerate(golds)])
    assert [problem.id for problem in problems] == ["math500/test/0", "math500/test/4"]
    assert [row for row, _ in dropped] == ["math500/test/1", "math500/test/2", "math500/test/3"]
    assert [reason for _, reason in dropped[:2]] == ["no answer", "no answer"]
    assert dropped[2][1].startswith("gold answer '</answer>' does not pass the verifier: ")


def test_if_all_are_dropped_the_error_shows_why(tmp_path):
    with pytest.raises(DataError, match=r"math500: no problem is left. Dropped: math500/test/0: no question"):
        math500(tmp_path, [{"problem": " ", "answer": "1"}])


def test_a_folder_may_hold_parquet(tmp_path):
    from datasets import Dataset

    rows = [{"problem": "1 + 1", "answer": "2", "subject": "Algebra", "level": 1}]
    Dataset.from_list(rows).to_parquet(str(tmp_path / "math500" / "test.parquet"))
    (problem,) = load_problems(benchmark("math500"), tmp_path).problems
    assert (problem.id, problem.question, problem.answer, problem.level) == ("math500/test/0", "1 + 1", "2", "1")


def test_the_generated_sets_are_held_out_problems_of_every_level_in_turn():
    for name in ("arithmetic", "countdown"):
        one = benchmark(name)
        data = one.protocol.data
        assert isinstance(data, Generated)
        problems = load_problems(one).problems
        assert [problem.level for problem in problems[: len(data.levels)]] == [str(level) for level in data.levels]
        trained = {row["id"] for seed in range(3) for row in generate(name, "train", 500, seed)}
        assert not {problem.id for problem in problems} & trained
        assert load_problems(one, limit=10).problems == problems[:10]


def test_a_limit_beyond_the_set_is_the_whole_set():
    assert len(load_problems(benchmark("countdown"), limit=10_000).problems) == 300


def test_a_task_and_its_benchmark_read_the_same_columns_of_the_same_set():
    for name, task in SOURCES.items():
        data = benchmark(name).protocol.data
        assert isinstance(data, Source)
        assert (task.dataset, task.subset) == (data.dataset, data.subset)
        assert (task.question, task.answer, task.answer_pattern) == (data.question, data.answer, data.answer_pattern)


# -- Errors -------------------------------------------------------------------------------------------------------


def message(call):
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_an_unknown_name_lists_the_benchmarks_and_the_nearest():
    said = message(lambda: benchmark("math-500"))
    assert said.startswith("unknown benchmark 'math-500' (did you mean 'math500'?); there are gsm8k, math, math500, ")
    assert all(name in said for name in BENCHMARKS)
    assert said.endswith("for a data set of your own give a .yaml file that names its columns")


def test_a_missing_folder_is_named_with_what_was_expected_in_it(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    expected = f"no folder math500; expected {tmp_path}/math500/test.jsonl or .parquet"
    said = message(lambda: load_problems(benchmark("math500"), tmp_path))
    assert said == f"--data-dir {tmp_path}: {expected}; it has gsm8k"
    nowhere = tmp_path / "nowhere"
    said = message(lambda: load_problems(benchmark("math500"), nowhere))
    assert said.startswith(f"--data-dir {nowhere}: there is no such folder; expected {nowhere}/math500/test.jsonl")


def test_a_folder_without_a_data_file_or_the_split_says_what_it_needs(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    said = message(lambda: load_problems(benchmark("gsm8k"), tmp_path))
    assert said.startswith(f"gsm8k: {tmp_path}/gsm8k holds no such file; expected a .jsonl or .parquet file")
    (tmp_path / "gsm8k" / "train.jsonl").write_text('{"question": "1?", "answer": "#### 1"}\n')
    said = message(lambda: load_problems(benchmark("gsm8k"), tmp_path))
    assert said == "gsm8k has no split 'test'; it has train"


def test_wrong_columns_list_what_there_is(tmp_path):
    folder(tmp_path, "gsm8k", [{"questions": "1?", "answer": "#### 1"}])
    said = message(lambda: load_problems(benchmark("gsm8k"), tmp_path))
    assert said == "gsm8k has no column 'question' (did you mean 'questions'?); it has questions, answer"


def test_an_empty_set_is_named(tmp_path):
    from datasets import Dataset

    folder(tmp_path, "gsm8k", [])
    said = message(lambda: load_problems(benchmark("gsm8k"), tmp_path))
    expected = "cannot be loaded: it holds no rows; expected one JSON object a line"
    assert said == f"gsm8k: {tmp_path}/gsm8k/test.jsonl {expected}"
    Dataset.from_dict({"problem": [], "answer": []}).to_parquet(str(tmp_path / "math500" / "test.parquet"))
    said = message(lambda: load_problems(benchmark("math500"), tmp_path))
    assert said.startswith(f"math500: {tmp_path}/math500/test.parquet cannot be loaded: it holds no rows")


def test_a_limit_below_one_is_refused():
    assert (
        message(lambda: load_problems(benchmark("countdown"), limit=0))
        == "countdown: limit: got 0, expected at least 1"
    )


# -- The page -----------------------------------------------------------------------------------------------------


def test_the_page_holds_the_table_of_the_benchmarks_as_they_are():
    assert table() in PAGE.read_text()


def test_the_file_that_the_page_shows_can_be_used(tmp_path):
    path = tmp_path / "my_bench.yaml"
    path.write_text(PAGE.read_text().partition("```yaml\n")[2].partition("```")[0])
    row = {"prompt": "1 + 1?", "gold": "So $\\boxed{2}$.", "topic": "sums", "difficulty": 1}
    (tmp_path / "problems.jsonl").write_text(json.dumps(row))
    own = benchmark(str(path))
    (problem,) = load_problems(own).problems
    assert (problem.answer, problem.subject, problem.level) == ("2", "sums", "1")
    assert own.protocol.instruction == BOXED_STEPS
    assert own.protocol.samples == 4
