r"""Letters whose names mean nothing: a function's argument, a sequence's index, a constant of one's own choice.

    f(n)=n is f(x)=x          a_k=2k+1 is a_n=2n+1          f(x)=kx is f(x)=cx

With care: 2n is not 2x. A constant may have another name only if it is declared as one, is the c, k or C that people
choose, or stands in a formula for a function whose other letters all agree; and never if the question names it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from rewards.verifier.question import Question
from rewards.verifier.spelling import TEXT
from rewards.verifier.statement import Statement

MAX_RENAMED = 3
_HEAD = re.compile(
    r"(?P<name>[a-zA-Z]|\\[a-z]+)'?"
    r"(?:\((?P<arguments>[a-z](?:, ?[a-z])?)\)|_(?:\{(?P<braced>[a-z])\}|(?P<index>[a-z]))) ?= ?(?P<body>.+)",
    re.DOTALL,
)
_TEXT_COMMANDS = frozenset([*TEXT.split("|"), "mathbb"])
_LETTER = re.compile(r"\\[a-zA-Z]+(?: ?\{[^{}]*\})?|[a-zA-Z]")
_CHOSEN = frozenset("ckCK")  # what people call a constant of their own
_CONSTANTS = frozenset("abcdkmpqABCDK")
_WHOLE = frozenset("klmn")  # and a whole number
_FIXED = frozenset("eix")  # never renamed: constants of mathematics, and the variable


def renamed(answer: Statement, gold: Statement, question: Question) -> Iterator[str]:
    """The answer with the gold answer's letters, in each way that means the same."""
    text, wanted = answer.value, gold.value
    mine, theirs = _HEAD.fullmatch(text), _HEAD.fullmatch(wanted)
    if mine and theirs and mine["name"] == theirs["name"]:
        arguments, others = _arguments(mine), _arguments(theirs)
        if len(arguments) == len(others) and arguments != others:
            names = dict(zip(arguments, others, strict=True))
            body = _letters(mine["body"])
            if (set(others) - set(arguments)) & body:
                return  # f(x)=xn is not f(n)=nn
            text = wanted[: theirs.start("body")] + with_letters(mine["body"], names)
            yield text
    spare, lacking = _letters(text) - _letters(wanted), _letters(wanted) - _letters(text)
    if not 0 < len(spare) == len(lacking) <= MAX_RENAMED or spare & _FIXED or lacking & _FIXED:
        return
    if _may_be_renamed(spare, lacking, answer, gold, bool(mine or theirs), question):
        for order in itertools.permutations(sorted(lacking)):
            yield with_letters(text, dict(zip(sorted(spare), order, strict=True)))


def _may_be_renamed(
    spare: set[str], lacking: set[str], answer: Statement, gold: Statement, is_function: bool, question: Question
) -> bool:
    declared = answer.declared | gold.declared
    if spare <= declared and (lacking <= declared or not gold.declared):
        return not lacking & question.letters or lacking <= gold.declared
    if lacking <= declared and not answer.declared:
        return not spare & question.letters
    if (spare | lacking) & question.letters:
        return False
    both = spare | lacking
    if len(spare) == 1 and both <= _WHOLE:
        return "\\pi" in gold.value  # the angles x = 2k\\pi
    known = question.text != ""
    return both <= _CONSTANTS and ((len(spare) == 1 and both <= _CHOSEN) or (is_function and (known or len(spare) > 1)))


def _arguments(head: re.Match[str]) -> list[str]:
    return re.findall("[a-z]", head["arguments"] or head["braced"] or head["index"])


def _letters(text: str) -> set[str]:
    """The single letters that stand for something; none in commands, and in what their braces hold as text."""
    return {found for found in (one[0] for one in _tokens(text)) if len(found) == 1}


def with_letters(text: str, names: Mapping[str, str]) -> str:
    return _LETTER.sub(
        lambda found: names.get(found[0], found[0]) if len(found[0]) == 1 else _inside(found[0], names), text
    )


def _inside(command: str, names: Mapping[str, str]) -> str:
    r"""\sqrt{x} has an x in it, \text{x} has none."""
    head, brace, rest = command.partition("{")
    if not brace or head.strip().lstrip("\\") in _TEXT_COMMANDS:
        return command
    return head + brace + with_letters(rest, names)


def _tokens(text: str) -> Iterator[re.Match[str]]:
    for found in _LETTER.finditer(text):
        head, brace, rest = found[0].partition("{")
        if brace and head.strip().lstrip("\\") not in _TEXT_COMMANDS:
            yield from _tokens(rest)
        else:
            yield found
