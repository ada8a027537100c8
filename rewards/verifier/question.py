r"""What the question says: its own expressions are no answers to it, its words are units.

"Compute \(\binom{31}{28}\)" is not answered by \binom{31}{28}, though that is 4495, unless the gold answer says it in
that form. Two texts have the same form if they hold the same signs, in any order: b+a is a copy of a+b.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

from rewards.verifier.latex import split_name
from rewards.verifier.numeric import quantity
from rewards.verifier.spelling import plain, tidy
from rewards.verifier.units import measure, stem

MAX_LENGTH = 20_000  # characters of a question that are read
MAX_EXPRESSION = 1000
MATHEMATICS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SIGN = re.compile(r"\\[a-zA-Z]+|\d+(?:\.\d+)?|\.\d+|[^\s{}()\[\],;.$]")
_SIDES = re.compile(r"=|<|>|\\(?:leq|geq|neq|approx|equiv|in|to|Rightarrow)(?![a-zA-Z])|[,;:?]")
# More than a whole number or a word.
_STRUCTURE = re.compile(r"\d.*[^\d,\s].*|.*[^\d,\s].*\d|.*[-+*/^_!|\\].*", re.DOTALL)
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d[\d, ]*)?(?:\.\d*)?")

Form = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What one says. Example: Question.of("How many eggs are $2^3$ dozen?") has the form of 2^3, and the word egg."""

    forms: frozenset[Form] = field(default_factory=frozenset)  # of each expression, and of its sides
    text: str = ""  # every sign of its mathematics, to find a part of an expression in
    words: frozenset[str] = field(default_factory=frozenset)
    letters: frozenset[str] = field(default_factory=frozenset)  # that stand for something in its mathematics

    @staticmethod
    def of(text: str | None) -> Question:
        return _question(str(text)[:MAX_LENGTH]) if text else NO_QUESTION

    def says(self, answer: str, gold: str) -> bool:
        """Whether the (tidied, right) answer is the question's own, in a form that the gold answer does not have."""
        if not self.text or self._of_golds_form(answer, gold):
            return False
        value = _value(answer)
        if not _STRUCTURE.fullmatch(value):
            return False
        signs = _signs(value)
        return _form(value) in self.forms or (len(signs) > 2 and f" {' '.join(signs)} " in self.text)

    def mentions(self, label: str) -> bool:
        """Whether an expression, such as a^2+b^2, is a part of one of the question's."""
        signs = " ".join(_signs(plain(label)))
        return bool(signs) and f" {signs} " in self.text

    def _of_golds_form(self, answer: str, gold: str) -> bool:
        mine, wanted = _value(answer), _value(gold)
        plain_numbers = _PLAIN_NUMBER.fullmatch(mine) and _PLAIN_NUMBER.fullmatch(wanted)
        return bool(plain_numbers) or _form(mine) == _form(wanted) or _form(plain(answer)) == _form(plain(gold))


NO_QUESTION = Question()


@functools.lru_cache(maxsize=512)  # a group's completions answer one question
def _question(text: str) -> Question:
    found = [next(filter(None, one.groups())) for one in MATHEMATICS.finditer(text)]
    expressions = [tidy(one) for one in found if len(one) <= MAX_EXPRESSION]
    parts = [part for one in expressions for part in (one, *_SIDES.split(one))]
    values = [value for part in parts for value in (plain(part), _value(part.strip(" .,")))]
    signs = [" ".join(_signs(plain(one))) for one in expressions]
    prose = MATHEMATICS.sub(" ", text)
    return Question(
        forms=frozenset(_form(value) for value in values if value),
        text=f" {' | '.join(signs)} | {' '.join(_signs(tidy(prose)))} ",
        words=frozenset(stem(word) for word in re.findall(r"[^\W\d_]{2,}", text)),
        letters=frozenset(letter for one in expressions for letter in re.findall(r"(?<!\\)[a-zA-Z]|\\[a-z]+", one)),
    )


def _value(text: str) -> str:
    """An answer without its name and its unit; percent is more than a unit."""
    body = split_name(text)[1]
    measured = measure(body)
    return plain(body if measured.unit == "%" else measured.value)


def _signs(text: str) -> list[str]:
    return _SIGN.findall(text)


def _form(text: str) -> Form:
    return tuple(sorted(_signs(text)))


def is_number(text: str) -> bool:
    """Whether a tidied answer is one number, written out: 42, 3/4, 2\\frac{1}{2}, 50%."""
    return quantity(text, letters=True) is not None
