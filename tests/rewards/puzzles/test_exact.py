"""One right answer, compared as text."""

import pytest

from rewards.puzzles.exact import same


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        (" 42. ", "42"),
        ("42.0", "42"),
        ("1,200", "1200"),
        ("+7", "7"),
        ("-3", "\N{MINUS SIGN}3"),
        ("true", "True"),
        ("NO", "No"),
        ("4 - 7i", "4.0 - 7.0i"),
        ("[44.5, 7]", "['44.50', '7']"),
        ("1 2\n3 4", "1  2 \n 3 4"),
        ("[[1,0],[0,1]]", "[[1, 0], [0, 1]]"),
    ],
)
def test_spellings_of_the_gold_answer_are_right(answer, gold):
    assert same(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("", "42"),
        ("43", "42"),
        ("42 43", "42"),
        ("42 or 43", "42"),
        ("4 2", "42"),
        ("40 + 2", "42"),
        ("12,00", "1200"),
        ("0.5", "1/2"),
        ("130/138", "65/69"),  # which is asked for in lowest terms
        ("0110", "110"),  # digits of another base
        ("1 2 3", "1 2 3 4"),
        ("[7, 44.5]", "[44.5, 7]"),
        ("Bob", "bob"),
        ("True False", "True"),
        ("\N{SUPERSCRIPT TWO}", "2"),
        ("42" + "." * 5, "42"),
    ],
)
def test_everything_else_is_wrong(answer, gold):
    assert not same(answer, gold)


def test_case_is_the_gold_answers_where_it_does_not_matter():
    assert same("Bob", "bob", any_case=True)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["1", "1.", " ", "(", "1.0 ", "-", "'"])
def test_a_megabyte_is_compared_in_linear_time(unit):
    assert not same(unit * 1_000_000, "42")
