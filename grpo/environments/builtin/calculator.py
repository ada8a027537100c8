"""A calculator: exact arithmetic over numbers, + - * / // % ** and parentheses. Nothing of a reply is executed."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction

from grpo.environments.builtin.tool import Tool
from rewards.verifier.arithmetic import MAX_BITS, TooLarge, power

INSTRUCTION = (
    "You may use a calculator: write <{tag}>12*(3+4)</{tag}>, end your turn, and you are told the result. "
    "A reply without it is your final answer."
)
MAX_CHARACTERS = 300  # of an expression; bounds the parser's recursion
SHOWN_DIGITS = 12  # of what has no short decimal

_BINARY: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
    ast.Pow: power,
}


class Calculator(Tool):
    """See `Tool`."""

    def __init__(self, tag: str = "calculator", instruction: str = INSTRUCTION, role: str = "user") -> None:
        super().__init__(tag, instruction, role)

    async def use(self, text: str) -> str:
        return calculate(text)


def calculate(expression: str) -> str:
    """The value in words: a whole number, a decimal, or what is wrong with the expression. Never raises."""
    text = expression.strip().replace("^", "**").replace(",", "")
    if len(text) > MAX_CHARACTERS:
        return f"error: {len(text)} characters, at most {MAX_CHARACTERS}"
    try:
        return _shown(_value(ast.parse(text, mode="eval").body))
    except ZeroDivisionError:
        return "error: division by zero"
    except (SyntaxError, RecursionError, MemoryError, ValueError):  # also of brackets that nest too deep
        return "error: not an expression of numbers, + - * / // % ** and parentheses"
    except ArithmeticError:
        return "error: too large, or not defined"


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        if math.isinf(node.value):  # 1e999
            raise TooLarge
        value = Fraction(str(node.value))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        value = _BINARY[type(node.op)](_value(node.left), _value(node.right))
    else:
        raise ValueError("no arithmetic")
    if not isinstance(value, Fraction):  # of an irrational power
        value = Fraction(str(value.real)) if not getattr(value, "imag", 0) else _no_real()
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge
    return value


def _no_real() -> Fraction:
    raise ArithmeticError("no real number")


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        digits = str(value.numerator) if abs(value) < 10**60 else ""
        return digits or f"about 10^{math.floor(math.log10(abs(value.numerator)))}"
    return f"{float(value):.{SHOWN_DIGITS}g}"
