r"""The verdict on an answer, beside the question: what equality.py decides of the answer as it is written, and

    as it is meant      without a sentence around it, a label before it, a condition behind it, with other letters
                        where these mean nothing (statement.py, binding.py): only where it is not right as written
    as it is allowed    no copy of what the question says, no sum to be done where a number is asked (question.py)

The first may make an answer right that was not; the second may only refuse one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rewards.verifier.binding import renamed
from rewards.verifier.equality import Ask, Case, decide
from rewards.verifier.labels import choice_and_rest
from rewards.verifier.question import Question, is_number
from rewards.verifier.spelling import plain, tidy
from rewards.verifier.statement import (
    Statement,
    is_sum,
    split_equation,
    split_label,
    without_condition,
    without_sentence,
)
from rewards.verifier.verdict import Verdict

_STATES = re.compile(r"[=:]|[a-zA-Z]{2}|\\(?:in|forall)(?![a-zA-Z])|\([a-z]\)|_")


def judge(answer: str, gold: str, question: Question, ask: Ask, evaluated: bool = False) -> Verdict:
    """The verdict on two tidied answers. `evaluated`: an answer must be a number where the gold answer is one."""
    case = Case(ask, question.words)
    verdict = decide(answer, gold, case)
    if verdict[0] == "wrong" and _STATES.search(answer + gold):
        for meant, wanted in _as_meant(answer, gold, question):
            other = decide(meant, wanted, case)
            if other[0] == "correct":
                verdict = other
                break
    if verdict[0] != "correct":
        return verdict
    if question.says(answer, gold):
        return "wrong", f"{answer} stands in the question: it is not worked out"
    if evaluated and is_number(gold) and not is_number(without_sentence(answer).rpartition("=")[2]):
        return "wrong", f"{answer} is not evaluated, and {gold} is"
    return verdict


def _as_meant(answer: str, gold: str, question: Question) -> Iterator[tuple[str, str]]:
    """Pairs that mean what the answer and the gold answer say, none twice and not those themselves."""
    seen = {(answer, gold)}
    for one in choice_and_rest(gold):
        yield answer, one
    for mine in _said(answer):
        for wanted in _said(gold):
            if not _same_domain(mine, wanted, question):
                continue
            for pair in _pairs(mine, wanted, question):
                if pair not in seen and all(pair):
                    seen.add(pair)
                    yield pair


def _said(text: str) -> list[Statement]:
    stated = tidy(without_sentence(text))
    found = [without_condition(one) for one in dict.fromkeys((text, stated))]
    return list(dict.fromkeys([Statement(text), *(Statement(tidy(s.value), s.declared, s.restricted) for s in found)]))


def _pairs(answer: Statement, gold: Statement, question: Question) -> Iterator[tuple[str, str]]:
    yield answer.value, gold.value
    for mine in renamed(answer, gold, question):
        yield mine, gold.value
    (label, value), (gold_label, gold_value) = split_label(answer.value), split_label(gold.value)
    if re.fullmatch("[A-Z]{2,}", value if label else gold_value):
        return  # MR=MC says more than MC
    if label.endswith(":") != gold_label.endswith(":") and "" in (label, gold_label):
        yield value, gold_value  # the circle C: x^2+y^2=4
    elif label and gold_label:
        if _key(label) == _key(gold_label):
            yield value, gold_value
    elif label and "=" not in gold.value:
        yield value, gold.value
    elif gold_label and "=" not in answer.value and (not is_sum(gold_label) or question.mentions(gold_label)):
        yield answer.value, gold_value
    side, value = split_equation(answer.value)
    if side and not label and "=" not in gold.value and question.mentions(side):
        yield value, gold.value


def _same_domain(answer: Statement, gold: Statement, question: Question) -> bool:
    """Whether the answer's condition restricts nothing that the gold answer, or the question, does not."""
    if not answer.restricted or answer.restricted == gold.restricted:
        return True
    if gold.restricted:
        return False
    whole = all(letter in "klmn" for letter in answer.declared)
    words = {"Z": {"integer", "whole"}, "N": {"positive", "natural", "nonnegative", "nonzero"}, "Q": {"rational"}}
    return whole or all(words[one] & question.words for one in answer.restricted)


def _key(text: str) -> str:
    return re.sub(r"[\s{}]", "", plain(text))
