r"""Read an expression, in LaTeX or plain text: the grammar of rewards/verifier/expression.py.

    sum      {+|-} product {(+|-) product}          postfix   atom {! | ^\circ}
    product  power {[* / \cdot \times \div] power}  atom      number | name | constant | (sum) | |sum| | \sqrt[n]{x}
    power    postfix [^ exponent]                             | \frac{a}{b} | \binom{a}{b} | \sin x | \log_2 x

Nothing is guessed: what is not understood to its last character is Unreadable. What is read is a function, which
takes the values of the variables and gives that of the expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from rewards.verifier.arithmetic import (
    Value,
    absolute,
    add,
    binomial,
    ceiling,
    context,
    divide,
    factorial,
    floor,
    logarithm,
    multiply,
    named_function,
    power,
    root,
)

MAX_DEPTH = 60  # of nesting

Node = Callable[[Mapping[str, Value]], Value]  # the values of the variables -> the value

_TOKEN = re.compile(r"\s*(?:(\d+\.\d+|\d+|\.\d+)|(\\(?:[a-zA-Z]+|[{}|]))|([a-zA-Z]+)|([-+*/^_!|()\[\]{}]))")
_DERIVATIVE = re.compile(r"\\frac\{d(?:\^|[a-zA-Z])?[^{}]*\}\{d[a-zA-Z]")
_MIXED = re.compile(r"\\frac(?:\{\d+\}(?:\{\d+\}|\d)|\d(?:\d(?!\d)|\{\d+\}))")
_FUNCTIONS = {
    **{f"\\{name}": name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")},
    **{f"\\{name}": name for name in ("asin", "acos", "atan", "ln", "log")},
    **{f"\\arc{name}": f"a{name}" for name in ("sin", "cos", "tan")},
}
_CONSTANTS = {"\\pi": "pi", "e": "e", "i": "j"}
_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar odot"
)
_GREEK = {f"\\{name}" for name in _LETTERS.split()}
_ACCENTS = "mathbf mathcal vec hat overline bar boldsymbol tilde overrightarrow"
_FONTS = {f"\\{name}" for name in _ACCENTS.split()}
_CLOSING = dict(
    zip(
        ("(", "[", "{", "\\{", "|", "\\lvert", "\\lfloor", "\\lceil"),
        (")", "]", "}", "\\}", "|", "\\rvert", "\\rfloor", "\\rceil"),
        strict=True,
    )
)
_TWO = {"\\frac", "\\binom", "\\dbinom", "\\tbinom"}  # commands of two arguments
_TIMES, _OVER = {"*", "\\cdot", "\\times"}, {"/", "\\div"}
_PREFIXED = {*_FUNCTIONS, *_TWO, *_FONTS, *_GREEK, "\\sqrt", "\\pi"}
_KNOWN = {*_PREFIXED, *_CLOSING, *_CLOSING.values(), *_TIMES, *_OVER, "\\circ", *"+-^_!"}
_PLAIN = {"sqrt", "pi", "arcsin", "arccos", "arctan", *_FUNCTIONS.values()}  # words that need no backslash
_BRACKETS: Mapping[str, Callable[[Value], Value]] = {
    "|": absolute,
    "\\lvert": absolute,
    "\\lfloor": floor,
    "\\lceil": ceiling,
}


class Unreadable(ValueError):
    """The text is not an expression of this grammar."""


class Parser:
    """Recursive descent over the grammar at the top of this file; `names` are the variables that were met."""

    def __init__(self, text: str):
        self._tokens = [*_tokens(text), ""]
        self._position = 0
        self._depth = 0
        self._in_bars = False
        self._in_function = False
        self.in_degrees = False  # whether an angle in degrees stands outside of every function
        self.names: set[str] = set()

    def parse(self) -> Node:
        node = self._sum()
        self._expect("")
        return node

    @property
    def _here(self) -> str:
        return self._tokens[self._position]

    def _next(self) -> str:
        token = self._here
        if not token:
            raise Unreadable("it ends too early")
        self._position += 1
        return token

    def _expect(self, token: str) -> None:
        if self._here != token:
            raise Unreadable(f"got {self._here!r}, expected {token!r}")
        self._position += 1

    def _accept(self, *tokens: str) -> str:
        """The next token, taken, if it is one of these; else nothing."""
        return self._next() if self._here in tokens else ""

    def _sum(self) -> Node:
        first = self._signed(1)
        rest: list[tuple[Callable[[Value, Value], Value], Node]] = []
        while self._here in ("+", "-"):
            rest.append((add, self._signed(2)))  # the sign belongs to the product
        return _fold(first, rest)

    def _signed(self, most: int) -> Node:
        """A product and the signs before it: 3--2 may be written, --2 is a slip."""
        negative = False
        for _ in range(most):
            negative ^= self._accept("+", "-") == "-"
        node = self._product()
        return _negative(node) if negative else node

    def _product(self) -> Node:
        first = self._power()
        rest: list[tuple[Callable[[Value, Value], Value], Node]] = []
        while True:
            if self._here in _TIMES or self._here in _OVER:
                operation = divide if self._next() in _OVER else multiply
                negative = bool(self._accept("-"))
                factor = self._power()
                rest.append((operation, _negative(factor) if negative else factor))
            elif self._starts_factor():
                rest.append((multiply, self._power()))
            else:
                return _fold(first, rest)

    def _starts_factor(self) -> bool:
        """Whether a factor follows without a sign. A number does not: 2 3 may be anything; but n2^{n-1} may not."""
        here = self._here
        if here.isdigit() and self._tokens[self._position + 1] == "^":
            before = self._tokens[self._position - 1]
            return before.isalpha() or before in (")", "}")
        return here.isalpha() or here in _PREFIXED or (here in _CLOSING and not (here == "|" and self._in_bars))

    def _power(self) -> Node:
        node = self._atom()
        depth = self._depth
        while sign := self._accept("!", "^"):
            self._deeper()
            if sign == "!":
                node = _apply(factorial, node)
            elif self._accept("\\circ"):
                self.in_degrees |= not self._in_function
                node = _apply(lambda value: multiply(value, context().pi / 180), node)
            else:
                node = _apply(power, node, self._exponent())
        self._depth = depth
        return node

    def _exponent(self) -> Node:
        negative = bool(self._accept("-"))
        node = self._atom()
        if self._accept("^"):  # 2^3^2 is 2^9
            self._deeper()
            node = _apply(power, node, self._exponent())
            self._depth -= 1
        return _negative(node) if negative else node

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"nested more than {MAX_DEPTH} times")

    def _atom(self) -> Node:
        self._deeper()
        token = self._next()
        if token in _CLOSING:
            node = self._bracketed(token)
        elif token in _TWO:
            one, other = self._argument(), self._argument()
            node = _apply(divide if token == "\\frac" else binomial, one, other)
        elif token == "\\sqrt":
            node = self._sqrt()
        elif token in _FUNCTIONS:
            node = self._application(_FUNCTIONS[token])
        elif token in _CONSTANTS and self._here != "_":
            name = _CONSTANTS[token]
            node = lambda _: context().mpc(0, 1) if name == "j" else +getattr(context(), name)  # noqa: E731
        elif token[0].isdigit() or token[0] == ".":
            node = self._number(token)
        else:
            node = self._name(token)
        self._depth -= 1
        return node

    def _number(self, token: str) -> Node:
        """A number, or a mixed one: 2\\frac{1}{3}."""
        following = "".join(self._tokens[self._position : self._position + 7])
        mixed = _MIXED.match(following) if token.isdigit() else None
        if not mixed:
            if re.match(r"\\frac\{?[-+]", following):
                raise Unreadable("a mixed number with a sign inside")
            return _constant(Fraction(token))
        self._next()
        fraction = _apply(divide, self._argument(), self._argument())
        return _apply(add, _constant(Fraction(token)), fraction)

    def _bracketed(self, opening: str) -> Node:
        outer, self._in_bars = self._in_bars, opening == "|"
        node = self._sum()
        self._in_bars = outer
        self._expect(_CLOSING[opening])
        return _apply(_BRACKETS[opening], node) if opening in _BRACKETS else node

    def _argument(self) -> Node:
        """In braces, or one token: \\frac12 is \\frac{1}{2}."""
        token = self._here
        if token.isdigit() and len(token) > 1:
            self._tokens[self._position : self._position + 1] = [token[0], token[1:]]
        return self._atom()

    def _sqrt(self) -> Node:
        degree = _constant(Fraction(2))
        if self._accept("["):
            degree = self._sum()
            self._expect("]")
        return _apply(root, self._atom(), degree)

    def _application(self, name: str) -> Node:
        if name == "log" and self._accept("_"):
            base = self._argument()
            return _apply(logarithm, self._operand(), base)
        exponent = self._exponent() if self._accept("^") else None
        if exponent and name in ("sin", "cos", "tan") and self._is_minus_one(exponent):
            name, exponent = f"a{name}", None
        node = _apply(lambda value: named_function(name, value), self._operand())
        return _apply(power, node, exponent) if exponent else node

    def _is_minus_one(self, node: Node) -> bool:
        try:
            return bool(node({}) == -1)
        except (KeyError, ArithmeticError):
            return False

    def _operand(self) -> Node:
        """What a function is applied to: what is in brackets, or the factors up to a sign, bracket or function."""
        outer, self._in_function = self._in_function, True
        rest: list[tuple[Callable[[Value, Value], Value], Node]] = []
        if self._here in _CLOSING:
            first = self._atom()
        else:
            first = self._power()
            while self._here not in _CLOSING and self._here not in _FUNCTIONS and self._starts_factor():
                rest.append((multiply, self._power()))
        self._in_function = outer
        return _fold(first, rest)

    def _name(self, token: str) -> Node:
        name = token
        if token in _FONTS:
            name += self._raw()
        elif not (token.isalpha() or token in _GREEK):
            raise Unreadable(f"unexpected {token!r}")
        if self._accept("_"):
            name += "_" + self._raw()
        here = self._tokens[self._position : self._position + 3]
        if len(here) == 3 and here[0] + here[2] == "()" and (here[1].isdigit() or here[1] == "t"):
            name += self._next() + self._next() + self._next()  # I(0), f(3), x(t)
        elif self._here == "(" and name in ("f", "g", "h"):
            raise Unreadable("a function without a definition")
        self.names.add(name)
        return lambda values: values[name]

    def _raw(self) -> str:
        """The text of a subscript or of what a font is for."""
        if not self._accept("{"):
            return self._next()
        tokens: list[str] = []
        while not self._accept("}"):
            if self._here == "{":
                raise Unreadable("braces in a name")
            tokens.append(self._next())
        return "".join(tokens)


def _tokens(text: str) -> list[str]:
    if _DERIVATIVE.search(text):
        raise Unreadable("a derivative")
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise Unreadable(f"no part of an expression: {text[position : position + 20]!r}")
        number, command, word, sign = found.groups()
        if command and command not in _KNOWN:
            raise Unreadable(f"{command} is not known")
        tokens += [f"\\{word}"] if word in _PLAIN else word or [number or command or sign]
        position = found.end()
    return tokens


def _constant(value: Value) -> Node:
    return lambda _: value


def _apply(function: Callable[..., Value], *arguments: Node) -> Node:
    return lambda values: function(*(argument(values) for argument in arguments))


def _fold(first: Node, rest: Sequence[tuple[Callable[[Value, Value], Value], Node]]) -> Node:
    """first, then each operation with its right side, from left to right."""

    def node(values: Mapping[str, Value]) -> Value:
        value = first(values)
        for operation, right in rest:
            value = operation(value, right(values))
        return value

    return node if rest else first


def _negative(node: Node) -> Node:
    return lambda values: -node(values)
