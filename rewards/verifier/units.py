r"""Tell the unit of an answer from its value: "5\sqrt{2}\text{ cm}" is 5\sqrt{2} and "cm".

A unit describes, so one that only one side writes is taken as given by the question. Words that change the value
("5 thousand", "5 or more") are no units, and neither is what could be a variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.verifier.spelling import TEXT
from rewards.verifier.unit_names import is_counted, is_filler, parsed_unit, unit_named, written_unit

# Words after a number that change its value, or that are mathematics.
_MULTIPLIERS = "hundred|thousand|million|billion|trillion|dozen"
_CHANGES = (
    "and or to plus minus times over by half third quarter more less least most about than not if where when for is are"
    " pi sqrt sin cos tan cot sec csc log ln exp arcsin arccos arctan theta alpha beta infinity inf squared cubed"
    " factorial mod base choose below above under before after negative point but without"
    " except no wrong maybe versus too few many doubled tripled max lakh crore score gross tenth zero one two three"
    " four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety x y z i e"
)
_FRACTIONS = ("ths", "rds", "nds", "lf")
_NO_UNITS = {*_CHANGES.split(), *_MULTIPLIERS.split("|")}
_PREFIX = re.compile(r"([+-]?)(?:US)?([$€£¥₹]|USD|EUR|GBP) ?(-?)(?=[\d.\\])")
_ANGLE = re.compile(r"(?:sin|cos|tan|cot|sec|csc|\\pi)(?![a-zA-Z])")  # degrees after these are no unit of the value
_TEXT = re.compile(rf"\\(?:{TEXT}) ?\{{([^{{}}\\]*)\}}")
_LINK = re.compile(r"(?:\^\{?-?\d\}?)? ?(?:/|\\cdot|\\times|[*)(])? ?")  # between the parts of a compound unit
_TAIL = re.compile(r"(?:\^\{?-?\d\}?)? ?(?:/ ?[a-zA-Z]+(?:\^\{?\d\}?)?)?")  # after the last of them
_PLAIN = r"[a-zA-Z]+(?:\^\{?-?\d\}?)?"
_ENDING = re.compile(
    r"(?:(?P<sign> ?[%€£$¢])|(?P<degrees>(?: ?\^\\circ| ?\\degree)(?: ?[CF])?)"
    rf"|(?:(?<=[\d)}}\]!]) ?|(?<=[a-zA-Z]) )(?P<words>(?!(?:{_MULTIPLIERS})\b)"
    rf"[a-zA-Z]+(?:\.(?!\w)|\.?(?:[ /-][a-zA-Z]+){{1,5}}|(?:\^\{{?-?\d\}}?)?(?:(?: ?[/*] ?| ){_PLAIN}){{0,3}})))\Z"
)


@dataclass(frozen=True, slots=True)
class Measure:
    r"""An answer without its unit. Example: "12\text{ cm}^2" -> Measure("12", "cm^2"); "7" -> Measure("7", "")."""

    value: str
    unit: str


def measure(text: str, letters: bool = False) -> Measure:
    """Split a tidied answer. Whatever follows the value and is no unit stays with the value.

    letters: whether a plain "m", "g" or "s" is a unit. In \\text{...} any letters are.
    """
    body, unit = _without_ending(text, letters)
    if prefix := _PREFIX.match(body):
        if unit in ("", prefix[2]) or unit.startswith(("per ", "/", "each")):
            return Measure(prefix[1] + prefix[3] + body[prefix.end() :], prefix[2])
        return Measure(text, "")
    return Measure(body, unit)


def same_unit(answer: str, gold: str) -> bool:
    """Whether the units agree, where both are written."""
    return not answer or not gold or parsed_unit(answer) == parsed_unit(gold)


def foreign_words(text: str, known: frozenset[str]) -> str:
    """What stands after the value and is no unit: "42 incorrect". "" if all is; `known`: words that are units here."""
    body, unit = _without_ending(text, True)
    prefix = _PREFIX.match(body)
    words = re.findall(r"[^\W\d_]+", _last_words(text, body)) if unit and not prefix else []
    strange = [
        word for word in words if not (unit_named(word) or is_counted(word) or is_filler(word) or stem(word) in known)
    ]
    return " ".join(strange)


def stem(word: str) -> str:
    """A word without what its plural adds: eggs and egg are one unit."""
    word = word.lower()
    return word.removesuffix("es") if word.endswith(("shes", "ches", "xes", "ses")) else word.removesuffix("s")


def _last_words(text: str, body: str) -> str:
    after = text[len(body) :] if text.startswith(body) else text
    return re.sub(rf"\\(?:{TEXT})(?![a-zA-Z])|\\[a-zA-Z]+", " ", after)


def _without_ending(text: str, letters: bool) -> tuple[str, str]:
    marked = _marked(text)
    if marked is not None:
        return marked
    if whole := _TEXT.fullmatch(text):
        text = whole[1].strip()
    ending = _ENDING.search(text)
    if not ending or not ending.start() or (ending["degrees"] and _ANGLE.search(text)):
        return text, ""
    body = text[: ending.start()].rstrip()
    if ending["sign"]:
        return body, unit_named(ending["sign"].strip()) or ""
    if ending["degrees"]:
        return body, "^\\circ" + ending["degrees"].strip().removeprefix("^\\circ").removeprefix("\\degree").strip()
    unit = _unit(ending["words"].rstrip("."), text[ending.start("words") - 1], body[-1:], letters)
    return (body, unit) if unit else (text, "")


def _marked(text: str) -> tuple[str, str] | None:
    r"""The unit in \text{...} at the end, which may be of any letters: it can't be a variable.

    \mathrm{~km} / \mathrm{h} and \text{ km} \text{ s}^{-1} are one unit each.
    """
    groups = list(_TEXT.finditer(text))
    if not groups or not groups[-1].start() or not _TAIL.fullmatch(text, groups[-1].end()):
        return None
    start = groups[-1].start()
    for group in reversed(groups[:-1]):
        if not _LINK.fullmatch(text, group.end(), start) or not group.start():
            break
        start = group.start()
    words = _TEXT.sub(r" \1 ", text[start:]).replace("~", " ").strip().rstrip(".")
    before = text[:start].rstrip()
    body = before.removesuffix("^\\circ")
    if (
        not re.fullmatch(r"(?:[^\W\d_]|[%$€£ /.()*{}-]|\\cdot|\\times|\^\{?-?\d)+", words)
        or not re.search(r"[\w)}\]!|]\Z", body)
        or _changes_value(words)
    ):
        return None
    first = re.match(r"[^\W\d_]+|\Z", words)
    if len(words) < 3 and body == before and not (first and unit_named(first[0])):
        return None
    unit = written_unit(parsed_unit(words)) if groups[-1][1].strip() not in ("squared", "cubed") else ""
    return (body, unit) if unit else None


def _changes_value(words: str) -> bool:
    """Whether one of the words says that the value is another: "5 thousand", "5 or more", "5 hundreds"."""
    found = re.findall(r"[^\W\d_]+", words.lower())
    stems = {word.removesuffix("s").replace("halve", "half") for word in found}
    parts = any(word.endswith(_FRACTIONS) and not unit_named(word) for word in found)  # hundredths, sixths
    return parts or bool((stems - {"point"} | set(found)) & (_NO_UNITS - {"squared", "cubed"}))


def _unit(words: str, before: str, last: str, letters: bool) -> str:
    r"""The unit that plain words are; "" if they are none. "5 m" is a length, "5m" a product.

    before: the character before the words; last: the value's last one.
    """
    named = re.match(r"[a-zA-Z]+", words)
    first = named[0] if named else ""
    compound = len(words) > len(first)
    known = unit_named(first) or is_filler(first)
    if _changes_value(words) or not (known or re.search("[aeiou]", words.lower())):
        return ""
    is_letter = len(first) == 1 and not (compound and "/" in words)
    if is_letter and (before != " " or not letters or first not in ("m", "g", "s")):
        return ""
    if re.search(r"[\^*]", words) and not all(map(unit_named, re.findall("[a-zA-Z]+", words))):
        return ""
    if not known and (before != " " or last.isalpha() or len(first) < 3):
        return ""
    return written_unit(parsed_unit(words))
