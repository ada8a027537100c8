"""Group advantages against their definition."""

import math

import pytest

from grpo.advantage import STD_FLOOR, group_advantages


def test_group_std_divides_the_centred_rewards_by_their_unbiased_std():
    # rewards 1, 0, 0, 0: mean 0.25, unbiased variance (0.75^2 + 3 * 0.25^2) / 3 = 0.25, std 0.5
    assert group_advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx(
        [0.75 / (0.5 + STD_FLOOR)] + [-0.25 / (0.5 + STD_FLOOR)] * 3
    )


def test_group_mean_only_centres():
    assert group_advantages([1.0, 0.0, 0.5], "group_mean") == pytest.approx([0.5, -0.5, 0.0])


def test_an_unscored_completion_is_outside_the_baseline_and_gets_none():
    assert group_advantages([1.0, None, 0.0], "group_mean") == [0.5, None, -0.5]


@pytest.mark.parametrize("rewards", [[0.3], [0.1, 0.1, 0.1], [None, 0.7], [1.0, 1.0, None]])
@pytest.mark.parametrize("kind", ["group_std", "group_mean"])
def test_groups_without_contrast_have_exactly_zero_advantage(rewards, kind):
    assert group_advantages(rewards, kind) == [None if r is None else 0.0 for r in rewards]


def test_a_group_that_failed_as_a_whole_has_no_advantage_at_all():
    assert group_advantages([None, None]) == [None, None]


def test_advantages_sum_to_zero():
    assert math.isclose(sum(group_advantages([0.2, 1.2, 0.0, 1.0, 1.0])), 0.0, abs_tol=1e-9)
