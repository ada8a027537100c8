r"""Language consistency (DeepSeek-R1, arXiv 2501.12948, section 2.3.2): the proportion of words of the target
language in the chain of thought.

The paper does not say how a word's language is found. Here it is by script, without a model: exact where a script
belongs to one language (zh, ja, ko, el, he, th ...); languages that share one (en and fr, ru and uk, ar and fa) are
not told apart.

- The chain of thought is what stands before the last `</think>`; without that tag, the whole text.
- A word is a run of letters of one script, marks included; in scripts without blanks (Chinese, Japanese, Thai ...)
  every letter is one.
- No words: code, mathematics between its delimiters, LaTeX commands, tags, numbers and names with a digit (x_1, 3cm),
  Latin and Greek letters alone (x), up to four capitals (a triangle ABC).
- A sentence of ideographs without kana is Chinese, not Japanese.
- A text without words has no such proportion: None, so it earns nothing and costs nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rewards.graded import Completion, text_of

_SCRIPTS = {  # by the first words of a letter's Unicode name
    "LATIN": "L", "CYRILLIC": "C", "GREEK": "G", "HEBREW": "H", "ARABIC": "A", "DEVANAGARI": "D", "BENGALI": "B",
    "TAMIL": "T", "TELUGU": "E", "ARMENIAN": "R", "GEORGIAN": "O", "HANGUL": "K",
    "CJK": "z", "IDEOGRAPHIC": "z", "HIRAGANA": "j", "KATAKANA": "j", "THAI": "t", "LAO": "l", "KHMER": "k",
    "MYANMAR": "m",
}  # fmt: skip
_OTHER = "?"  # a letter of any other script; a small letter stands for a script that is written without blanks
_LANGUAGES = {  # the scripts of a language: without the first, a sentence is not in it
    language: scripts
    for languages, scripts in (
        ("en de fr es it pt nl pl cs sv da no fi hu ro tr vi id sw", "L"), ("ru uk bg", "C"), ("el", "G"),
        ("he", "H"), ("ar fa ur", "A"), ("hi mr ne", "D"), ("bn", "B"), ("ta", "T"), ("te", "E"), ("hy", "R"),
        ("ka", "O"), ("ko", "K"), ("zh", "z"), ("ja", "jz"), ("th", "t"), ("lo", "l"), ("km", "k"), ("my", "m"),
    )
    for language in languages.split()
}  # fmt: skip

_NO_WORDS = re.compile(
    r"""```(?:(?!```).)*+(?:```|\Z)       | `[^`\n]*`                       # code, inline code
      | \$\$[^$]*\$\$ | \$[^$\n]*\$       | \\\[(?:(?!\\[\[\]]).)*+\\\]      # mathematics
      | \\\((?:(?!\\[()]).)*+\\\)         | \\(?:begin|end)\{\w*\}          | \\[a-zA-Z]+
      | </?\w+>
      | (?<![A-Za-z0-9_])(?:[A-Za-z]*+[0-9_][A-Za-z0-9_]*+ | (?:[A-Za-z]|[A-Z]{2,4})(?![A-Za-z0-9_]))
      | (?<![\u0370-\u03ff])[\u0370-\u03ff](?![\u0370-\u03ff])
    """,
    re.DOTALL | re.VERBOSE,
)
_SAME = re.compile(r"([^a-z])\1+")
_ENDS = frozenset(".!?\n\u3002\uff01\uff0e\uff1f")


def language_consistency(
    completions: Sequence[Completion], language: str | Sequence[str] = "en", **columns: Any
) -> list[float | None]:
    """The share of the chain of thought's words that are in `language`, 0.0 to 1.0; None if there are no words.

    language: an ISO 639-1 code for all rows, or a column of codes. Raises ValueError on an unknown one.
    """
    languages = [language] * len(completions) if isinstance(language, str) else language
    return [_share(text_of(text), _target(one)) for text, one in zip(completions, languages, strict=True)]


def _target(language: str) -> str:
    if language not in _LANGUAGES:
        raise ValueError(f"language: got {language!r}, expected one of {', '.join(sorted(_LANGUAGES))}")
    return _LANGUAGES[language]


def _share(text: str, target: str) -> float | None:
    before, closed, after = text.rpartition("</think>")
    letters = _NO_WORDS.sub(" ", before if closed else after).translate(_SCRIPT_OF)
    consistent = total = 0
    for sentence in _SAME.sub(r"\1", letters).split("\n"):
        words = Counter(sentence.replace(" ", ""))
        total += words.total()
        consistent += sum(words[script] for script in target) if words[target[0]] else 0
    return consistent / total if total else None


class _ScriptOf(dict[int, str]):
    """For str.translate: a letter's script; a line feed where a sentence ends; nothing for a mark; else a blank."""

    def __missing__(self, code: int) -> str:
        self[code] = script = _script(chr(code))
        return script


def _script(character: str) -> str:
    category = unicodedata.category(character)
    if character in _ENDS:
        return "\n"
    if category[0] not in "LM":
        return " "
    names = unicodedata.name(character, "").replace("-", " ").split()[:2]  # the first may be FULLWIDTH
    if category[0] == "L" and (script := next((_SCRIPTS[name] for name in names if name in _SCRIPTS), None)):
        return script
    if category in ("Lo", "Lu", "Ll", "Lt"):
        return " " if unicodedata.decomposition(character) else _OTHER  # blackboard letters and their like
    return ""  # belongs to the word that it stands in


_SCRIPT_OF = _ScriptOf()
