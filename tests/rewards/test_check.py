"""`zero rewards check`: each bad reward is caught by name, built-in and other good ones pass, and it always ends."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from recipes.command.main import main
from rewards import RewardError, RewardSettings, verify
from rewards.builtin.countdown import evaluate
from rewards.check import CheckReport, check_reward, corpus, measure, probe
from rewards.check.findings import MEANING
from rewards.check.probe import Probe
from rewards.registry import BUILT_IN
from tests.sandboxes import needs

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]
# A puzzle has metadata, an episode a score; models have tests of their own.
ELSEWHERE = {"environment", "judge", "reasoning_gym", "reward_model"}
BAD = {
    "believes_programs": {"pays-cheating-programs"},
    "raises_on_empty": {"raises"},
    "raises_always": {"raises"},
    "returns_a_string": {"wrong-type"},
    "returns_strings": {"wrong-type"},
    "returns_one_value": {"wrong-length"},
    "returns_nan": {"not-finite"},
    "dies": {"dies"},
    "executes": {"executes-completions"},
    "uniform": {"not-deterministic"},
    "coin_flip": {"not-deterministic"},
    "coin_flip_for_right_answers": {"not-deterministic"},
    "hash_of_the_text": {"not-deterministic"},
    "counts_its_calls": {"not-deterministic"},
    "seeded_in_each_call": {"batch-dependent"},
    "shortest_wins": {"batch-dependent"},
    "pays_unfinished_thinking": {"pays-unfinished-thinking"},
    "half_for_unfinished_thinking": {"pays-unfinished-thinking", "pays-empty", "pays-garbage"},
    "likes_unfinished_thinking": {"pays-unfinished-thinking"},
    "pays_answer_in_thinking": {"pays-answer-in-thinking"},
    "any_box": {"accepts-lists-of-guesses", "pays-text-after-answer"},
    "box_as_a_list": {"accepts-lists-of-guesses", "pays-text-after-answer", "pays-echoed-question"},
    "ignores_the_tail": {"pays-text-after-answer"},
    "closes_the_answer": {"pays-unclosed-answer"},
    "finds_it_in_the_question": {"pays-echoed-question"},
    "pays_empty": {"pays-empty"},
    "likes_silence": {"pays-empty"},
    "dislikes_words": {"pays-empty"},
    "pays_garbage": {"pays-garbage"},
    "pays_near_misses": {"false-positive"},
    "same_spelling_only": {"false-negative"},
    "open_format": {"pays-unfinished-thinking"},
    "format_with_a_tail": {"pays-text-after-answer"},
}
GOOD = [
    "verified",
    "verified_or_minus_one",
    "verified_messages",
    "whole_numbers_only",
    "brevity",
    "length",
    "words",
    "nothing_for_nothing",
]
GRADES = {  # types of gold answers that the built-in rewards are exercised on
    "accuracy": {"integer", "decimal", "fraction", "expression", "tuple", "choice"},
    "cosine_length": {"integer", "decimal", "fraction", "expression", "tuple", "choice"},
    "code": {"program"},
    "countdown": {"countdown"},
    "multiple_choice": {"choice"},
    "number": {"integer", "decimal", "fraction"},
}
SLOW = {"sleeps": "slow", "hangs": "hangs", "hangs_on_garbage": "hangs"}


@functools.cache
def checked(name: str, timeout: float = 60.0) -> CheckReport:
    return check_reward(RewardSettings(name=f"bad_rewards.py:{name}", timeout=timeout), base_dir=HERE)


def names(report: CheckReport) -> set[str]:
    return {finding.name for finding in report.findings}


def zero(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["rewards", *map(str, arguments)], env={"COLUMNS": "80"})
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def written(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# -- by name ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs()) if name == "believes_programs" else name for name in BAD]
)
def test_a_bad_reward_is_caught_by_name_and_of_nothing_else(name: str) -> None:
    assert names(checked(name)) == BAD[name]


def test_that_silence_is_paid_best_is_said_where_the_difference_is_small() -> None:
    assert any("saying nothing" in note for note in checked("brevity").notes)
    assert not any("saying nothing" in note for note in checked("words").notes)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name not in ELSEWHERE])
def test_a_built_in_reward_passes_and_is_exercised(name: str) -> None:
    report = check_reward(name)
    assert report.findings == ()
    assert set(report.grades) == GRADES.get(name, set())
    assert report.low is not None
    assert any(note.startswith("does not look at the answer") for note in report.notes) == (name not in GRADES)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_reward_of_a_user_passes(name: str) -> None:
    assert checked(name).findings == ()


def test_every_finding_is_one_that_some_bad_reward_shows() -> None:
    assert set.union(*BAD.values()) | set(SLOW.values()) == set(MEANING)


# -- it always ends --------------------------------------------------------------------------------


def test_a_reward_that_sleeps_is_slow_and_little_of_the_corpus_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 2.0)
    monkeypatch.setattr(probe, "SECONDS_TOGETHER", 0.7)
    report = checked("sleeps")
    assert names(report) == {"slow"}
    assert report.latency["p50"] > 0.3
    tried = r"of \d+ plain completions were tried, for they took more than 2 seconds"
    assert any(re.search(tried, one) for one in report.notes), report.notes


def test_a_reward_that_hangs_from_the_first_call_on_is_called_once_and_killed() -> None:
    before = psutil.Process().children(recursive=True)
    report = checked("hangs", timeout=1.0)
    assert names(report) == {"hangs"}
    assert report.completions == 1
    assert "took more than 1 seconds" in report.findings[0].summary
    assert psutil.Process().children(recursive=True) == before


def test_a_reward_that_hangs_on_garbage_is_judged_on_the_rest() -> None:
    report = checked("hangs_on_garbage", timeout=3.0)
    assert names(report) == {"hangs"}
    assert report.findings[0].count == 2
    assert {row.kind: row.mean for row in report.table}["right"] == 1.0


# -- what is reported ------------------------------------------------------------------------------


def test_an_exception_is_reported_with_its_kind_of_completion_message_and_line() -> None:
    (finding,) = checked("raises_on_empty").findings
    line = next(n for n, text in enumerate((HERE / "bad_rewards.py").read_text().splitlines(), 1) if "text[0]" in text)
    assert finding.summary.startswith("1 completion (empty): ")
    assert "raised IndexError: string index out of range" in finding.summary
    assert f"bad_rewards.py:{line})" in finding.summary
    assert [example.completion for example in finding.examples] == [""]


def test_an_exploit_is_told_with_its_price() -> None:
    (finding,) = checked("pays_unfinished_thinking").findings
    assert finding.summary == "pays unfinished thinking 1, as much as a right answer (1)"
    assert finding.examples[0].completion == "<think>... <answer>42</answer>"
    half = {one.name: one.summary for one in checked("half_for_unfinished_thinking").findings}
    assert half["pays-unfinished-thinking"] == (
        "pays unfinished thinking 0.5, more than a wrong answer (0); a right one gets 1"
    )


def test_gold_answers_that_the_function_cannot_read_are_a_note() -> None:
    report = checked("whole_numbers_only")
    assert report.grades == ("integer",)
    (note,) = report.notes
    assert note.startswith("raises where the gold answer is of type decimal, fraction, expression, tuple, choice")
    assert "ValueError: invalid literal for int()" in note


def test_a_function_for_message_lists_is_told_how_to_get_them() -> None:
    assert checked("unannotated_messages").notes == (
        "raises on every text: if it takes message lists, as for a chat, add --completions messages",
    )
    settings = RewardSettings(name="bad_rewards.py:unannotated_messages", completions="messages")
    assert check_reward(settings, base_dir=HERE).findings == ()


def test_values_none_and_latency_are_counted() -> None:
    report = checked("nothing_for_nothing")
    assert (report.low, report.high) == (1.0, 1.0)
    assert report.none_share == pytest.approx(1 / report.completions)  # one completion of the corpus is empty
    assert 0 < report.latency["p50"] <= report.latency["p95"] <= report.latency["max"]
    assert "gives every completion the same: the policy learns nothing from it here" not in report.notes


# -- the user's file -------------------------------------------------------------------------------


def test_labels_of_the_users_rows_count_mistakes() -> None:
    rows = [
        {"completion": "<answer>42</answer>", "answer": "42", "label": True},
        {"completion": "<answer>42</answer>", "answer": "42", "label": 0},
        {"completion": "so it is 42", "answer": "42", "label": 1},
        {"completion": "it is 41", "answer": "42", "label": False},
        {"completion": "<answer>7</answer>", "answer": "42"},
    ]
    found = {one.name: one for one in check_reward("bad_rewards.py:verified", rows, HERE).findings}
    assert found.keys() == {"false-positive", "false-negative"}
    assert found["false-positive"].summary == "1 of 2 completions of the file are paid though they should not be"
    assert found["false-negative"].summary == "1 of 2 completions of the file are not paid though they should be"
    assert found["false-negative"].examples[0].completion == "so it is 42"


def test_a_file_with_columns_of_its_own_stands_in_for_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(completions, level):\n    return [1 / n for n in level]\n")
    settings = RewardSettings(name="mine.py:f")
    with pytest.raises(RewardError, match=r"needs the column 'level'.*--data"):
        check_reward(settings, base_dir=tmp_path)
    rows = [{"completion": "a", "level": 2}, {"completion": "b", "level": 0}, {"completion": "c", "level": 4}]
    report = check_reward(settings, rows, base_dir=tmp_path)
    assert (report.completions, report.low, report.high) == (3, 0.25, 0.5)
    assert names(report) == {"raises"}
    assert report.notes[0].startswith("the built-in corpus was left out: ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "42"}, "row 2: completion: got None, expected a text or messages"),
        ({"completion": "x"}, "row 2: answer: in this row or in row 1, expected in both"),
        ({"completion": "x", "answer": "42", "label": "yes"}, "row 2: label: got 'yes', expected true or false"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: dict, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        check_reward("format", [{"completion": "x", "answer": "42"}, row])


# -- the corpus ------------------------------------------------------------------------------------


def test_a_plain_wrong_answer_is_as_long_as_the_right_one() -> None:
    for problem in corpus.QUESTIONS:
        assert len(problem.right[0]) == len(problem.wrong[0]), problem.question


def test_the_countdown_answers_are_what_they_are_said_to_be() -> None:
    (problem,) = (problem for problem in corpus.QUESTIONS if problem.type == "countdown")
    solves = {answer: evaluate(answer) for answer in (*problem.right, *problem.wrong)}
    wanted = ([2, 3, 5, 7], 54)
    assert [answer for answer, (used, value) in solves.items() if (sorted(used), value) == wanted] == [*problem.right]


def test_unsound_completions_hold_the_right_answer_and_earn_nothing() -> None:
    problem = corpus.QUESTIONS[0]
    items = [item for form in ("tag", "boxed") for item in corpus.unsound(problem, form)]
    assert all("42" in str(item.completion) for item in items)
    assert [item for item in items if verify(str(item.completion), "42").value] == []


def test_a_probe_scores_alone_what_it_scores_together() -> None:
    items = [item for item in corpus.plain() if item.form in ("tag", "phrase")][:6]
    probe = Probe(RewardSettings(name="accuracy"))
    try:
        trials = probe.alone(items, seconds=60)
        # A right and a wrong answer in a tag, then in a phrase, which `accuracy` does not read; the next problem's tag.
        assert [trial.value for trial in trials] == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        assert probe.together(trials) == []
    finally:
        probe.close()


# -- the command -----------------------------------------------------------------------------------


def test_the_command_exits_0_without_findings_and_1_with_them() -> None:
    code, out, _ = zero("check", "format")
    assert code == 0
    assert out.startswith("format: nothing found")
    code, out, _ = zero("check", f"{HERE}/bad_rewards.py:any_box")
    assert code == 1
    assert "accepts-lists-of-guesses: the policy learns to guess often" in out
    assert r"\boxed{42}$.\nThe answer is" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_report_as_json_is_not_disturbed_by_what_the_reward_prints() -> None:
    code, out, _ = zero("check", f"{HERE}/bad_rewards.py:verified_aloud", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["passed"] is True
    assert report["findings"] == []
    assert report["grades"] == list(checked("verified").grades)


def test_arguments_and_columns_reach_the_reward() -> None:
    code, out, _ = zero("check", "accuracy", "--arg", "read=[hashes]", "--json")
    assert code == 0
    assert json.loads(out)["reads"] == ["hashes"]
    code, out, _ = zero("check", f"{HERE}/bad_rewards.py:verified", "--column", "answer=solution", "--json")
    assert (code, json.loads(out)["grades"][0]) == (0, "integer")


def test_bad_input_exits_2_with_one_message(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", {"completion": "x"})
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"completion": "x"}\n{"completion"')
    for arguments, message in (
        (["acuracy"], "did you mean 'accuracy'"),
        (["nothing.py:f"], "there is no file"),
        (["accuracy", "--data", tmp_path / "none.jsonl"], "there is no such file"),
        (["accuracy", "--data", broken], "broken.jsonl:2"),
        (["accuracy", "--data", rows], "needs the column 'answer'"),
        (["format", "--arg", "strict=1"], "no argument strict"),
        (["format", "--arg", "strict"], "expected KEY=VALUE"),
    ):
        code, out, err = zero("check", *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err
        said = [line for line in err.strip().splitlines() if not line.startswith("checking ")]  # where that takes long
        assert len(said) == 1


def test_list_shows_every_built_in_with_what_it_takes_and_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "nice_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nice-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zero.rewards]\npoliteness = nice_rewards:politeness\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = zero("list")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if line[:1].strip()} == {"reward", *BUILT_IN, "politeness"}
    assert "numbers, target, read=" in out
    assert "nice_rewards:politeness, of nice-rewards" in out
    assert max(map(len, out.splitlines())) <= 80
