r"""Whether two answers are equal. docs/verifier.md has the policy, tests/cases/compare.jsonl its table of cases.

Forms are tried in this order, and the first that fits both answers decides:

    text        the same but for spelling                    \dfrac12, \frac{1}{2}
    numbers     exactly, with units (rewards/verifier/numeric.py)     0.5, 1/2, 50%
    words       whatever the case; a few have synonyms       Evelyn, evelyn
    rounded     the exact side, if it rounds so              5\sqrt{3} \approx 8.66
    chains      the end, if every link holds                 10 \cdot 9 = 90
    matrices    entry by entry
    ranges      intervals, unions, inequalities of one name  1<x<2, (1,2)
    lists       sets in any order, tuples in theirs
    relations   both sides, up to a constant factor          x+y=3, 2x+2y=6
    values      where they are evaluated (rewards/verifier/expression.py)

What none of them can read goes to Math-Verify, if both sides at least hold the same numbers and names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rewards.types import FAILURES
from rewards.verifier.elements import (
    elements_of,
    have_names,
    ratio_of,
    rows_of,
    sides_of,
    three_digits_each,
    values_by_name,
    without_grouping,
)
from rewards.verifier.expression import Expression, rounds_to, same_relation, same_value
from rewards.verifier.grammar import Unreadable
from rewards.verifier.labels import SYNONYMS, key, several, without_label, without_names
from rewards.verifier.latex import balanced, outside, split_top
from rewards.verifier.numeric import equal, quantity
from rewards.verifier.ranges import RELATION, TURNED, intervals, variable
from rewards.verifier.spelling import TEXT, plain
from rewards.verifier.units import foreign_words, measure, same_unit, stem
from rewards.verifier.verdict import Verdict

Ask = Callable[[str, str], Verdict]  # (answer, gold) that no form could read


@dataclass(frozen=True, slots=True)
class Case:
    """What a pair is decided with."""

    ask: Ask
    words: frozenset[str] = frozenset()  # of the question, which may be units: what it counts


_RATIONAL = re.compile(r"(?:[^a-zA-Z\\^!]|\\(?:times|cdot|div|frac)(?![a-zA-Z]))*")
_OPERATION = re.compile(r"[\d)}] ?(?:[-+*(]|\\(?:times|cdot|div)(?![a-zA-Z]))")
# A choice, a name; "xy" and "abc" may be products.
_WORDS = re.compile(r"[a-zA-Z]|[a-zA-Z][a-zA-Z '-]{3,}|[A-Z][a-z]{2}|(?i:yes|no|odd|red|one|two|six|ten)")
_TEXT = re.compile(rf"\\(?:{TEXT}) ?\{{[^{{}}\\]{{2,}}\}}")
_DECIMAL = re.compile(r"-?\d+(?:\.(\d+))?")
_ATOM = re.compile(r"\d+|(?<![\\a-zA-Z])[a-zA-Z]+|['!^_:<>=]|\\(?:neq|triangle)")
_ABOUT = re.compile(r"[<>]|\\(?:in|[lg]eq|neq)(?![a-zA-Z])")
_DROPPED = re.compile(r"\\(?:angle|triangle)|[':]")  # by Math-Verify, or read as a product


def same_answer(one: str, other: str) -> bool:
    """Whether two tidied answers are equal, as far as that is known without Math-Verify."""
    return one == other or decide(one, other, Case(lambda *_: ("wrong", "")))[0] == "correct"


def decide(answer: str, gold: str, case: Case) -> Verdict:
    """The verdict on two tidied answers (rewards.verifier.spelling.tidy)."""
    if key(answer) == key(gold):
        return _verdict(True, answer, gold)
    if strange := _strange_unit(answer, gold, case):
        return "wrong", f"{strange!r} is no unit"
    if _ABOUT.search(answer) and _ABOUT.search(gold):
        about, asked = variable(answer), variable(gold)
        if about and asked and about != asked:
            return "wrong", f"{answer} is about {about}, expected {asked}"
    answer = without_label(answer, gold)
    answer, gold, named = without_names(answer, gold)
    if named and (verdict := _chain(answer, gold, case, named)):
        return verdict
    for form in _FORMS:
        if (verdict := form(answer, gold, case)) is not None:
            return verdict
    return _asked(answer, gold, case)


def _strange_unit(answer: str, gold: str, case: Case) -> str:
    """What stands behind a value like a unit, and is none: not of the list, the question or the gold answer."""
    if not (answer[-1:].isalpha() or answer[-1:] == "}") or not re.search(r"\d", answer):
        return ""
    return foreign_words(answer, case.words | {stem(word) for word in re.findall(r"[^\W\d_]{2,}", gold)})


def _verdict(equal: bool, answer: str, gold: str) -> Verdict:
    return ("correct", f"{answer} is {gold}") if equal else ("wrong", f"{answer} is not {gold}")


# -- Forms: a verdict, or None if the form does not fit -----------------------------------------------------------


def _numbers(answer: str, gold: str, case: Case) -> Verdict | None:
    wanted = quantity(gold)
    got = quantity(answer, letters=wanted is not None)
    if wanted and got:
        return _verdict(equal(got, wanted), answer, gold)
    if wanted and _RATIONAL.fullmatch(answer) and _OPERATION.search(answer) and "=" not in answer:
        return "wrong", f"{answer} is not evaluated"  # the question's own sum, say
    return None


def _ratios(answer: str, gold: str, case: Case) -> Verdict | None:
    """1:2:3 is 2:4:6."""
    mine, wanted = ratio_of(answer), ratio_of(gold)
    if not mine or not wanted:
        return None
    same = len(mine) == len(wanted) and all(a * wanted[0] == b * mine[0] for a, b in zip(mine, wanted, strict=True))
    return _verdict(same, answer, gold)


def _words(answer: str, gold: str, case: Case) -> Verdict | None:
    marked = _TEXT.fullmatch(answer) or _TEXT.fullmatch(gold)
    answer, gold = plain(answer), plain(gold)
    mine, wanted = (SYNONYMS.get(text.casefold(), text) for text in (answer, gold))
    if mine == wanted:
        return _verdict(True, answer, gold)
    if r"\infty" in (mine.lstrip("+-"), wanted.lstrip("+-")):
        return _verdict(False, answer, gold)
    if (marked or _WORDS.fullmatch(gold) or (gold.isupper() and len(gold) > 2)) and re.fullmatch(
        r"[a-zA-Z '-]*", answer + gold
    ):
        return _verdict(len(gold) > 1 and mine.casefold() == wanted.casefold(), answer, gold)
    return None


def _chain(answer: str, gold: str, case: Case, named: bool = False) -> Verdict | None:
    """10 \\cdot 9 = 90 answers 90. Links with variables need a name before them: V = \\pi r^2 = 9\\pi."""
    links = split_top(answer, "=")
    if len(links) == 1 or several(answer) or len(split_top(gold, "=")) > 1:
        return None
    try:
        steps = [Expression(link) for link in links[:-1]]
        end = Expression(measure(links[-1]).value)
    except Unreadable:
        return None
    if any(not named if step.names else same_value(step, end) is not True for step in steps):
        return "wrong", f"{answer} does not hold, or is an equation"
    return decide(links[-1], gold, case)


def _approximations(answer: str, gold: str, case: Case) -> Verdict | None:
    """5\\sqrt{3} \\approx 8.66 answers 5\\sqrt{3}; and 8.66, where that is asked and rounds it."""
    exact, sign, rounded = answer.partition(r"\approx")
    if not sign or r"\approx" in gold:
        return None
    exact, rounded = exact.strip(), measure(rounded.strip()).value
    decimal = _DECIMAL.fullmatch(rounded)
    try:
        near = decimal and rounds_to(Expression(measure(exact).value), Expression(rounded), len(decimal[1] or ""))
    except Unreadable:
        near = False
    if not near:
        return "wrong", f"{answer} does not hold"
    verdict = decide(exact, gold, case)
    if verdict[0] == "correct" or quantity(exact) or len(rounded.partition(".")[2]) < 2:
        return verdict
    return decide(rounded, gold, case)


def _matrices(answer: str, gold: str, case: Case) -> Verdict | None:
    mine, wanted = rows_of(answer), rows_of(gold)
    if mine is None and wanted is None:
        return None
    if mine is None or wanted is None or [len(row) for row in mine] != [len(row) for row in wanted]:
        return "wrong", f"{answer} is no matrix of the shape of {gold}"
    return _in_order([cell for row in mine for cell in row], [cell for row in wanted for cell in row], case)


def _ranges(answer: str, gold: str, case: Case) -> Verdict | None:
    if not re.search(r"\\cup(?![a-zA-Z])|[<>]|\\(?:[lgn]eq|setminus)(?![a-zA-Z])", answer + gold):
        return None
    mine, wanted = intervals(answer), intervals(gold)
    if mine is None or wanted is None or (mine, wanted) == ([answer], [gold]):
        return None
    return _in_any_order(mine, wanted, case)


def _lists(answer: str, gold: str, case: Case) -> Verdict | None:
    mine, wanted = measure(answer), measure(gold)
    (kind, elements), (gold_kind, golds) = elements_of(mine.value), elements_of(wanted.value)
    if len(golds) > 1 == len(elements) and gold_kind in ("", "{}"):
        elements = three_digits_each(answer, golds) or elements
    elif len(elements) > 1 == len(golds) and kind == "":
        golds = three_digits_each(gold, elements) or golds
    if (kind or len(elements) > 1) and (gold_kind or len(golds) > 1):
        if not same_unit(mine.unit, wanted.unit):
            return "wrong", f"unit {mine.unit}, expected {wanted.unit}"
        if have_names(elements) != have_names(golds):  # x=1,y=2 against (1,2)
            mine_by_name, wanted_by_name = values_by_name(elements), values_by_name(golds)
            if mine_by_name is None or wanted_by_name is None:
                return "wrong", f"of {answer} and {gold}, only one has names, and these give no order"
            return _in_order(mine_by_name, wanted_by_name, case)
        unordered = gold_kind in ("", "{}")
        if kind != gold_kind and not (unordered and kind in ("", "{}")):
            return "wrong", f"brackets {kind or 'missing'}, expected {gold_kind or 'none'}"
        return (_in_any_order if unordered else _in_order)(elements, golds, case)
    if (
        not kind + gold_kind
        and len(elements) != len(golds)
        and (ungrouped := (without_grouping(answer), without_grouping(gold))) != (answer, gold)
    ):
        return decide(*ungrouped, case)
    if kind or gold_kind or len(elements) != len(golds):
        return "wrong", f"of {answer} and {gold}, one is a list and the other is not"
    if ([elements[0]], [golds[0]]) != ([plain(mine.value)], [plain(wanted.value)]):  # without their parentheses
        return decide(elements[0], golds[0], case)
    return None


def _relations(answer: str, gold: str, case: Case) -> Verdict | None:
    mine, wanted = sides_of(answer), sides_of(gold)
    if mine is None and wanted is None:
        return None
    if mine is None or wanted is None:
        if bool(outside(answer, RELATION)) != bool(outside(gold, RELATION)):
            return "wrong", f"of {answer} and {gold}, one is a relation and the other is not"
        return None
    (sign, sides), (gold_sign, gold_sides) = mine, wanted
    try:
        factor = same_relation([Expression(side) for side in sides], [Expression(side) for side in gold_sides])
    except Unreadable:
        return None
    if factor is None:
        return "wrong", f"{answer} and {gold} have no values that can be compared"
    return _verdict(factor != 0 and sign == (gold_sign if factor > 0 else TURNED[gold_sign]), answer, gold)


def _values(answer: str, gold: str, case: Case) -> Verdict | None:
    mine, wanted = measure(answer), measure(gold)
    try:
        same = same_value(Expression(plain(mine.value)), Expression(plain(wanted.value)))
    except Unreadable:
        return None
    if same is None:
        return "wrong", f"{answer} and {gold} have no values that can be compared"
    return _verdict(same and same_unit(mine.unit, wanted.unit), answer, gold)


_FORMS = (_numbers, _ratios, _words, _approximations, _chain, _matrices, _ranges, _lists, _relations, _values)


def _asked(answer: str, gold: str, case: Case) -> Verdict:
    """Math-Verify reads what it can and drops the rest, so that it is asked only where nothing can be dropped."""
    if not balanced(answer):
        return "wrong", f"the braces of {answer} do not match"
    if _readable(gold) and not _readable(answer):
        return "wrong", f"{answer} cannot be read"
    if _DROPPED.search(gold) or _atoms(answer) != _atoms(gold):
        return "wrong", f"{answer} cannot be read as {gold}"
    return case.ask(answer, gold)


def _readable(text: str) -> bool:
    try:
        return bool(Expression(plain(measure(text).value)))
    except Unreadable:
        return False


def _atoms(text: str) -> list[str]:
    """The numbers, letters and signs that Math-Verify might drop, in any order."""
    return sorted(piece for atom in _ATOM.findall(plain(text)) for piece in (atom if atom.isalpha() else [atom]))


# -- Parts ---------------------------------------------------------------------------------------------------------


def _in_order(answers: Sequence[str], golds: Sequence[str], case: Case) -> Verdict:
    if len(answers) != len(golds):
        return "wrong", f"{len(answers)} elements, expected {len(golds)}"
    for answer, gold in zip(answers, golds, strict=True):
        verdict = decide(answer, gold, case)
        if verdict[0] != "correct":
            return verdict
    return "correct", "every element is equal"


def _in_any_order(answers: Sequence[str], golds: Sequence[str], case: Case) -> Verdict:
    if len(answers) != len(golds):
        return "wrong", f"{len(answers)} elements, expected {len(golds)}"
    left = list(answers)
    for gold in golds:
        failed: Verdict = ("wrong", f"{gold} is missing")
        for position, answer in enumerate(left):
            verdict = decide(answer, gold, case)
            if verdict[0] == "correct":
                del left[position]
                break
            if verdict[0] in FAILURES:
                failed = verdict
        else:
            return failed
    return "correct", "every element is equal"
