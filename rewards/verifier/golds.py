r"""Gold answers as data sets have them, made ready to compare with.

    normal_gold("\\angle APD = 108^\\circ") == Gold("108^\\circ", "number", ("label",))

Control characters that were backslashes are mended, a label or a sentence around the value is left out, of alternatives
with one value the first stays. Nothing else is changed: what is not understood stays as it was, and its kind says what
can grade it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rewards.verifier.characters import mended
from rewards.verifier.elements import elements_of, rows_of, sides_of
from rewards.verifier.equality import same_answer
from rewards.verifier.expression import Expression
from rewards.verifier.grammar import Unreadable
from rewards.verifier.latex import split_name
from rewards.verifier.numeric import quantity
from rewards.verifier.ranges import intervals
from rewards.verifier.spelling import TEXT, plain, tidy
from rewards.verifier.statement import is_sum, split_label, without_condition, without_sentence
from rewards.verifier.units import measure

# number, mathematics: read exactly. word, choice: compared as such. symbolic: for Math-Verify. text: only letter by
# letter, so that a right answer in other words is refused.
Kind = Literal["number", "mathematics", "word", "choice", "symbolic", "text"]
MAX_LENGTH = 2000

_OR = re.compile(rf"(.+?),? ?(?:\(|\\(?:{TEXT}) ?\{{ ?)*or(?: equivalently)?,? ?\}}? ?(.+?)[)}}]*", re.DOTALL)
_SIMPLE = re.compile(
    r"[a-zA-Z](?:_(?:\w|\{[^{}]*\}))?'*(?:\([^()]*\))?|\([^()]*\)"
)  # x, a_n, f(x), (x,y): they say what of
_PROSE = re.compile(rf"\\(?:{TEXT}) ?\{{[^{{}}]*[a-zA-Z]{{2}}|(?<![\\a-zA-Z])[a-zA-Z]{{4,}}")


@dataclass(frozen=True, slots=True)
class Gold:
    """Example: Gold("42", "number", ("sentence",)) of "The answer is 42"."""

    text: str
    kind: Kind
    changes: tuple[str, ...] = ()  # characters, sentence, label, alternatives


def normal_gold(text: str) -> Gold:
    """What an answer is compared with, and what was changed for it."""
    changes = []
    if len(text) > MAX_LENGTH:
        return Gold(text, "text")
    for change, make in (
        ("characters", mended),
        ("sentence", _without_sentence),
        ("label", _without_label),
        ("alternatives", _first),
    ):
        made = make(text)
        if made.strip() and made != text:
            text = made
            changes.append(change)
    return Gold(text, kind_of(text), tuple(changes))


def _without_sentence(text: str) -> str:
    tidied = tidy(text)
    said = without_sentence(tidied)
    return said if said not in ("", tidied, plain(tidied)) and kind_of(said) in ("number", "mathematics") else text


def _without_label(text: str) -> str:
    tidied = tidy(text)
    label, value = split_label(tidied)
    if not label or is_sum(label) or _SIMPLE.fullmatch(label) or not value or re.fullmatch("[A-Z]{2,}", value):
        return text
    return value if kind_of(value) in ("number", "mathematics") else text


def _first(text: str) -> str:
    either = _OR.fullmatch(text.strip())
    if not either:
        return text
    one, other = either[1].strip().strip("$"), either[2].strip().strip("$")
    return one if same_answer(tidy(other), tidy(one)) else text


def kind_of(text: str) -> Kind:
    """What grades answers to this gold answer."""
    text = without_condition(tidy(text)).value
    if quantity(split_name(text)[1], letters=True) is not None or re.fullmatch(r"\d+(?::\d+)+", text):
        return "number"
    if re.fullmatch(r"\(?[A-J]\)?", plain(text)):
        return "choice"
    if re.fullmatch(r"[a-zA-Z][a-zA-Z'-]{2,}|(?i:no)", plain(text)):
        return "word"
    if _is_read(text):
        return "mathematics"
    return "text" if _PROSE.search(text) else "symbolic"


def _is_read(text: str, levels: int = 2) -> bool:
    body = measure(split_name(text)[1]).value
    if _is_expression(body) or intervals(text) is not None:
        return True
    if rows := rows_of(body):
        return all(_is_read(cell, 0) for row in rows for cell in row)
    if sides := sides_of(text):
        return all(map(_is_expression, sides[1]))
    elements = elements_of(body)[1]
    return levels > 0 and len(elements) > 1 and all(quantity(one) or _is_read(one, levels - 1) for one in elements)


def _is_expression(text: str) -> bool:
    text = plain(text)
    if re.search(r"(?<![\\a-zA-Z])(?!sqrt|sin|cos|tan|log|pi)[a-zA-Z]{4,}", text):
        return False  # a word, which the grammar takes for a product
    try:
        return bool(Expression(text))
    except Unreadable:
        return False


def summary(golds: Iterable[Gold]) -> Sequence[str]:
    """What was changed and what can grade it, in words: one line each."""
    golds = list(golds)
    kinds = Counter(gold.kind for gold in golds)
    changes = Counter(change for gold in golds for change in gold.changes)
    said = {
        "characters": "had characters that were mended",
        "sentence": "had a sentence around the value",
        "label": "had a label before the value",
        "alternatives": "were alternatives with one value",
    }
    lines = [f"{len(golds)} gold answers: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}"]
    lines += [f"{changes[change]} {words}" for change, words in said.items() if changes[change]]
    if kinds["text"]:
        lines.append(f"{kinds['text']} can be compared only as text: an answer in other words is refused")
    return lines
