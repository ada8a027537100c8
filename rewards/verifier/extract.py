r"""Read the final answer out of a completion. Strict: what is ambiguous earns nothing.

What counts, in this order:

1. Thinking is not graded: only what follows the last `</think>` is. Thinking that was opened and not
   closed is `no_answer`, whatever stands in it.
2. The first source of `read` that appears in the graded text decides, and the others must not contradict it:

       tag        <answer>42</answer>      nothing but whitespace may follow
       boxed      \boxed{42}               braces may nest, text may follow
       hashes     #### 42                  to the end of the line
       phrase     the answer is 42         to the end of the sentence
       last_line  42                       the last line that is not blank

   What follows no mark, the last line, contradicts nothing. `####` is an answer where it ends the text or holds a
   number; elsewhere it is a heading. A phrase contradicts only with a number or the letter of a choice.

3. Several answers that are equal are one, the last. Boxes with nothing but commas, `and` or `or` between them are
   one list: `\boxed{1} and \boxed{2}` answers 1, 2, and no question whose answer is 2. Several answers that differ
   are `malformed`, and so are an unclosed tag or box, text after `</answer>`, a box that is part of a larger
   expression, and answers over MAX_ANSWER characters. An empty answer is `no_answer`; beside a full one it is an
   echo of the question, and passed over. In a tag, a box is the answer.

Every reader is one pass over the text, so that megabytes of braces take milliseconds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rewards.types import Score
from rewards.verifier.characters import mended
from rewards.verifier.equality import same_answer
from rewards.verifier.latex import BRACE
from rewards.verifier.numeric import quantity
from rewards.verifier.spelling import tidy
from rewards.verifier.verdict import Verdict, attempt, error, score

Place = Literal["tag", "boxed", "hashes", "phrase", "last_line"]
STRICT: tuple[Place, ...] = ("tag", "boxed", "hashes")  # explicit marks
MAX_ANSWER = 2000  # characters
MAX_ANSWERS = 20  # that differ in spelling and are compared

_BOX = re.compile(r"\\(?:boxed|fbox)(?: ?\{| (?P<bare>[^\s{}$\\]))")  # `\boxed 2` is LaTeX too
_BETWEEN = re.compile(
    r"(?:\s|[$,;]|\\[,; ()\[\]]|and|or|\\(?:quad|(?:text|mbox)\{ ?(?:and|or),? ?\}))*"
)  # boxes of one list
# Around a box that is no answer by itself. A list's "- \\boxed{5}" and **\\boxed{5}** are.
_BEFORE = re.compile(r"(?:[-+/^\d]|\\neq?\s*|(?:\\(?:frac|sqrt)|\})\{)\Z")
_AFTER = re.compile(
    r" ?(?:\\(?:times|cdot|div)(?![a-zA-Z])|\^(?!\{?\\circ)|/|\+ ?\d|(?:hundred|thousand|million|billion)\b)|[\w!]"
)
_SPECIAL = re.compile(r"(?:<\|\w{1,30}\|>|</s>|\s)+\Z")  # tokens that end a turn
_HASHES = re.compile(r"####[^\S\n]*([^\n]*)")
_PHRASE = re.compile(
    r"(?:\banswer(?: is\b ?:?|\*{0,2} ?:)|答案(?:[是为]:?|:|\N{FULLWIDTH COLON}))\*{0,2}\s*"
    r"([^\n]*?)(?=\.\s|。|\.?\Z|\.?\n)",
    re.IGNORECASE,
)


class Malformed(ValueError):
    """The text does not hold one answer in the form that it began."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Example: Reading("42", None, "tag"), or Reading(None, "malformed", "<answer> is not closed")."""

    answer: str | None
    failure: Literal["no_answer", "malformed", "error"] | None
    reason: str


def after_thinking(text: str) -> str | None:
    """What follows the last `</think>`; None if a `<think>` is still open."""
    rest = text.rpartition("</think>")[2]
    return None if "<think>" in rest else rest


def boxed(text: str) -> list[str]:
    r"""The contents of every outermost \boxed{}, in order. Malformed if one is not closed."""
    return [text[start:end] for start, end, _ in _boxes(text)]


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """For each box, where its content starts and ends, and where the box ends."""
    found, position = [], 0
    while opening := _BOX.search(text, position):
        start = position = opening.end()
        if opening["bare"]:
            found.append((start - 1, start, start))
            continue
        depth = 1
        for brace in BRACE.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                break
        else:
            raise Malformed(r"\boxed{ is not closed")
        position = brace.end()
        found.append((start, brace.start(), position))
    return found


def _boxed_answers(text: str) -> list[str]:
    r"""The boxes, or the one list that they are. Malformed if one is part of a larger expression: -\boxed{18}."""
    boxes = _boxes(text)
    for start, _, end in boxes:
        if _BEFORE.search(text[max(0, start - 30) : text.rfind("\\", 0, start)]) or _AFTER.match(text, end):
            raise Malformed("a box that is part of an expression")
    contents = [text[start:end] for start, end, _ in boxes]
    between = [text[end : text.rfind("\\", end, start)] for (_, _, end), (start, _, _) in itertools.pairwise(boxes)]
    one_list = len(boxes) > 1 and all(len(gap) < 30 and _BETWEEN.fullmatch(gap) for gap in between)
    return [", ".join(contents)] if one_list and len(set(contents)) > 1 else contents


