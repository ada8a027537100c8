r"""Tell the unit of an answer from its value: "5\sqrt{2}\text{ cm}" is 5\sqrt{2} and "cm".

A unit describes, so one that only one side writes is taken as given by the question. Words that change the value
("5 thousand", "5 or more") are no units, and neither is what could be a variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.verifier.spelling import TEXT

# One line, one unit: the first spelling is its name.
_SPELLINGS = (
    "$ dollar dollars usd buck bucks", "€ euro euros eur", "£ pounds-sterling gbp", "cent cents ¢",
    "% percent percentage pct", r"^\circ degree degrees deg", "mm millimeter millimeters millimetre millimetres",
    "cm centimeter centimeters centimetre centimetres", "m meter meters metre metres",
    "km kilometer kilometers kilometre kilometres", "in inch inches", "ft foot feet", "yd yard yards",
    "mi mile miles", "g gram grams", "kg kilogram kilograms kilo kilos", "mg milligram milligrams",
    "lb pound pounds lbs", "oz ounce ounces", "l liter liters litre litres", "ml milliliter milliliters",
    "s second seconds sec secs", "min minute minutes mins", "h hour hours hr hrs", "day days", "week weeks",
    "month months", "year years yr yrs", "mph", "kph", "rpm", "unit units", "radian radians rad", "hz hertz",
    "khz", "mhz", "ghz", "j joule joules", "kj", "w watt watts", "kw", "v volt volts", "n newton newtons",
    "pa pascal pascals", "kpa", "atm", "k kelvin kelvins", "mol mole moles",
    "ev", "kev", "mev", "gev", "erg ergs", "å angstrom angstroms",
)  # fmt: skip
_UNITS = {spelling: names.split()[0] for names in _SPELLINGS for spelling in names.split()}
_RATES = {"mi / h": "mph", "km / h": "kph"}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3", "squared": "^2", "cubed": "^3"}
# Words after a number that change its value, or that are mathematics.
_MULTIPLIERS = "hundred|thousand|million|billion|trillion|dozen"
_CHANGES = (
    "and or to plus minus times over by half third quarter more less least most about than not if where when for is are"
    " pi sqrt sin cos tan cot sec csc log ln exp arcsin arccos arctan theta alpha beta infinity inf squared cubed"
    " factorial mod base choose below above under before after negative point but without"
    " except no wrong maybe versus too few many doubled tripled max lakh crore score gross tenth zero one two three"
    " four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety x y z i e"
)
_NO_UNITS = {*_CHANGES.split(), *_MULTIPLIERS.split("|")}
_PREFIX = re.compile(r"([+-]?)(?:US)?([$€£¥₹]|USD|EUR|GBP) ?(-?)(?=[\d.\\])")
_ANGLE = re.compile(r"(?:sin|cos|tan|cot|sec|csc|\\pi)(?![a-zA-Z])")  # degrees after these are no unit of the value
_TEXT = re.compile(rf"\\(?:{TEXT}) ?\{{([^{{}}\\]*)\}}")
_ENDING = re.compile(
    r"(?:(?P<sign> ?[%€£$¢])|(?P<degrees>(?: ?\^\\circ| ?\\degree)(?: ?[CF])?)"
    rf"|(?:(?<=[\d)}}\]!]) ?|(?<=[a-zA-Z]) )(?P<words>(?!(?:{_MULTIPLIERS})\b)"
    r"[a-zA-Z]+(?:\.?(?:[ /-][a-zA-Z]+){1,4}|\.)?)(?:\^\{?(?P<power>-?[123])\}?)?"
    r"(?P<per>/[a-zA-Z]+(?:\^\{?[23]\}?)?)?)\Z"
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
    return not answer or not gold or _singular(answer) == _singular(gold)


def _singular(unit: str) -> str:
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in unit.split())


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
        return body, _UNITS[ending["sign"].strip()]
    if ending["degrees"]:
        return body, "^\\circ" + ending["degrees"].strip().removeprefix("^\\circ").removeprefix("\\degree").strip()
    words = ending["words"].rstrip(".")
    unit = _unit(words, ending["power"], ending["per"] or "", text[ending.start("words") - 1], body[-1:], letters)
    return (body, unit) if unit else (text, "")


def _marked(text: str) -> tuple[str, str] | None:
    r"""The unit in \text{...} at the end, which may be of any letters: it can't be a variable."""
    groups = list(_TEXT.finditer(text))
    if not groups or not groups[-1].start():
        return None
    last = groups[-1]
    after = re.fullmatch(r" ?(?:\^\{?(-?[123])\}?)?", text[last.end() :])
    words = last[1].replace("~", " ").strip().rstrip(".")
    before = text[: last.start()].rstrip()
    body = before.removesuffix("^\\circ")
    if (
        not after
        or not words
        or not re.fullmatch(r"(?:[^\W\d_]|[%$€£ /.()-]|\^-?[123])+", words)
        or not re.search(r"[\w)}\]!|]\Z", body)
    ):
        return None
    if _changes_value(words) or (len(words) < 3 and words.lower() not in _UNITS and body == before):
        return None
    unit = _name(words, after[1])
    if not unit:
        return None
    outer = _marked(body)  # \text{ km} \text{ s}^{-1} is one unit
    return (outer[0], f"{outer[1]} {unit}") if outer else (body, unit)


def _changes_value(words: str) -> bool:
    """Whether one of the words says that the value is another: "5 thousand", "5 or more", "5 hundreds"."""
    found = re.findall(r"[^\W\d_]+", words.lower())
    stems = {word.removesuffix("s").replace("halve", "half") for word in found}
    return bool((stems | set(found)) & (_NO_UNITS - {"squared", "cubed"}))


def _unit(words: str, power: str | None, per: str, before: str, last: str, letters: bool) -> str:
    r"""The unit that plain words are; "" if they are none. "5 m" is a length, "5m" a product.

    before: the character before the words; last: the value's last one.
    """
    first = words.split()[0].split("/")[0].lower()
    if _changes_value(words) or (not re.search("[aeiou]", words.lower()) and first not in _UNITS):
        return ""
    known = first in _UNITS or first in _POWERS
    if len(first) == 1 and not per and (before != " " or not letters or first not in ("m", "g", "s")):
        return ""
    if not known and (before != " " or last.isalpha() or len(first) < 3):
        return ""
    return _name(words + per, power)


def _name(words: str, power: str | None) -> str:
    """One spelling: known units by their name, powers as ^2, "a per b" as "a / b". A known unit needs no more words."""
    names, exponent = [], f"^{power}" if power else ""
    for word in words.lower().replace(" per ", " / ").replace("/", " / ").replace(".", " ").split():
        if word in _POWERS:
            exponent = _POWERS[word]
        else:
            names.append(_UNITS.get(word, word))
    if names and names[0] in _UNITS.values() and "/" not in names:
        names = names[:1]
    name = " ".join(names)
    return _RATES.get(name, name) + exponent if names else ""
