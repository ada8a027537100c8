"""Expressions: what is read, what is refused, what is the same, and that nothing takes long."""

from __future__ import annotations

import threading
from fractions import Fraction

import pytest

from rewards.verifier.arithmetic import TooLarge, Undefined
from rewards.verifier.expression import Expression, same_relation, same_value
from rewards.verifier.grammar import Unreadable


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", 14),
        ("-2^2", -4),  # the power binds first
        ("2^3^2", 512),  # 2^9
        ("1/2/2", Fraction(1, 4)),  # from left to right
        ("1/2x", Fraction(5, 2)),  # at x=5: (1/2)x
        (r"\frac12", Fraction(1, 2)),
        (r"2\frac13", Fraction(7, 3)),  # a mixed number
        (r"2\frac{x}{3}", Fraction(10, 3)),  # a product
        (r"\sqrt{\frac49}", Fraction(2, 3)),
        (r"\sqrt[3]{-8}", -2),
        (r"5!", 120),
        (r"\binom{5}{2}", 10),
        (r"|3-x|", 2),
        (r"\lfloor 2.5\rfloor+\lceil 2.5\rceil", 5),
        (r"\log_2 8", 3),
        (r"\sin 30^\circ", Fraction(1, 2)),
        (r"\sin^{-1}1\cdot\frac{2}{\pi}", 1),
        ("x_1+x_1", 14),
        ("sqrt(16)", 4),
    ],
)
def test_the_value_of_an_expression(text: str, value: Fraction | int) -> None:
    got = Expression(text).at({"x": Fraction(5), "x_1": Fraction(7)})
    assert abs(got - value) < 1e-70


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x+",
            "2 3",
            "(x",
            "x)",
            r"\frac{1}",
            r"\frac{1}{2",
            "x^",
            r"\sqrt",
            r"\foo{x}",
            "f(x)",
            "x=1",
            "1,2",
            "5 %",
        ),
        *("∂", r"2\frac{-1}{3}", "(" * 99 + "x" + ")" * 99, "x" + "!" * 99, "2" + "^2" * 99, r"\sin" * 99 + "x"),
    ],
)
def test_what_is_not_understood_to_its_end_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        Expression(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"\sin 2x", r"2\sin x\cos x", True),
        (r"\ln x^2", r"2\ln x", True),  # wherever both are real
        (r"\sqrt{x^2}", "x", False),
        (r"\sqrt{x^2}", "|x|", True),
        (r"e^{i\pi}", "-1", True),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2", True),
        (r"10^{-50}\pi", r"2\cdot 10^{-50}\pi", False),
        (r"e^{\pi\sqrt{163}}", "262537412640768744", False),  # they differ by 7.5e-13
        (r"\frac{\sqrt3}{2}+10^{-40}", r"\frac{\sqrt3}{2}", False),
        (r"2^{2017}+1", "2^{2017}", False),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}", True),  # at whole numbers
        ("ab", "ba", True),
        ("a", "A", False),
        (r"\mathbf{i}", "i", False),
        (r"\cos 20^\circ", r"\cos 20", False),
        (r"180^\circ", r"\pi", False),  # another measure
        (r"\frac{1}{x-1}-\frac{1}{x+1}", r"\frac{2}{x^2-1}", True),
    ],
)
def test_the_same_value_at_every_point_is_the_same(one: str, other: str, same: bool) -> None:
    assert same_value(Expression(one), Expression(other)) is same


@pytest.mark.parametrize("text", ["9^{9^{9^9}}", "(10^{10})!", "e^{10^9}", r"\binom{10^9}{5}", "99^99*" * 90 + "1"])
def test_what_is_too_large_is_not_computed(text: str) -> None:
    with pytest.raises(TooLarge):
        Expression(text).at({})
    assert same_value(Expression(text), Expression("1")) is False
    assert same_value(Expression(text), Expression(text + "+1")) is None


@pytest.mark.parametrize("text", ["1/0", r"\ln 0", "0^{-1}", r"\log_1 5", "0^0", "1.5!"])
def test_what_has_no_value_says_so(text: str) -> None:
    with pytest.raises(Undefined):
        Expression(text).at({})


def sides(equation: str) -> list[Expression]:
    return [Expression(side) for side in equation.split("=")]


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        ("x+y=3", "2x=6-2y", 1),
        ("x=2", "4=2x", -1),
        ("x+y=3", "x-y=3", 0),
        ("x^2=4", "x=2", 0),
        ("x=y", "x^2=xy", 0),
    ],
)
def test_relations_are_the_same_up_to_a_constant_factor(one: str, other: str, factor: int) -> None:
    assert same_relation(sides(one), sides(other)) == factor


def test_threads_do_not_share_their_precision() -> None:
    pair = Expression(r"\sin^2 x+\cos^2 x+\sqrt{2}"), Expression(r"1+\sqrt{2}")
    found: list[bool | None] = []
    threads = [threading.Thread(target=lambda: found.extend(same_value(*pair) for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200