def _tags(text: str) -> list[str]:
    head, *rest = text.split("<answer>")
    if "</answer>" in head:
        raise Malformed("</answer> without <answer>")
    contents = []
    for number, part in enumerate(rest, 1):
        content, closed, after = part.partition("</answer>")
        if not closed:
            raise Malformed("<answer> is not closed")
        if "</answer>" in after or (after.strip() and number == len(rest)):
            raise Malformed("text after </answer>")
        contents.append(content)
    return contents


def _hashes(text: str) -> list[str]:
    """What stands behind ####, but for headings such as "#### Step 1"."""
    found = list(_HASHES.finditer(text))
    stated = [one[1] for one in found if not text[one.end() :].strip() or _is_value(one[1])]
    return stated or [one[1] for one in found]


def _is_value(text: str) -> bool:
    """Whether a text is surely an answer, and no heading or half of a sentence: a number, or the letter of a choice."""
    text = tidy(text[:MAX_ANSWER])
    return quantity(text) is not None or bool(re.fullmatch(r"\(?[A-J]\)?", text))


def _last_line(text: str) -> list[str]:
    return text.strip().splitlines()[-1:]


_READERS: Mapping[Place, Callable[[str], list[str]]] = {
    "tag": _tags,
    "boxed": _boxed_answers,
    "hashes": _hashes,
    "phrase": _PHRASE.findall,
    "last_line": _last_line,
}


def _unboxed(answer: str) -> list[str]:
    """`<answer>It is \\boxed{42}.</answer>` answers 42."""
    return (_boxed_answers(answer) if "\\boxed" in answer else []) or [answer]


def _single(answers: list[str]) -> str:
    if max(map(len, answers)) > MAX_ANSWER:
        raise Malformed(f"an answer of more than {MAX_ANSWER} characters")
    answers = [mended(one).strip() for answer in answers for one in _unboxed(answer)]
    answers = [answer for answer in answers if answer] or [""]  # an echo of "put it into \\boxed{}" is no answer
    spellings = list(dict.fromkeys(tidy(answer) for answer in answers))
    if len(spellings) > MAX_ANSWERS or not all(same_answer(spelling, spellings[-1]) for spelling in spellings):
        shown = ", ".join(repr(answer[:40]) for answer in answers[:3])
        raise Malformed(f"{len(answers)} answers that differ: {shown}")
    return answers[-1]


def read_answer(completion: str, read: Sequence[Place] = STRICT) -> Reading:
    """The completion's one final answer, by the rules at the top of this file. What fails is the failure `error`.

    Raises ValueError if `read` is empty or names an unknown place.
    """
    if not read or any(source not in _READERS for source in read):
        raise ValueError(f"read: got {list(read)}, expected some of {list(_READERS)}")
    return attempt(lambda reason: Reading(None, "error", reason), _read, completion, read)


def graded(completion: str, read: Sequence[Place], grade: Callable[[str], Verdict]) -> Score:
    """The score of a completion whose one final answer `grade` judges. What fails is the outcome `error`.

    Raises ValueError as `read_answer` does.
    """
    reading = read_answer(completion, read)
    if (answer := reading.answer) is None:
        return score(reading.failure or "no_answer", None, reading.reason)
    outcome, reason = attempt(error, grade, answer)
    return score(outcome, answer, reason)


def _one_of(found: Mapping[str, list[str]]) -> Reading:
    """The first source's answer. Malformed if another source's is not the same; an empty one is passed over."""
    first = next(iter(found))
    unmarked = [source for source in found if source not in ("tag", "boxed", first)]  # headings, halves of sentences
    found = {**found, **{source: [one for one in found[source] if _is_value(one)] for source in unmarked}}
    stated = {source: answer for source, answers in found.items() if answers and (answer := _single(answers))}
    if not stated:
        return Reading(None, "no_answer", f"empty {first}")
    (source, answer), *others = stated.items()
    for other, said in others:
        if not _agree(said, answer):
            raise Malformed(f"two answers that differ: {answer[:40]!r} ({source}) and {said[:40]!r} ({other})")
    return Reading(answer, None, source)


def _agree(one: str, other: str) -> bool:
    one, other = tidy(one), tidy(other)
    return same_answer(one, other) or same_answer(other, one)


def _read(completion: str, read: Sequence[Place]) -> Reading:
    text = after_thinking(completion[:-100] + _SPECIAL.sub("", completion[-100:]))
    if text is None:
        return Reading(None, "no_answer", "the thinking is not finished: no </think> after the last <think>")
    try:
        sources = [source for source in read if source != "last_line"]
        found: dict[str, list[str]] = {source: answers for source in sources if (answers := _READERS[source](text))}
        if not found and "last_line" in read and (last := _last_line(text)):
            found = {"last_line": last}
        if found:
            return _one_of(found)
    except Malformed as problem:
        return Reading(None, "malformed", str(problem))
    return Reading(None, "no_answer", f"no answer in any of {', '.join(read)}")
