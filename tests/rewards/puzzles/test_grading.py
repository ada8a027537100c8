"""Puzzles are graded by their one answer or by their scorer's full mark, and no answer is ever run."""

from __future__ import annotations

import json
import random

import pytest

from rewards import grader, load_reward
from rewards.puzzles.grading import LOOKS, ask_scorer, verdict
from rewards.puzzles.trust import trusted
from rewards.puzzles.worker import _fence

pytest.importorskip("reasoning_gym")


def about(name: str, **more) -> str:
    return json.dumps({"source_dataset": name, **more})


INTEGRAL = about("simple_integration", integrand="6*x**2", variable="x")
JUGS = {"jug_capacities": [3, 5], "target": 5}


def test_one_answer_is_compared_and_the_row_says_which_generator_it_is_of():
    grade = grader("reasoning_gym")
    row = {"answer": "156", "metadata": about("chain_sum")}
    assert grade("<answer>156</answer>", row).outcome == "correct"
    assert grade("<answer>100 + 56</answer>", row).outcome == "wrong"
    assert grade("156", row).outcome == "no_answer"
    assert load_reward("reasoning_gym")(["<answer>156</answer>"], ["156"], [{"source_dataset": "chain_sum"}]) == [1.0]


@pytest.mark.parametrize("metadata", [None, "", "{", "[]", "3", {}, {"source_dataset": "chain_sums"}])
def test_a_row_that_names_no_generator_is_the_outcome_error(metadata):
    score = grader("reasoning_gym")("<answer>1</answer>", {"answer": "1", "metadata": metadata})
    assert (score.outcome, score.value) == ("error", None)
    assert "source_dataset" in score.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("2*x**3 + C", "correct"),
        ("C + 2*x*x*x", "correct"),
        ("3*x**3 + C", "wrong"),
        ("6*x**2", "wrong"),
        ("2*x**3 + C or 1", "malformed"),  # Python takes the first of the two
        ("2*x**", "malformed"),
        ("2*x**3 +", "wrong"),
        ("[2*x**3]", "malformed"),
        ("x.__class__", "malformed"),
    ],
)
def test_of_many_right_answers_the_scorers_full_mark_decides(answer, outcome):
    assert verdict("2*x**3 + C", INTEGRAL, answer)[0] == outcome


def test_countdown_and_24_are_our_own_exact_arithmetic():
    numbers = {"numbers": [8, 5, 10, 6]}
    assert verdict("10*(8 - 5) - 6", about("puzzle24", **numbers), "10*(8-5)-6")[0] == "correct"
    assert verdict("10*(8 - 5) - 6", about("puzzle24", **numbers), "6*4")[0] == "wrong"  # theirs takes it
    assert verdict("", about("countdown", numbers=[2, 3], target=6), "2*3")[0] == "correct"
    assert verdict("", about("countdown", numbers=[2, 3], target=6), "__import__('os').getpid()")[0] == "malformed"


HOSTILE = [
    "__import__('os').system('touch {file}')",
    "open('{file}', 'w').write('x')",
    "(lambda: __import__('subprocess').run(['touch', '{file}']))()",
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', '{file}'])",
    "exec(\"import os; os.system('touch {file}')\")",
]


@pytest.mark.parametrize("name", ["simple_integration", "polynomial_multiplication", "n_queens", "puzzle24", "gcd"])
def test_no_program_among_the_answers_is_run_and_none_gets_to_the_scorer(name, tmp_path):
    entry = about(name, integrand="6*x**2", variable="x", valid_answers=[], numbers=[1, 2])
    for text in HOSTILE:
        outcome, _ = verdict("2*x", entry, text.format(file=tmp_path / "made"))
        assert outcome in ("wrong", "malformed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", HOSTILE)
def test_a_program_that_a_scorer_evaluates_all_the_same_makes_nothing(text, tmp_path):
    for name in ("simple_integration", "polynomial_multiplication", "string_insertion", "binary_matrix"):
        outcome, _ = ask_scorer(text.format(file=tmp_path / "made"), "x", INTEGRAL.replace("simple_integration", name))
        assert outcome in ("wrong", "malformed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("event", ["os.system", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen"])
def test_the_fence_refuses_what_leaves_the_process_while_a_scorer_runs(event, monkeypatch):
    _fence(event, ())
    monkeypatch.setattr("rewards.puzzles.worker._scoring", True)
    with pytest.raises(PermissionError, match=event):
        _fence(event, ())
    with pytest.raises(PermissionError, match="open"):
        _fence("open", ("/etc/passwd", "r", 0))
    with pytest.raises(PermissionError, match="open"):
        _fence("open", (json.__file__, "w", 0))
    _fence("open", (json.__file__, "r", 0))


@pytest.mark.parametrize("tower", ["9**(9**(9**9))", "9**9**9", "x**999", "exp(9**(9**9))", "10**10**10"])
def test_a_tower_of_powers_does_not_get_to_the_scorer(tower):
    assert verdict("2*x**3 + C", INTEGRAL, tower)[0] == "malformed"


@pytest.mark.slow
def test_what_takes_the_scorer_too_long_is_an_outcome_and_the_next_answer_is_graded():
    endless = "(" * 6 + "99" + "**99)" * 6
    assert verdict("2*x**3 + C", INTEGRAL, endless)[0] in ("timeout", "error")
    assert verdict("2*x**3 + C", INTEGRAL, "2*x**3 + C")[0] == "correct"


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_a_megabyte_has_an_outcome(name):
    rng = random.Random(name)
    for text in ("1" * 1_000_000, "(" * 1_000_000, "A=1," * 250_000, "x " * 500_000, "Move disk 1 " * 80_000):
        grade = grader("reasoning_gym")
        score = grade(f"<answer>{text}</answer>", {"answer": "x", "metadata": about(name)})
        assert score.outcome == "malformed"
        short = "".join(rng.choices(text[:8] + " \n", k=1900))
        assert grade(f"<answer>{short}</answer>", {"answer": "x", "metadata": about(name)}).outcome != "correct"


def test_everything_that_there_is_was_measured_and_what_is_trusted_holds():
    from reasoning_gym.factory import DATASETS

    assert set(trusted()) == set(DATASETS) - {"composite"}
    for name, one in trusted().items():
        if one.graded == "refused":
            assert one.reason, name
        else:
            assert one.passed == one.golds >= 10, name
            assert one.near_misses > 500, name
            assert one.accepted == 0, name
