"""Paired comparison of two models, against its definitions."""

import itertools
import json
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from eval.stats.compare import CompareError, compare, compare_folders, unshared
from eval.stats.compare_text import render
from eval.stats.intervals import paired_difference
from eval.stats.permutation import sign_flip
from eval.store import write_parquet
from tests.generations import failed, generation, graded

# -- p-values ------------------------------------------------------------------------------------------------------


def every_sign(differences: list[Fraction]) -> float:
    """The sign-flip test by its definition."""
    sums = [
        abs(sum(sign * difference for sign, difference in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(other >= abs(sum(differences)) for other in sums) / len(sums)


@pytest.mark.parametrize("seed", range(30))
def test_sign_flip_is_the_share_of_all_signs(seed):
    chance = random.Random(seed)
    samples = chance.choice([1, 2, 8])
    differences = [Fraction(chance.randint(-samples, samples), samples) for _ in range(chance.randint(1, 10))]
    assert sign_flip(differences) == pytest.approx(every_sign(differences), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_unequal_numbers_of_samples_are_exact_as_well(seed):
    chance = random.Random(seed)
    differences = [Fraction(chance.randint(-5, 5), chance.randint(5, 9)) for _ in range(8)]
    assert sign_flip(differences) == pytest.approx(every_sign(differences), abs=1e-12)


@pytest.mark.parametrize(("to_b", "to_a"), [(1, 0), (5, 0), (9, 2), (3, 3), (40, 22), (700, 610)])
def test_with_one_sample_it_is_mcnemars_exact_test(to_b, to_a):
    n = to_b + to_a
    tail = sum(math.comb(n, i) for i in range(max(to_b, to_a), n + 1)) / 2**n
    differences = [Fraction(1)] * to_b + [Fraction(-1)] * to_a + [Fraction(0)] * 100
    assert sign_flip(differences) == pytest.approx(min(2 * tail, 1.0), rel=1e-9)


def test_models_that_never_differ_have_p_1():
    assert sign_flip([Fraction(0)] * 30) == 1.0


def test_a_grid_too_coarse_for_the_differences_moves_p_little():
    chance = random.Random(0)
    differences = [Fraction(chance.randint(-30, 40), chance.choice([59, 60, 61, 62, 63, 64])) for _ in range(200)]
    size = [float(difference) for difference in differences]
    signs = np.random.default_rng(0).choice([-1, 1], size=(40_000, 200))
    drawn = float((np.abs(signs @ np.array(size)) >= abs(sum(size)) - 1e-9).mean())
    assert sign_flip(differences) == pytest.approx(drawn, abs=0.01)
    assert 0.001 < drawn < 0.5


# -- Comparison ----------------------------------------------------------------------------------------------------


def test_the_difference_is_that_of_the_common_problems():
    found = compare(graded("10", "11", "00", "1?"), graded("11", "11", "10", "0x"))
    assert (found.n, found.samples) == (4, (7 / 4, 7 / 4))
    assert found.a.value == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    assert found.difference.value == pytest.approx((0.5 + 0 + 0.5 - 1) / 4)
    assert (found.difference.low, found.difference.high) == paired_difference([0.5, 1, 0, 1], [1, 1, 0.5, 0], 7 / 4)


def test_swapping_the_models_changes_signs_and_nothing_else():
    a, b = graded("10", "11", "00", "10", "00"), graded("11", "01", "10", "11", "01")
    one, other = compare(a, b), compare(b, a)
    assert one.difference.value == -other.difference.value
    assert (one.p_value, one.n) == (other.p_value, other.n)
    assert (one.detectable, one.problems_needed) == pytest.approx((other.detectable, other.problems_needed))


def test_problems_of_one_side_or_without_a_grade_are_named_and_left_out():
    a = [generation("1"), generation("2"), generation("3", value=None), generation("4")]
    b = [generation("1"), generation("3"), failed("4"), generation("5")]
    found = compare(a, b)
    assert found.n == 1
    assert found.only_a == ("gsm8k/test/2",)
    assert found.only_b == ("gsm8k/test/5",)
    assert found.ungraded == ("gsm8k/test/3", "gsm8k/test/4")


def test_flips_show_both_answers_the_largest_change_first():
    a = graded("1111", "0000", "1100", "1110")
    b = graded("0011", "1111", "1110", "0111")
    found = compare(a, b)
    assert [flip.problem_id for flip in found.flips] == ["gsm8k/test/1", "gsm8k/test/0"]
    flip = found.flips[0]
    assert (flip.gold, flip.share_a, flip.share_b, flip.answer_a, flip.answer_b) == ("18", 0.0, 1.0, "9", "18")


def test_a_model_that_gave_no_answer_flips_to_none():
    silent = generation(value=0.0, outcome="no_answer", extracted=None)
    (flip,) = compare([silent], [generation()]).flips
    assert (flip.answer_a, flip.answer_b) == (None, "18")


def test_nothing_in_common_is_refused():
    with pytest.raises(CompareError, match="A has gsm8k/test/1, B has gsm8k/test/2"):
        compare([generation("1")], [generation("2")])
    with pytest.raises(CompareError, match="no graded problem in common"):
        compare([generation("1")], [failed("1")])
    with pytest.raises(CompareError, match="no graded problem in common"):
        compare([generation("1")], [generation("1", benchmark="math500")])


def test_two_gold_answers_of_one_problem_are_refused():
    with pytest.raises(CompareError, match="gold answer '18' in A and '17' in B"):
        compare([generation()], [generation(answer="17")])


def test_a_single_problem_says_nothing():
    found = compare(graded("0"), graded("1"))
    assert (found.detectable, found.problems_needed, found.samples_needed) == (math.inf, None, None)
    assert found.p_value == 1.0
    assert "One problem says nothing" in render(found)


# -- Power ---------------------------------------------------------------------------------------------------------


def answers(rng: np.random.Generator, chances: np.ndarray, samples: int) -> list:
    rights = rng.binomial(samples, chances)
    return graded(*["1" * right + "0" * (samples - right) for right in rights])


def pair_of(rng: np.random.Generator, problems: int, samples: int, gain: float) -> tuple[list, list]:
    """Two models whose chances on a problem are between 0.2 and 0.7, B's higher by the gain."""
    chances = rng.uniform(0.2, 0.7, problems)
    return answers(rng, chances, samples), answers(rng, chances + gain, samples)


@pytest.mark.slow
@pytest.mark.parametrize(("problems", "samples"), [(100, 1), (30, 8)])
def test_the_detectable_difference_is_shown_four_times_in_five(problems, samples):
    rng = np.random.default_rng(0)
    gain = float(np.mean([compare(*pair_of(rng, problems, samples, 0.1)).detectable for _ in range(20)]))
    shown = [compare(*pair_of(rng, problems, samples, gain)).p_value < 0.05 for _ in range(300)]
    assert 0.72 < sum(shown) / 300 < 0.88


@pytest.mark.slow
@pytest.mark.parametrize(("problems", "samples"), [(100, 1), (30, 8)])
def test_equal_models_are_told_apart_once_in_twenty(problems, samples):
    rng = np.random.default_rng(0)
    shown = [compare(*pair_of(rng, problems, samples, 0.0)).p_value < 0.05 for _ in range(300)]
    assert sum(shown) / 300 < 0.08


def test_the_problems_needed_show_the_difference():
    rng = np.random.default_rng(0)
    needed = [compare(*pair_of(rng, 100, 1, 0.15)).problems_needed for _ in range(200)]
    # By the formula: variance of one difference 2 * mean(p (1 - p)) + 0.15^2 ..., about 0.45;
    # (1.984 + 0.845)^2 * 0.45 / 0.15^2 = 160. The observed difference varies, its median is 0.15.
    assert 110 < np.median(needed) < 220


def test_the_samples_needed_shrink_the_variance_of_sampling_alone():
    rng = np.random.default_rng(0)
    found = [compare(*pair_of(rng, 60, 4, 0.06)) for _ in range(100)]
    needed = [comparison.samples_needed for comparison in found if comparison.samples_needed]
    # All variance is that of sampling: 2 * 0.225 / k a problem; (2.00 + 0.85)^2 * 0.45 / k / 60 = 0.06^2 gives k = 17
    assert 10 < np.median(needed) < 30


def test_no_number_of_samples_helps_where_the_problems_themselves_differ():
    # six problems won, four lost, all for certain: sampling explains nothing
    found = compare(graded(*["0000"] * 6, *["1111"] * 4), graded(*["1111"] * 6, *["0000"] * 4))
    assert found.sampling_variance == 0.0
    assert found.samples_needed is None
    assert found.problems_needed > 10


def test_with_one_sample_its_variance_is_not_known():
    assert compare(graded("1", "0", "0"), graded("1", "1", "0")).samples_needed is None


# -- Folders -------------------------------------------------------------------------------------------------------


def folder(path, protocols: dict[str, dict], **changes):
    path.mkdir()
    results = {name: {"protocol": fields, "protocol_hash": str(fields)} for name, fields in protocols.items()}
    (path / "results.json").write_text(json.dumps(results))
    write_parquet(
        [generation(i, benchmark=name, **changes) for name in protocols for i in range(3)], path / "generations.parquet"
    )
    return path


GREEDY = {"samples": 1, "sampling": {"temperature": 0.0, "max_tokens": 256}}
WARM = {"samples": 1, "sampling": {"temperature": 1.0, "max_tokens": 256}}


def test_folders_are_compared_benchmark_by_benchmark(tmp_path):
    a = folder(tmp_path / "a", {"gsm8k": GREEDY, "math500": GREEDY, "aime24": GREEDY}, value=0.0)
    b = folder(tmp_path / "b", {"math500": GREEDY, "gsm8k": GREEDY, "amc23": GREEDY})
    found = compare_folders(a, b)
    assert [(c.benchmark, c.n, c.difference.value) for c in found] == [("gsm8k", 3, 1.0), ("math500", 3, 1.0)]
    assert unshared(a, b) == (["aime24"], ["amc23"])


def test_two_protocols_are_refused_naming_the_field(tmp_path):
    a, b = folder(tmp_path / "a", {"gsm8k": GREEDY}), folder(tmp_path / "b", {"gsm8k": WARM})
    with pytest.raises(CompareError) as refused:
        compare_folders(a, b)
    assert "sampling.temperature is 0.0 in A and 1.0 in B" in str(refused.value)
    assert "max_tokens" not in str(refused.value)
    assert [c.n for c in compare_folders(a, b, any_protocol=True)] == [3]


def test_problems_with_other_limits_of_tokens_are_refused_and_unknown_ones_are_not(tmp_path):
    a = folder(tmp_path / "a", {"gsm8k": GREEDY}, max_tokens=256)
    b = folder(tmp_path / "b", {"gsm8k": GREEDY}, max_tokens=100)
    with pytest.raises(CompareError, match=r"3 problems had other limits.* gsm8k/test/0: 256 in A, 100 in B"):
        compare_folders(a, b)
    assert [c.n for c in compare_folders(a, b, any_protocol=True)] == [3]
    assert [c.n for c in compare_folders(a, folder(tmp_path / "old", {"gsm8k": GREEDY}))] == [3]


def test_folders_that_cannot_be_compared_say_why(tmp_path):
    a, b = folder(tmp_path / "a", {"gsm8k": GREEDY}), folder(tmp_path / "b", {"math500": GREEDY})
    with pytest.raises(CompareError, match=r"no benchmark in common: .*a has gsm8k, .*b has math500"):
        compare_folders(a, b)
    with pytest.raises(CompareError, match=r"nowhere/results\.json does not exist"):
        compare_folders(a, tmp_path / "nowhere")
    (b / "results.json").write_text("{")
    with pytest.raises(CompareError, match="is not JSON"):
        compare_folders(a, b)


# -- Words ---------------------------------------------------------------------------------------------------------


def test_render_says_who_is_better_and_what_flipped():
    text = render(compare(graded(*"0" * 20, "1", "0"), graded(*"1" * 20, "0", "0")), most=3)
    assert text.startswith("gsm8k: B is better. B - A = +86.4, 95% interval ")
    assert "21 problems flipped, 20 in favour of B:" in text
    assert "gsm8k/test/0  gold 18  A 9 (0% right)  B 18 (100% right)" in text
    assert "and 18 more" in text


def test_render_says_what_would_show_a_difference():
    found = compare(graded(*"0011" * 5), graded(*"0011" * 4, *"0111"))
    text = render(found)
    assert text.startswith("gsm8k: no difference shown. B - A = +5.0")
    assert f"show a difference of {100 * found.detectable:.1f} points" in text
    assert f"The observed one would need {found.problems_needed} problems." in text


def test_render_keeps_an_answer_on_its_line():
    long = generation(value=0.0, extracted="no\nanswer " + "x" * 100)
    assert f"A no answer {27 * 'x'}... (0% right)" in render(compare([long], [generation()]))


def test_render_names_what_was_left_out():
    text = render(compare([generation(0), *[generation(i) for i in range(1, 9)]], [generation(0), generation("x")]))
    assert (
        "Left out, only in A: gsm8k/test/1, gsm8k/test/2, gsm8k/test/3, gsm8k/test/4, gsm8k/test/5 and 3 more" in text
    )
    assert "Left out, only in B: gsm8k/test/x" in text


def test_where_interval_and_p_value_disagree_render_says_so():
    # six of thirty problems got a little better and none worse: the sign is clear, p = 2 / 2^6, its size is not
    rest = ["11110000"] * 10 + ["11111111"] * 10
    found = compare(graded(*["00000000"] * 10, *rest), graded(*["10000000"] * 6, *["00000000"] * 4, *rest))
    assert found.p_value == pytest.approx(2 / 2**6)
    assert found.difference.low < 0
    assert render(found).startswith("gsm8k: on the border, B may be better. B - A = +2.5")
