r"""What stands before a value: a name (x=5) or a choice's letter ((B) 12). And how texts are compared."""

from __future__ import annotations

import re

from rewards.verifier.expression import Expression
from rewards.verifier.grammar import Unreadable
from rewards.verifier.latex import split_name, split_top
from rewards.verifier.numeric import quantity
from rewards.verifier.spelling import plain
from rewards.verifier.units import measure

_EMPTY = "no solution|no solutions|no real solutions|no real roots|no roots|no such number|none|empty set|the empty set"
_REALS = "all real numbers|all reals|any real number"
SYNONYMS = {
    **dict.fromkeys([r"\varnothing", r"\{\}", *_EMPTY.split("|")], r"\emptyset"),
    **dict.fromkeys(
        [r"\mathbb{R}", r"\mathbb R", r"\R", r"(-\infty,+\infty)", *_REALS.split("|")], r"(-\infty,\infty)"
    ),
    **{r"+\infty": r"\infty", "does not exist": "undefined", "dne": "undefined"},
}
_TOTAL = re.compile(r"(?:[a-z](?:\+[a-z])+|[a-z]{2,3})=")  # what was asked for: m+n=25
_LETTER = re.compile(r"\(?[A-Z]\)?|\\(?:text|textbf|mathrm)\{\(?[A-Z]\)?\}")
_CHOICE = re.compile(r"(?i:option|choice)? ?\(?([A-Z])[).:]*")
_LABEL = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\{\(?([A-J])\)? ?\}:? ?|\(([A-J])\) ?)(?=[\w\\$]|-\d|\Z)")
_OPTION = re.compile(r"([A-J])[).:] ?(?=\S)")
_CHOICES = re.compile(r"[A-J]{2,6}")
_POINT = re.compile(r"[A-Z]\([^()]*,")  # the point A(3, 4)


def key(text: str) -> str:
    text = re.sub(r"(?<!\d)(?<!\d,) | (?!\d)", "", plain(text))  # "1 8" and "1, 800" are not 18 and 1,800
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return SYNONYMS.get(text, text)


def without_names(answer: str, gold: str) -> tuple[str, str, bool]:
    """x=5 is 5, unless the other side has another name or is an equation. Also whether the answer lost a name.

    x=1,y=2 is a list of named values, and keeps the names.
    """
    (name, body), (gold_name, gold_body) = split_name(answer), split_name(gold)
    if not name and "=" not in gold and (total := _TOTAL.match(answer)):
        name, body = total[0], answer[total.end() :]
    name, gold_name = "" if several(body) else name, "" if several(gold_body) else gold_name
    if name != gold_name and re.fullmatch("[A-Z]{2,}", gold_body if gold_name else body):
        return answer, gold, False  # MR=MC says more than MC
    if name and name != gold_name and (gold_name or ("=" in gold and not several(gold))):
        return answer, gold, False
    if gold_name and not name and "=" in answer and not several(answer):
        return answer, gold, False
    return body if name else answer, gold_body if gold_name else gold, bool(name)


def without_label(answer: str, gold: str) -> str:
    """The letter of a choice, or the value after it: \\textbf{(B) }12 is B where the gold answer is a letter."""
    label = _LABEL.match(answer) or (_OPTION.match(answer) if _LETTER.fullmatch(gold) else None)
    rest = answer[label.end() :] if label else answer
    if _LETTER.fullmatch(gold):
        named = _CHOICE.fullmatch(answer) or (label if not rest or _is_constant(rest) else None)
        return next(group for group in named.groups() if group) if named else answer
    if _CHOICES.fullmatch(gold) and list(gold) == sorted(set(gold)):  # several are right: A, C and D
        letters = [plain(one).strip("() ") for one in split_top(answer)]
        return "".join(sorted(letters)) if len(letters) > 1 and all(map(_LETTER.fullmatch, letters)) else answer
    if label and rest:
        return rest
    return answer[1:] if gold.startswith("(") and _POINT.match(answer) else answer


def choice_and_rest(gold: str) -> list[str]:
    r"""\text{(B) }12 asks for B, or for 12."""
    label = _LABEL.match(gold)
    rest = gold[label.end() :].strip() if label else ""
    return [next(group for group in label.groups() if group), rest] if label and rest else []


def _is_constant(text: str) -> bool:
    try:
        return not Expression(plain(measure(text).value)).names
    except Unreadable:
        return False


def several(text: str) -> bool:
    return len(split_top(text)) > 1 and quantity(text) is None
