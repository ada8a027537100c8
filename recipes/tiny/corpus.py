"""What the built-in model reads before any reinforcement: a few careful solutions among many quick guesses.

    37 + 85=<think>7+5=12;3+8+1=12</think><answer>122</answer>      careful: column by column, with carries
    37 + 85=<think>easy</think><answer>12</answer>                  quick: carries forgotten, or a digit misread

Both follow the same prompt, so the model learns both and mostly guesses, like a base model that can reason
but rarely does. Reinforcement has to find out that care pays.
"""

from __future__ import annotations

import random

PROMPT = "{question}=<think>"
LEVELS = [1, 2, 3, 4]  # of the arithmetic task: sums and differences of up to three digits
QUICK_THOUGHTS = ("easy", "guess")
MISREAD = 0.35  # share of the quick guesses in which a digit is wrong on top


def careful(question: str) -> str:
    """The worked solution of `a + b` or of `a - b` (a at least b), right and complete."""
    a, op, b = question.split()
    width = max(len(a), len(b))
    columns = zip(reversed(a.zfill(width)), reversed(b.zfill(width)), strict=True)
    steps, carry = [], 0
    for x, y in columns:
        step, carry = (_add if op == "+" else _subtract)(int(x), int(y), carry)
        steps.append(step)
    answer = int(a) + int(b) if op == "+" else int(a) - int(b)
    return _completion(";".join(steps), str(answer))


def _add(x: int, y: int, carry: int) -> tuple[str, int]:
    total = x + y + carry
    return f"{x}+{y}{'+1' if carry else ''}={total}", total // 10


def _subtract(x: int, y: int, borrowed: int) -> tuple[str, int]:
    borrow = x < y + borrowed
    top = x + 10 if borrow else x
    return f"{top}-{y}{'-1' if borrowed else ''}={top - y - borrowed}", int(borrow)


def quick(question: str, rng: random.Random) -> str:
    """A guess: each column on its own, carries forgotten. Right only where there is nothing to carry."""
    a, op, b = question.split()
    width = max(len(a), len(b))
    columns = zip(a.zfill(width), b.zfill(width), strict=True)
    digits = [(int(x) + int(y)) % 10 if op == "+" else abs(int(x) - int(y)) for x, y in columns]
    if rng.random() < MISREAD:
        digits[rng.randrange(width)] = rng.randrange(10)
    return _completion(rng.choice(QUICK_THOUGHTS), str(int("".join(map(str, digits)))))


def _completion(thought: str, answer: str) -> str:
    return f"{thought}</think><answer>{answer}</answer>"
