r"""Whether an answer is the one right answer, as text: nothing is evaluated.

    same("4-7i", "4.0 - 7.0i")    same("[44.5, 7]", "['44.50', '7']")    same("1,200", "1200")

Spelled alike are: white space, above all around signs; quotes, `$` and a final full stop; 7, 7.0 and 7.00; a whole
number with its thousands in groups; True and true. Everything else must be the gold answer's own characters.
"""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d*|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d*)?")  # one that stands alone
_DECIMAL = re.compile(r"(?<![\w.])(\d+)\.(\d*)(?![\d.])")
MAX_NUMBER = 1000  # characters of one that is compared by its value
_WORDS = frozenset({"true", "false", "yes", "no"})


def same(answer: str, gold: str, any_case: bool = False) -> bool:
    """Whether both say the same. Linear in their length. `any_case`: Bob is bob."""
    answer, gold = _spelled(answer), _spelled(gold)
    if any_case or gold.lower() in _WORDS:
        answer, gold = answer.lower(), gold.lower()
    if answer == gold:
        return True
    if max(len(answer), len(gold)) > MAX_NUMBER:
        return False
    return bool(_NUMBER.fullmatch(gold)) and bool(_NUMBER.fullmatch(answer)) and _value(answer) == _value(gold)


def _spelled(text: str) -> str:
    text = re.sub(r"[\"'`$]", "", text.replace("\N{MINUS SIGN}", "-"))
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ?([^\w\s]) ?", r"\1", text)
    if len(text) > 1 and text.endswith(".") and not text.endswith(".."):
        text = text[:-1]
    return _DECIMAL.sub(_shortest, text)


def _shortest(decimal: re.Match[str]) -> str:
    places = decimal[2].rstrip("0")
    return f"{decimal[1]}.{places}" if places else decimal[1]


def _value(number: str) -> Fraction:
    number = number.replace(",", "")
    return Fraction(number[:-1] if number.endswith(".") else number)
