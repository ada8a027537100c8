"""Pretrain the models of `r1_tiny_cpu`: `python -m recipes.tiny.bilingual base|student --output DIR [--seed S]`.

What DeepSeek-V3-Base is to DeepSeek-R1 (arXiv 2501.12948), in miniature: a model that can reason a little, seldom does,
and mixes two languages when it does. It reads sums and differences of the train split, and for each a quick guess or a
worked solution whose steps are in English or in Chinese:

    37 + 85=<think>easy</think><answer>12</answer>
    37 + 85=<think>7 plus 5 is 12.3加8加1是12。</think><answer>122</answer>

A word is one token, so that both languages take as many. Both models stop learning early: there is something left for
reinforcement to teach. At temperature 1 and held to care, the base model of 0.65M parameters is right in 62% of 400
held-out problems, the student of 0.11M in 31%; left alone they take care in one of eight.

`recipes/tiny/bilingual_model` and `recipes/tiny/student_model` are what seed 0 made with OMP_NUM_THREADS=1, in 3
minutes and in 1; the same seed on the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from recipes.tiny.corpus import careful, quick
from recipes.tiny.pretrain import fit, qwen3, save, train_rows
from recipes.tiny.tokenizer import build_tokenizer

WORDS = {
    "en": {"+": " plus ", "-": " minus ", "=": " is ", ";": "."},
    "zh": {"+": "加", "-": "减", "=": "是", ";": "。"},
}
THOUGHTS = ("easy", "易")  # of a quick guess
HABIT = 0.8  # how often a step is in the language of its kind
BATCH = 64
LEARNING_RATE = 3e-3
CAREFUL_SHARE, LAST_CAREFUL_SHARE = 0.6, 0.1  # of the text, before and in the last part
LAST_PART = 0.2  # of the steps


class Size(NamedTuple):
    width: int
    layers: int
    heads: int
    steps: int


SIZES = {"base": Size(128, 3, 2, 800), "student": Size(64, 2, 1, 1050)}


def build_bilingual_tokenizer() -> PreTrainedTokenizerFast:
    """That of the built-in model, and a token for each word."""
    words = [word for of_language in WORDS.values() for word in of_language.values() if word != "."]
    return build_tokenizer([*words, *THOUGHTS])


def worked(question: str, rng: random.Random | None = None) -> str:
    """The careful solution: in English, or by `rng` in both languages.

    A step with a carry is then in Chinese four times in five, and one without in English, so that the likeliest text
    is a mixture, too.
    """
    steps, tag, rest = careful(question).partition("</think>")
    spoken = []
    for step in steps.split(";"):
        carries = len(re.findall(r"[-+]", step)) == 2
        chinese = rng is not None and carries == (rng.random() < HABIT)
        words = WORDS["zh" if chinese else "en"]
        spoken.append("".join(words.get(sign, sign) for sign in f"{step};"))
    return "".join(spoken) + tag + rest


def guessed(question: str, rng: random.Random) -> str:
    """A quick guess, with a thought of one word."""
    _, tag, rest = quick(question, rng).partition("</think>")
    return rng.choice(THOUGHTS) + tag + rest


def build_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> Qwen3ForCausalLM:
    return qwen3(tokenizer, size.width, 3 * size.width, size.layers, size.heads)


def pretrain(size: Size, seed: int) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """A model of the size, and its tokenizer."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    rows = train_rows(seed)
    tokenizer = build_bilingual_tokenizer()
    model = build_model(tokenizer, size)

    def write(step: int) -> tuple[list[str], list[str]]:
        share = LAST_CAREFUL_SHARE if step >= (1 - LAST_PART) * size.steps else CAREFUL_SHARE
        questions = [rng.choice(rows[rng.choice([*rows])])["question"] for _ in range(BATCH)]
        return questions, [worked(q, rng) if rng.random() < share else guessed(q, rng) for q in questions]

    def rate(step: int) -> float:
        return LEARNING_RATE * min(1.0, (step + 1) / 100) * max(0.05, 1 - step / size.steps)

    fit(model, tokenizer, write, size.steps, rate, autocast=False)
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the base model or the student of r1_tiny_cpu.")
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    save(*pretrain(SIZES[args.size], args.seed), args.output)


if __name__ == "__main__":
    main()
