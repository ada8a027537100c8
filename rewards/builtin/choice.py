r"""Multiple choice: does the answer name the right option?

An option is named

    by its letter               B   b   (B)   B.   **B**   \text{B}   $\mathbf{(B)}$   option B   the answer is B
    by its letter and any text  B) Paris   (B) Paris   B. Paris   B: Paris
    by its own text             Paris                  where the row has `choices`

Capitals do not matter, in letters nor in texts (where two choices differ in nothing else, they do). An answer earns
nothing if it

- names several options (`A or B`, `A, B`, `AB`, `B) or C)`), unless the gold answer is such a set: then the same
  set in any order;
- contradicts itself: `B) Paris` where Paris is choice C, or `A` where A is the text of choice B;
- hides the letter in a sentence: `B because ...`, `not A`; or mentions another after it, `B) no, C`. Only the
  choice's own text may do that, where the row has `choices`: `B) vitamin C`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.types import Score
from rewards.verifier.extract import STRICT, Source, graded
from rewards.verifier.spelling import plain, tidy
from rewards.verifier.verdict import Verdict

Options = frozenset[int]  # 0 is option A

NONE: Options = frozenset()

_LETTER = re.compile(r"[(\[{\\]*([A-Za-z])[)\]}.:\\]*")
_BETWEEN = re.compile(
    r"[\s,;/&]+|\b(?:and|or|both|the|correct|final|answers?|options?|choices?|is|are)\b", re.IGNORECASE
)
_LABELLED = re.compile(r"[(\[]?(?P<letter>[A-Za-z])[)\].:]+\s*(?P<text>.+)", re.DOTALL)
_ANOTHER = re.compile(  # option beside the labelled one; not the article of `, a town`, nor the unit of `20 J`
    r"""(?:\b(?:and|or)\b|[,;/&])\s*[(\[]?(?![ai]\s+[a-z])[a-z]\b           # `or C`, `, c`
      | (?<!\S)[(\[]?[a-z][)\].:](?!\w)                                     # `(C)`, `c.`
      | (?-i:(?<![\d\u00b0])(?<![\d\u00b0]\s)\b(?![AI]\s+[a-z])[A-J]\b)      # `no wait C`
    """,
    re.IGNORECASE | re.VERBOSE,
)


@Graded
def multiple_choice(
    completions: Sequence[Completion],
    answer: Sequence[Any],
    choices: Sequence[Sequence[str] | None] | None = None,
    read: Sequence[Source] = STRICT,
    **columns: Any,
) -> list[Score]:
    """1.0 if the final answer names the option in the column `answer`, else 0.0; None if the gold names no option.

    answer: a letter, or a list of letters where several options are right; where the row has `choices` (their texts,
    in order), also the text of a choice, or its index from 0, as in MMLU (arXiv 2009.03300).
    `read` says where the answer may stand (rewards/verifier/extract.py).
    """
    rows = zip(completions, answer, choices or [None] * len(completions), strict=True)
    return [verify_choice(text_of(text), gold, texts, read) for text, gold, texts in rows]


def verify_choice(
    completion: str, gold: Any, choices: Sequence[str] | None = None, read: Sequence[Source] = STRICT
) -> Score:
    """Grade one multiple-choice answer. The outcome is `error` if the gold names no option, or could name two."""
    return graded(completion, read, lambda answer: _verdict(answer, gold, choices))


def _verdict(answer: str, gold: Any, choices: Sequence[str] | None) -> Verdict:
    if isinstance(choices, str | Mapping):
        kind = type(choices).__name__
        return "error", f"the column choices has a {kind}, expected a list of texts"
    texts = [str(text) for text in choices or ()]
    wanted, named = gold_options(gold, texts), named_options(answer, texts)
    if not wanted:
        return "error", f"the gold answer {gold!r} names no option of {texts or 'A to Z'}"
    if not named:
        return "malformed", f"{answer[:60]!r} does not name one option"
    if len(named) > len(wanted) == 1:
        return "malformed", f"{len(named)} options, {_letters(named)}, expected one"
    return "correct" if named == wanted else "wrong", f"{_letters(named)}, expected {_letters(wanted)}"


def named_options(answer: str, texts: Sequence[str] = ()) -> Options:
    """The options that an answer names; none if it can be read in two ways. Example: "(B) Paris" -> {1}."""
    cleaned = plain(answer.replace("**", "")).strip(" \n$.`\"'")
    label = _LABELLED.fullmatch(cleaned)
    if label and (own := _with_text(label["text"], texts)):
        return own & _listed(label["letter"])
    listed, written = _listed(cleaned), _with_text(answer, texts)
    if listed and written:
        return listed if listed == written else NONE
    if label and not (listed or written or _ANOTHER.search(label["text"])):
        return _listed(label["letter"])
    return listed or written or _run_together(cleaned)


def gold_options(gold: Any, texts: Sequence[str] = ()) -> Options:
    """The options that are right; none if `gold` names none, or could name two. A whole number is an index."""
    if isinstance(gold, list | tuple | set | frozenset):
        each = [gold_options(one, texts) for one in gold]
        return NONE.union(*each) if all(each) else NONE
    readings = {_by_index(str(gold), texts)}  # recipes hold the answer as text, so that an index may be "2"
    if not isinstance(gold, Integral):
        readings.add(named_options(str(gold), texts))
    readings -= {NONE}
    options = readings.pop() if len(readings) == 1 else NONE
    return options if not texts or all(option < len(texts) for option in options) else NONE


def _by_index(text: str, texts: Sequence[str]) -> Options:
    return frozenset(i for i in range(len(texts)) if str(i) == text.strip())


def _listed(text: str) -> Options:
    """The letters of "B", "option (B)" or "A, B and C", if there is nothing else."""
    letters = [_LETTER.fullmatch(part) for part in _BETWEEN.split(text) if part]
    return frozenset(_index(letter[1]) for letter in letters if letter) if all(letters) else NONE


def _run_together(text: str) -> Options:
    """The letters of "ACD", capitals in their order as answer keys give them."""
    in_order = list(text) == sorted(set(text))
    return frozenset(map(_index, text)) if in_order and re.fullmatch("[A-Z]+", text) else NONE


def _with_text(answer: str, texts: Sequence[str]) -> Options:
    """The choice whose text is the answer; where capitals tell two choices apart, they count."""
    wanted, keys = _key(answer), [_key(text) for text in texts]
    found = [i for i, key in enumerate(keys) if key.casefold() == wanted.casefold()]
    if len(found) > 1:
        found = [i for i in found if keys[i] == wanted]
    return frozenset(found) if len(found) == 1 else NONE


def _key(text: str) -> str:
    return plain(tidy(text))


def _index(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _letters(options: Options) -> str:
    return ", ".join(chr(ord("A") + option) if option < 26 else f"number {option + 1}" for option in sorted(options))
