"""The order `levels`: each subject's level follows the pass rates of its groups, and goes on after a stop as it was."""

from __future__ import annotations

import json

import pytest

from grpo.config import CurriculumSettings
from grpo.signal.curriculum import LevelsOrder, prompt_order
from rewards import Reward

ROWS = [{"subject": subject, "level": level} for subject in ("sums", "words") for level in (0, 1, 2) for _ in range(10)]
RIGHT, WRONG = [Reward(1.0)] * 4, [Reward(0.0)] * 4


def order(**settings) -> LevelsOrder:
    return LevelsOrder(ROWS, seed=0, **{"window": 3, "raise_at": 0.75, "lower_at": 0.1, **settings})


def ask(one: LevelsOrder, positions, rewards) -> list[int]:
    """Ask for the problems of these positions, and record `rewards` for those of `sums` alone."""
    indices = [one.at(position) for position in positions]
    for index in indices:
        if ROWS[index]["subject"] == "sums":
            one.record(index, rewards)
    return indices


def test_a_subject_starts_at_its_lowest_level_and_moves_by_its_own_pass_rates():
    one = order()
    assert {ROWS[index]["level"] for index in ask(one, range(40), [])} == {0}
    # What was asked for before a move says nothing of the new level: each asking moves it once.
    for step, (rewards, level) in enumerate([(RIGHT, 1.0), (RIGHT, 2.0), (WRONG, 1.0), (WRONG, 0.0)], 1):
        ask(one, range(40 * step, 40 * step + 40), rewards)
        assert one.metrics() == {"level/sums": level, "level/words": 0.0}


def test_a_level_moves_when_the_window_is_full_and_begins_a_new_one():
    one = order()
    easy = [index for index, row in enumerate(ROWS) if row == {"subject": "sums", "level": 0}]
    for index in easy[:2]:
        one.record(index, RIGHT)
    one.record(easy[2], [Reward(None)] * 4)  # could not be scored: says nothing
    assert one.metrics()["level/sums"] == 0.0
    one.record(easy[2], RIGHT)
    assert one.metrics()["level/sums"] == 1.0
    for index in easy:
        one.record(index, WRONG)  # groups that were asked for before the move
    assert one.metrics()["level/sums"] == 1.0


def test_a_level_is_asked_in_epochs_and_subjects_by_their_number_of_problems():
    one = order()
    indices = ask(one, range(400), [])
    for subject in ("sums", "words"):
        mine = [index for index in indices if ROWS[index]["subject"] == subject]
        assert 150 < len(mine) < 250
        assert len(set(mine[:10])) == 10


def test_a_resumed_order_goes_on_as_the_one_that_was_not_stopped():
    whole, stopped = order(), order()
    for one in (whole, stopped):
        ask(one, range(30), RIGHT)
    resumed = order()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert resumed.state_dict() == whole.state_dict()
    assert ask(resumed, range(30, 90), WRONG) == ask(whole, range(30, 90), WRONG)
    assert resumed.state_dict() == whole.state_dict()


def test_levels_may_be_text_and_rows_without_one_are_refused():
    texts = [{"level": f"Level {level}"} for level in (1, 5)]
    assert prompt_order(CurriculumSettings(order="levels"), texts, 1, 0).metrics() == {"level": 1.0}
    with pytest.raises(ValueError, match=r"a column level with a number in every row, got None"):
        prompt_order(CurriculumSettings(order="levels"), [{"level": None}], 1, 0)
    with pytest.raises(ValueError, match=r"lower_at: got 0\.8, expected less than raise_at"):
        CurriculumSettings(order="levels", lower_at=0.8)
