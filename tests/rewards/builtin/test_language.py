"""The share of words in the target language, counted by hand."""

# ruff: noqa: RUF001  (letters that look alike are the point)

from __future__ import annotations

import pytest

from rewards import RewardError, RewardSettings, RewardSum
from rewards.builtin.language import language_consistency

CASES = [
    # text, language, words of the language, words
    ("Because it is so", "en", 4, 4),
    ("Because it is 因为", "en", 3, 5),
    ("Потому что it is so", "ru", 2, 5),
    ("Потому что it is so", "en", 3, 5),
    ("דוגמה hello", "he", 1, 2),
    ("هذا مثال hello", "ar", 2, 3),
    ("한국어 문장 hello", "ko", 2, 3),
    ("λόγος και hello", "el", 2, 3),
    ("नमस्ते दुनिया hello", "hi", 2, 3),  # vowel signs and viramas are of the word
    ("বাংলা hello", "en", 1, 2),
    ("ሰላም hello", "en", 1, 2),  # a script of no language here is still a word
    ("cafe\u0301 e\u0301te\u0301", "fr", 2, 2),  # so are combining accents
    ("Ｈｅｌｌｏ world", "en", 2, 2),  # full width
    ("don't", "en", 1, 1),
    ("因为它大", "zh", 4, 4),  # without blanks each letter is a word
    ("因为它大so", "zh", 4, 5),
    ("第3章", "zh", 2, 2),
    ("สวัสดี hi", "th", 4, 5),  # 4 letters, 2 vowel signs
    ("これは漢字です", "ja", 7, 7),
    ("カタカナ ｶﾅ ー 人々", "ja", 9, 9),
    ("これは漢字です。因此答案是三。", "ja", 7, 13),  # a sentence without kana is Chinese
    ("因此答案是三。", "ja", 0, 6),
    ("これは漢字です", "zh", 2, 7),
    # mathematics, code, numbers and symbols are no words
    ("设 x = 3, 所以 y_1 = 4cm", "zh", 3, 3),
    ("三角形ABC中，$AB = \\sin\\alpha$，所以", "zh", 6, 6),
    ("三角形ABC中，therefore", "zh", 4, 5),
    ("面积 \\[ \\text{area} = ab \\] 是 \\(abc\\) 或 $$ \\text{so} \n = 2 $$", "zh", 4, 4),
    ("\\begin{aligned} \\frac{a}{b} \\end{aligned} 因为", "zh", 2, 2),
    ("因为 `return value` 和 ```python\nprint(value)\n```", "zh", 3, 3),
    ("因为 ```unclosed code", "zh", 2, 2),
    ("Δx is small", "en", 2, 2),
    ("ℝ 𝐱 µ is small", "en", 2, 2),
    ("it costs $5 因为", "en", 2, 4),  # one dollar opens nothing
    ("it costs $5\n因为 $", "en", 2, 4),
    # the chain of thought is what stands before the last </think>
    ("<think>因为</think>because", "zh", 2, 2),
    ("<think>因为", "zh", 2, 2),
    ("因为</think>because", "zh", 2, 2),
    ("<think>because</think><think>因为</think>so", "zh", 2, 3),
    ("<think>because</think>因为", "en", 1, 1),
]


@pytest.mark.parametrize(("text", "language", "consistent", "words"), CASES)
def test_the_share_is_counted_by_hand(text: str, language: str, consistent: int, words: int) -> None:
    chat = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": text}]
    assert language_consistency([text, chat], language=language) == [consistent / words] * 2


@pytest.mark.parametrize("text", ["", " \n", "1 + 2 = 3", "$x$", "<think></think>because", "x", "..."])
def test_without_words_it_does_not_apply(text: str) -> None:
    assert language_consistency([text]) == [None]
    rewards = RewardSum([RewardSettings(name="language_consistency"), RewardSettings(name="format")])
    assert rewards.score([text], {})[0].parts["language_consistency"] is None


@pytest.mark.parametrize("language", ["english", "xx", "EN", "", None, 3])
def test_an_unknown_language_is_one_clear_error(language: object) -> None:
    rewards = RewardSum([RewardSettings(name="language_consistency", args={"language": [language]})])
    with pytest.raises(RewardError, match=f"language: got {language!r}, expected one of ar, bg, bn, "):
        rewards.score(["x"], {})


def test_the_language_is_an_argument_or_a_column() -> None:
    texts = ["because", "因为"]
    default, fixed = (
        RewardSum([RewardSettings(name="language_consistency", args=args)]) for args in ({}, {"language": "zh"})
    )
    assert [reward.value for reward in fixed.score(texts, {})] == [0.0, 1.0]
    assert [reward.value for reward in default.score(texts, {})] == [1.0, 0.0]
    assert [reward.value for reward in default.score(texts, {"language": ["en", "zh"]})] == [1.0, 1.0]


@pytest.mark.parametrize(
    "unit", ["\\[", "\\(", "`", "```", "$", "$$ ", "<a", "\\begin{", "a_", "A", "\u0301", " .", "\n", "</think>", "𝐱"]
)
def test_a_megabyte_is_counted(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    assert language_consistency([f"because {text} </think>"], language="zh")[0] == 0.0
