r"""What an answer states beside its value: a sentence around it, a label before it, a condition behind it.

    "The value of x is 5"                     -> value 5
    "\cos A=\frac{1}{2}"                      -> value \frac{1}{2}, label \cos A
    "f(x)=cx, where c is a constant"          -> value f(x)=cx, declares c

Nothing here knows whether the value is right. What denies, compares or changes a value is no label and no sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rewards.verifier.latex import outside
from rewards.verifier.spelling import TEXT, plain

MAX_LENGTH = 300  # characters of a statement

_DENYING = re.compile(
    r"(?i)(?<![a-z])(?:not|never|no|none|neither|nor|cannot|less|more|fewer|greater|smaller|larger|than|half|third|quarter"
    r"|twice|double|triple|times|minus|plus|negative|about|approximately|almost|nearly|around|roughly|between|wrong"
    r"|incorrect|false|maybe|perhaps|possibly|probably|might|may|could|should|either|or|except|without|squared?|cubed?"
    r"|roots?|opposite|reciprocal|inverse|other|under|mod|modulo|unlike|instead|if|unless|but|\w+n't)(?![a-z])"
)
_LEAD = re.compile(
    r"(?i)\A(?:(?:so|thus|therefore|hence|then|finally|and)\b,? ?)*"
    r"(?:(?:we|i|you|this|that|it) (?:get|gets|have|find|obtain|conclude|gives|follows|see|know)(?: that)?:? )?"
)
_VERB = re.compile(r"(?i)(?<![a-z])(?:is|are|equals?|was|were|will be|would be|must be|has|have)(?![a-z])")
_AFTER_VERB = re.compile(r"(?i)\A(?: equal to| exactly| simply| just| only| therefore| a total of|:)* ?")
_DIVIDED = re.compile(r"(?i)when [^=]{1,40}? (?:is|are) divided by [^=]{1,40}? (?=is )")
_IS_THE_ANSWER = re.compile(r"(?i)(.+?) is (?:the|my) (?:(?:final|correct|right) )?answer")

_LETTERS = r"(?:[A-Za-z]{1,4}|\\[a-zA-Z]+)(?:_(?:\w|\{[\w\\ ]+\}))?'?"
_FUNCTION = (
    rf"\\(?:sin|cos|tan|cot|sec|csc|arg|det|deg|dim|gcd|min|max|log|ln)(?![a-zA-Z]) ?"
    rf"\(?(?:\\(?:angle|triangle) ?)?{_LETTERS}\)?"
)
_CALL = r"[A-Za-z](?:_(?:\w|\{\w+\}))?'{0,2}[\[(][^()=\[\]]{1,20}(?:\([^()=]{1,12}\))?[\])]"
_TERM = rf"(?:{_CALL}|{_FUNCTION}|\\(?:angle|triangle) ?[A-Z]{{1,4}}|\|{_LETTERS}\||\[[A-Z]{{2,5}}\]|{_LETTERS})"
_LABEL = re.compile(
    rf"{_TERM}(?: ?[-+] ?{_TERM}){{0,4}}|{_TERM}(?: ?[:/] ?{_TERM}){{1,4}}|\\frac\{{{_TERM}\}}\{{{_TERM}\}}"
)
_SUM = re.compile(r"[-+]|\A[a-z]{2,}\Z")
_TEXT_LABEL = re.compile(r"[A-Za-z][A-Za-z ,'-]{2,60}(?: [A-Z]{1,5}| [a-z])?")
_COLON = re.compile(
    rf"(?:\\(?:{TEXT}) ?\{{)?([A-Za-z][A-Za-z ]{{3,40}}|[A-Za-z]|\\[a-z]+)\}}?:(?=.*=)|([A-Za-z][A-Za-z ]{{3,40}}):"
)

_CONDITION = re.compile(
    r"(?:[,;] ?|(?<=[^\w(]) ?| )\(?(?:for (?:all|every|any|each|some)(?![a-z])|\\forall(?![a-z])"
    r"|where(?![a-z])|with(?![a-z])"
    r"|(?=[a-zA-Z](?:,[a-zA-Z])?(?: ?\\in(?![a-z])| (?:is|are) (?:an?|any|arbitrary|constants?|integers?)(?![a-z]))))"
)
_PLAIN_WORDS = (  # of a condition, which restrict nothing
    "all every any each some real complex number numbers constant constants arbitrary fixed where is are a an the with"
    " and for of value values being given parameter parameters in reals that or \\in \\forall"
)
_ORDINARY = frozenset(_PLAIN_WORDS.split())
_NATURAL = "natural positive nonnegative nonzero"
_RESTRICTING = {
    "integer": "Z", "integers": "Z", "rational": "Q", "rationals": "Q", **dict.fromkeys(_NATURAL.split(), "N"),
}  # fmt: skip
_SETS = {"R": "", "C": "", "Z": "Z", "N": "N", "Q": "Q"}
_CONDITION_TOKEN = re.compile(r"\\mathbb ?\{?([RCZNQ])\}?(?:\^?\{?[+*]\}?|_\{?[+>]\}?)*|\\?[A-Za-z]+|[-,;.()$ ]|(\S)")


@dataclass(frozen=True, slots=True)
class Statement:
    r"""Example: of "x=2k\pi, k\in\mathbb{Z}" Statement("x=2k\pi", declared={"k"}, restricted={"Z"})."""

    value: str
    declared: frozenset[str] = field(default_factory=frozenset)  # letters that may be called otherwise
    restricted: frozenset[str] = field(default_factory=frozenset)  # the sets other than R and C that they are in


def without_sentence(text: str) -> str:
    """The value of "The value of x is 5", "There are 5 ways", "It follows that x=5"; else the text itself."""
    if len(text) > MAX_LENGTH:
        return text
    words = plain(text)
    if said := _IS_THE_ANSWER.fullmatch(words):
        return said[1]
    words = _LEAD.sub("", words, count=1)
    verbs = list(_VERB.finditer(_DIVIDED.sub(lambda found: "-" * len(found[0]), words)))
    if len(verbs) != 1 or not verbs[0].start():
        return words if words != plain(text) else text
    subject, value = words[: verbs[0].start()], words[verbs[0].end() :]
    if _DENYING.search(subject) or not re.match(r"[A-Za-z|(\\]", subject) or "=" in subject or subject.count(",") > 1:
        return text
    return _AFTER_VERB.sub("", value, count=1).strip()


def split_label(text: str) -> tuple[str, str]:
    r"""Example: "\cos A=\frac{1}{2}" -> ("\cos A", "\frac{1}{2}"); "x^2=5" -> ("", "x^2=5"), which is an equation."""
    if len(text) > MAX_LENGTH:
        return "", text
    if (colon := _COLON.match(text)) and not _DENYING.search(colon[0]):
        return colon[0], text[colon.end() :].strip()
    signs = outside(text, _EQUALS)
    if not signs or _EQUALS.search(text, signs[0].end()):
        return "", text
    label, value = text[: signs[0].start()].strip(), text[signs[0].end() :].strip()
    words = plain(label)
    if _LABEL.fullmatch(label) or (_TEXT_LABEL.fullmatch(words) and not _DENYING.search(words)):
        return label, value
    return "", text


def split_equation(text: str) -> tuple[str, str]:
    """Both sides of an equation, whatever they are; ("", text) if it is none."""
    signs = outside(text, _EQUALS)
    if len(signs) != 1 or len(text) > MAX_LENGTH:
        return "", text
    return text[: signs[0].start()].strip(), text[signs[0].end() :].strip()


_EQUALS = re.compile(r"(?<![<>:!\\])=")


def is_sum(label: str) -> bool:
    """Whether a label is a sum or product of names, so that it may be an equation's side: x+y=3."""
    return bool(_SUM.search(plain(label)))


def without_condition(text: str) -> Statement:
    """What stands before "for all x", "where c is a constant", "k in Z"; the text itself if there is no such ending."""
    words = plain(text) if len(text) <= MAX_LENGTH else ""
    found = next((one for one in outside(words, _CONDITION) if one.start()), None)
    if not found:
        return Statement(text)
    declared: set[str] = set()
    restricted: set[str] = set()
    for token in _CONDITION_TOKEN.finditer(words, found.start()):
        word = token[0]
        if token[1]:
            restricted |= {_SETS[token[1]]} - {""}
            if re.search("[+*>]", word):
                restricted.add("N")
        elif word in _RESTRICTING or word.lower() in _RESTRICTING:
            restricted.add(_RESTRICTING[word.lower()])
        elif len(word) == 1 and word.isalpha() and word != "a":
            declared.add(word)
        elif token[2] or (word[-1].isalpha() and word not in _ORDINARY and word.lower() not in _ORDINARY):
            return Statement(text)
    return Statement(words[: found.start()].strip(" ,;"), frozenset(declared), frozenset(restricted))
