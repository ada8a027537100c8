"""The unit of an answer is told from its value."""

from __future__ import annotations

import pytest

from rewards.verifier.spelling import tidy
from rewards.verifier.units import Measure, measure, same_unit


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5\text{ cm}", "5", "cm"),
        (r"12\text{ cm}^2", "12", "cm^2"),
        ("12 square centimeters", "12", "cm^2"),
        (r"5\sqrt{2}\mathrm{~m}", r"5\sqrt{2}", "m"),
        ("5cm", "5", "cm"),
        ("5m", "5m", ""),  # a product
        ("3 n", "3 n", ""),
        (r"\$5", "5", "$"),
        ("-$5", "-5", "$"),
        ("$18 per hour", "18", "$"),
        ("18 miles per hour", "18", "mph"),
        (r"60 \mathrm{~km} / \mathrm{h}", "60", "kph"),
        (r"60 \mathrm{~km} \cdot \mathrm{h}^{-1}", "60", "kph"),
        (r"10\mathrm{~m}/\mathrm{s}^2", "10", "m / s^2"),
        ("5 g/cm^3", "5", "g / cm^3"),
        (r"5\mathrm{~N}\cdot\mathrm{m}", "5", "N m"),
        ("18 eggs", "18", "egg"),
        ("5 million dollars", "5 million", "$"),
        ("50%", "50", "%"),
        (r"90^\circ", "90", r"^\circ"),
        (r"\cos 20^\circ", r"\cos 20^\circ", ""),
        (r"\text{72 clips}", "72", "clip"),
        ("18 thousand", "18 thousand", ""),
        ("18 or more", "18 or more", ""),
        ("2 pi", "2 pi", ""),
        ("no solution", "no solution", ""),
        ("Evelyn", "Evelyn", ""),
    ],
)
def test_the_unit_of_an_answer(text: str, value: str, unit: str) -> None:
    assert measure(tidy(text)) == Measure(value, unit)


def test_a_single_letter_is_a_unit_only_where_that_is_asked() -> None:
    assert measure("5 m", letters=True) == Measure("5", "m")
    assert measure("5 n", letters=True) == Measure("5 n", "")


def test_units_agree_in_any_number_and_where_one_is_missing() -> None:
    assert same_unit("egg", "eggs")
    assert same_unit("", "cm")
    assert not same_unit("cm", "m")
    assert not same_unit("cm", "cm^2")
