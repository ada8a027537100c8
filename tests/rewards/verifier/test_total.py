"""Grading is total: whatever goes wrong for one answer is that answer's outcome `error`, with its reason."""

from __future__ import annotations

import json
import time
from decimal import InvalidOperation
from pathlib import Path

import pytest
from mpmath.libmp import NoConvergence
from typer.testing import CliRunner

from benchmarks.fuzz import pairs
from eval.stats.majority import tally
from recipes.command.main import main
from rewards import RewardSettings, RewardSum, compare, grader, verify
from rewards.verifier import math as grading
from rewards.verifier.pool import Pool

pytestmark = pytest.mark.slow

PAIRS, CPU_SECONDS = 20_000, 60
UNEXPECTED = [RecursionError, MemoryError, OverflowError, AssertionError, NoConvergence, InvalidOperation]
PATCHED = {  # what each reward that reads an answer calls to judge it
    "accuracy": ("rewards.verifier.math.judge", {"answer": ["42"]}, {}),
    "cosine_length": ("rewards.verifier.math.judge", {"answer": ["42"], "completion_ids": [[1]]}, {"max_length": 9}),
    "number": ("rewards.builtin.number.quantity", {"answer": ["42"]}, {}),
    "multiple_choice": ("rewards.builtin.choice.named_options", {"answer": ["B"]}, {}),
    "countdown": ("rewards.builtin.countdown.evaluate", {"numbers": [[42]], "target": [42]}, {}),
}


def fails_with(failure: type[BaseException]):
    def fail(*arguments, **keywords):
        raise failure("no such luck")

    return fail


@pytest.mark.parametrize(
    ("answer", "gold", "outcome"),
    [
        (r"x \neq", "5", "wrong"),
        ("5", r"x \neq", "wrong"),
        (r"\mathbb{R}\setminus\{\}", r"\mathbb{R}", "wrong"),
        (r"\sqrt{x}=10^{-40}", "x+y=3", "wrong"),
        ("x+y=3", r"\sqrt{x}=10^{-40}", "wrong"),
    ],
)
def test_what_ended_a_run_is_an_ordinary_wrong_answer(answer: str, gold: str, outcome: str) -> None:
    assert compare(answer, gold).outcome == verify(f"\\boxed{{{answer}}}", gold).outcome == outcome


def test_no_exception_escapes_and_none_is_needed_for_cut_off_answers_and_mutated_golds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grading._pool, "ask", lambda item: ("wrong", ""))
    graders = [grader(name) for name in ("math", "number", "multiple_choice", "countdown")]
    started = time.process_time()
    for i, (answer, gold) in enumerate(pairs(PAIRS, seed=0)):
        assert gold.strip() == "" or compare(answer, gold).outcome != "error", (answer, gold)
        row = {"answer": gold, "choices": [gold, answer], "numbers": [answer, 3], "target": gold}
        row["question"] = f"Is ${gold}$ ${answer}$?"
        text = f"<answer>{answer}</answer>" if i % 8 < 4 else rf"\boxed{{{answer}}} or \boxed{{{gold}}}"
        outcome = graders[i % 4](text, row).outcome
        assert outcome in ("correct", "wrong", "malformed", "no_answer", "error")
    assert time.process_time() - started < CPU_SECONDS


@pytest.mark.parametrize("failure", UNEXPECTED)
@pytest.mark.parametrize("name", PATCHED)
def test_whatever_the_grading_of_one_answer_raises_is_the_outcome_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, name: str, failure: type[Exception]
) -> None:
    patched, columns, args = PATCHED[name]
    monkeypatch.setattr(patched, fails_with(failure))
    grading._settle.cache_clear()
    (reward,) = RewardSum([RewardSettings(name=name, args=args)]).score([r"\boxed{42}"], columns)
    assert (reward.value, reward.score.outcome, reward.score.extracted) == (None, "error", "42")
    assert failure.__name__ in reward.score.reason
    assert "no such luck" in reward.score.reason


def test_what_the_reading_of_an_answer_raises_is_the_outcome_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.verifier.extract.tidy", fails_with(OverflowError))
    for name in ("math", "number", "multiple_choice", "countdown"):
        score = grader(name)(r"\boxed{1}", {"answer": "1", "numbers": [1], "target": 1})
        assert (score.value, score.outcome, score.reason) == (None, "error", "OverflowError: no such luck")


def test_an_exception_that_cannot_even_be_printed_is_the_outcome_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RecursionError

    monkeypatch.setattr("rewards.verifier.math.judge", fails_with(Mute))
    grading._settle.cache_clear()
    assert compare("1", "2").outcome == "error"


def test_a_failure_is_not_remembered_as_the_verdict_on_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as short_of_memory:
        short_of_memory.setattr("rewards.verifier.math.judge", fails_with(MemoryError))
        grading._settle.cache_clear()
        assert compare("1", "1").outcome == "error"
    assert compare("1", "1").outcome == "correct"


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_the_ends_of_the_program_pass(monkeypatch: pytest.MonkeyPatch, ending: type[BaseException]) -> None:
    monkeypatch.setattr("rewards.verifier.math.judge", fails_with(ending))
    grading._settle.cache_clear()
    with pytest.raises(ending):
        compare("1", "2")


def test_a_wrong_argument_of_the_reward_is_the_callers_error_and_no_outcome() -> None:
    with pytest.raises(ValueError, match="read: got"):
        verify("1", "1", read=("box",))  # type: ignore[arg-type]


def test_a_worker_that_cannot_start_costs_each_pair_that_needs_one_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grading, "_pool", Pool("rewards.nothing", size=1, cpu_seconds=1, memory_gib=1))
    undecided = (r"2\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} 2k")
    scores = grading.compare_all([("1", "1"), undecided, ("1", "2")])
    assert [score.outcome for score in scores] == ["correct", "error", "wrong"]
    assert scores[1].reason.startswith("RuntimeError: the worker rewards.nothing did not start")


def test_what_a_worker_raises_is_the_outcome_error_with_its_type() -> None:
    pool = Pool("tests.pool_worker", size=1, cpu_seconds=1.0, memory_gib=1.0)
    assert pool.ask({"do": "raise"}) == ("error", "ValueError: raised")
    assert pool.ask({"do": "a"}) == ("correct", "a")
    pool.close()


def test_a_vote_whose_comparison_raises_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.stats.majority.same_answer", fails_with(OverflowError))
    assert [vote.count for vote in tally([("x", 1.0), ("y", 0.0), ("x", 1.0)])] == [2, 1]


@pytest.mark.parametrize("command", ["score", "eval"])
def test_the_commands_go_on_after_an_answer_that_cannot_be_graded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    def judge(answer: str, gold: str, *others: object) -> tuple[str, str]:
        return fails_with(ArithmeticError)() if answer == "7" else ("correct", "")

    monkeypatch.setattr("rewards.verifier.math.judge", judge)
    grading._settle.cache_clear()
    rows = [{"completion": rf"\boxed{{{n}}}", "answer": str(n), "problem_id": str(n)} for n in (6, 7, 8)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = {
        "score": ["--reward", "accuracy", "--data", data, "--output", tmp_path / "out.jsonl"],
        "eval": ["--generations", data, "--output", tmp_path / "out"],
    }[command]
    result = CliRunner().invoke(main, [command, *map(str, line)])
    assert result.exit_code == 0, result.output
    if command == "score":
        scored = [json.loads(one) for one in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [one["outcome"] for one in scored] == ["correct", "error", "correct"]
        assert scored[1]["reason"] == "ArithmeticError: no such luck"
    else:
        assert (tmp_path / "out" / "results.json").is_file()
