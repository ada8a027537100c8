"""Grade a mathematical answer: exactly where it is a number, a word or a list of such, else by Math-Verify.

    verify(completion, answer) = compare(read_answer(completion), answer)

The exact layer settles most answers in microseconds and starts no process. What is left goes to Math-Verify in
a worker process that is killed at its deadline (rewards/pool.py), so that no completion can hang a run.

What counts as equal, beyond rewards/numeric.py for numbers:
- lists and sets in any order, tuples and intervals in order with the same brackets; always as many elements;
- `x=5` answers 5 and `x\\in[0,1]` answers [0,1], but an equation is no value: 4=5 does not answer 5;
- unevaluated arithmetic does not answer a number: 12+30 is not 42 (2^{10} and 5! are, for 1024 and 120);
- a decimal is its own value: 1.414 is not \\sqrt{2}, 0.333 is not 1/3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards import numeric
from rewards.extract import MAX_ANSWER, STRICT, Source, read_answer
from rewards.latex import balanced, depth, plain, split_list, split_name, tidy
from rewards.pool import Pool
from rewards.types import FAILURES, Outcome, Score

MAX_DEPTH = 50  # of brackets; bounds the recursion here and in the parsers behind

_VALUES: dict[Outcome, float | None] = {"correct": 1.0, "timeout": None, "error": None}
_OPEN = re.compile(r"(?<![<>!\\:])=")  # an equals sign that is not part of <=, >=, != or :=
_RELATION = re.compile(r"[<>=]|\\(?:[lg]eq|neq|in|cup|cap|mathbb|emptyset|setminus)(?![a-zA-Z])")
_ARITHMETIC = re.compile(r"(?:[^a-zA-Z\\^!{}]|\\(?:times|cdot|div)(?![a-zA-Z]))*")
_WORD = re.compile(r"[a-zA-Z]|[a-zA-Z][a-zA-Z ]{3,}")  # a choice, a name; "xy" and "abc" may be products

_pool = Pool("rewards.symbolic", size=2, cpu_seconds=3.0, memory_gib=2.0)  # starts no process before it is asked


def score(outcome: Outcome, extracted: str | None, reason: str) -> Score:
    """A Score with the value that its outcome stands for."""
    return Score(_VALUES.get(outcome, 0.0), extracted, outcome, reason)


def verify(completion: str, answer: str, read: Sequence[Source] = STRICT) -> Score:
    """Grade a completion (prefill included) against the gold answer. `read`: where an answer may stand."""
    reading = read_answer(completion, read)
    if reading.answer is None:
        return score(reading.failure or "no_answer", None, reading.reason)
    return compare(reading.answer, answer)


def compare(answer: str, gold: str) -> Score:
    """Grade a bare answer against the gold answer. Safe in any thread; bounded in time and memory."""
    if not gold.strip():
        return score("error", answer, "the gold answer is empty: fix or drop the row")
    if len(answer) > MAX_ANSWER or depth(answer) > MAX_DEPTH:
        reason = f"an answer of more than {MAX_ANSWER} characters or {MAX_DEPTH} nested brackets"
        return score("malformed", answer[:80], reason)
    outcome, reason = _compare(tidy(answer), tidy(gold))
    return score(outcome, answer, reason)


def _compare(answer: str, gold: str) -> tuple[Outcome, str]:
    if _key(answer) == _key(gold):
        return "correct", f"{answer} is {gold}"
    (answer_name, answer_body), (gold_name, gold_body) = split_name(answer), split_name(gold)
    if not (answer_name and gold_name) or answer_name == gold_name:
        answer, gold = answer_body, gold_body
    if (settled := _exactly(plain(answer), plain(gold))) is not None:
        return _verdict(settled, answer, gold)
    (answer_kind, answers), (gold_kind, golds) = split_list(plain(answer)), split_list(plain(gold))
    if (answer_kind or len(answers) > 1) and (gold_kind or len(golds) > 1):
        return _compare_lists(answer_kind, answers, gold_kind, golds)
    brackets = answer_kind + gold_kind
    intervals = brackets not in ("", "{}") and _RELATION.search(answer + gold)  # (1,2) may be 1<x<2
    if (brackets or len(answers) != len(golds)) and not intervals:
        return "wrong", f"of {answer} and {gold}, one is a list and the other is not"
    if not (answer_kind or gold_kind) and (answers, golds) != ([answer], [gold]):
        return _compare(answers[0], golds[0])  # without their parentheses
    if not balanced(answer):
        return "wrong", f"the braces of {answer} do not match"
    if bool(_OPEN.search(answer)) != bool(_OPEN.search(gold)):
        return "wrong", f"of {answer} and {gold}, one is an equation and the other is not"
    return _pool.ask({"answer": answer, "gold": gold})


def _key(text: str) -> str:
    return re.sub(r"(?<!\d) | (?!\d)", "", plain(text))  # "1 8" is not 18


def _verdict(equal: bool, answer: str, gold: str) -> tuple[Outcome, str]:
    return ("correct", f"{answer} is {gold}") if equal else ("wrong", f"{answer} is not {gold}")


def _exactly(answer: str, gold: str) -> bool | None:
    """Whether they are equal, where their text, numbers or words decide; else None."""
    if answer == gold:
        return True
    wanted, got = numeric.quantity(gold), numeric.quantity(answer)
    if wanted and got:
        return numeric.equal(got, wanted)
    if wanted and _ARITHMETIC.fullmatch(answer) and split_list(answer)[1] == [answer]:
        return False  # digits and signs that are no number, such as the question's own sum
    if _WORD.fullmatch(gold) and answer.replace(" ", "").isalpha():
        return len(gold) > 1 and answer.casefold() == gold.casefold()
    return None


def _compare_lists(answer_kind: str, answers: list[str], gold_kind: str, golds: list[str]) -> tuple[Outcome, str]:
    if len(answers) != len(golds):
        return "wrong", f"{len(answers)} elements, expected {len(golds)}"
    unordered = gold_kind in ("", "{}")
    if answer_kind != gold_kind and not (unordered and answer_kind in ("", "{}")):
        return "wrong", f"brackets {answer_kind or 'missing'}, expected {gold_kind or 'none'}"
    left = list(answers)
    for gold in golds:
        outcome: Outcome = "wrong"
        reason = f"{gold} is missing"
        for position, answer in enumerate(left if unordered else left[:1]):
            found, why = _compare(answer, gold)
            if found == "correct":
                outcome = found
                del left[position]
                break
            if found in FAILURES:
                outcome, reason = found, why
        if outcome != "correct":
            return outcome, reason
    return "correct", "every element is equal"
