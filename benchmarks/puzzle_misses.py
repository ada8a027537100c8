"""Wrong answers to a puzzle that are near its right one, whatever the puzzle: what no grading may take."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence

BLANK = ("", "0", "1", "-1", "[]", "{}", "()", "None", "nan", "inf", "True", "False", "Yes", "No", "A", "x", "...")
SPANS = 60  # parts of the question that are copied
LONGEST = 14  # words of one
# Kinds that are right, or may be: other solutions, other spellings. By generator, with what was looked at.
RIGHT: Mapping[str, set[str]] = {
    "countdown": {"order"},  # of a sum's terms
    "cryptarithm": {"digit", "order"},  # a letter in the same column on both sides may be any digit
    "graph_color": {"digit", "other", "swap"},  # another colouring
    "group_anagrams": {"order"},
    "intermediate_integration": {"order", "letter", "more digit", "first", "less", "cut"},  # C + D, D, C1, or no C
    "jugs": {"letter", "other"},  # fill C for a step that filled A before: both fill what is needed
    "polynomial_multiplication": {"order"},
    "prime_factorization": {"order"},
    "puzzle24": {"order"},  # of a sum's terms
    "quantum_lock": {"letter", "order", "swap"},  # other buttons that reach the number as fast
    "shortest_path": {"order"},  # another path as short
    "simple_integration": {"order", "letter", "more digit", "first", "less", "cut"},
    "sokoban": {"cut", "swap"},  # a move that was not needed; two that do not depend on each other
}


def near_misses(gold: str, question: str, others: Sequence[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, answer) of each. `others`: gold answers of other rows that differ from this one's."""
    if gold:
        yield from _changed(gold, rng)
        yield from _parts(gold)
        yield from _more(gold, others)
    yield from (("other", other) for other in others)
    yield from (("blank", blank) for blank in BLANK)
    yield "question", question
    spans = sorted({span for line in question.splitlines() for span in _spans(line.split())})
    yield from (("copied", span) for span in rng.sample(spans, min(SPANS, len(spans))))


def _changed(gold: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    for kind, pattern in (("digit", r"\d"), ("letter", r"[A-Za-z]")):
        places = [found.start() for found in re.finditer(pattern, gold)]
        for k in rng.sample(places, min(6, len(places))):
            yield kind, gold[:k] + _next(gold[k]) + gold[k + 1 :]
    for k in rng.sample(range(len(gold) - 1), min(4, len(gold) - 1)):
        yield "swap", gold[:k] + gold[k + 1] + gold[k] + gold[k + 2 :]
    yield "sign", gold[1:] if gold[0] == "-" else f"-{gold}"
    yield "cut", gold[:-1]
    yield "cut", gold[1:]
    yield "cut", gold[: len(gold) // 2]


def _next(character: str) -> str:
    if character.isdigit():
        return str((int(character) + 1) % 10)
    return chr(ord(character) + (-1 if character in "zZ" else 1))


def _parts(gold: str) -> Iterator[tuple[str, str]]:
    for separator in (",", "\n", " ", ";"):
        parts = [part for part in gold.split(separator) if part.strip()]
        if len(parts) > 1:
            yield "first", parts[0]
            yield "last", parts[-1]
            yield "less", separator.join(parts[:-1])
            yield "less", separator.join(parts[1:])
            if parts != parts[::-1]:
                yield "order", separator.join(reversed(parts))


def _more(gold: str, others: Sequence[str]) -> Iterator[tuple[str, str]]:
    other = others[0] if others else "1"
    yield "more digit", f"{gold}1"
    yield from (("more", text) for text in (f"{gold} {gold}", f"{gold} or {other}", f"{other} or {gold}"))
    yield from (("more", text) for text in (f"not {gold}", f"{other}, {gold}", f"{gold}, {other}", f"{gold}\n{other}"))


def _spans(words: Sequence[str]) -> Iterator[str]:
    for start in range(len(words)):
        for end in range(start + 1, min(len(words), start + LONGEST) + 1):
            if span := " ".join(words[start:end]).rstrip(".?:,"):
                yield span
