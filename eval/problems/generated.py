"""Problems that a program makes: endless, always solvable, graded, and split by what they are.

    rows = generate("arithmetic", "train", n=1000, seed=0, levels=[1, 2])
    rows[0]  # {"id": "arithmetic/37+85", "question": "37 + 85", "answer": "122", "level": 1}

arithmetic                                      countdown (every number exactly once, exact division only)
    1  a + b, each of 1 to 99                       1  three numbers to 10, with + and -
    2  a - b, a of two digits, b at most a          2  three numbers to 25, with + - * /
    3  a + b, three digits each                     3  four numbers to 50, with + - * /
    4  a - b, three digits each, b at most a
    5  a ± b ± c, two digits each, never negative
    6  a * b, a of two or three digits, b of one

Which split a problem belongs to is decided by a hash of the problem, so no seed and no size can make
the splits overlap. Problems that differ in the order of what is added, multiplied or given share a
split, so that held-out problems are not train problems turned round. One in five is held out.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any, Literal

from rewards.nearest import did_you_mean

Split = Literal["train", "held_out"]
Row = dict[str, Any]  # column -> value
Draw = Callable[[random.Random], Row]  # one random problem; `key` is the problem up to reordering

HELD_OUT_ONE_IN = 5
MAX_MISSES = 50_000  # draws in a row without a new problem, after which a level counts as exhausted


def generate(name: str, split: Split, n: int, seed: int, **config: Any) -> list[Row]:
    """`n` different problems of `split`, the same for the same arguments.

    `config` takes `levels`, a list of difficulties (all of them if absent); rows take them in turn, so
    that any first part of the result is balanced, and a smaller `n` gives a first part of a larger one.
    Each row has `id`, `question`, `answer`, `level`; countdown's also `numbers`, `target`, and its answer
    is an expression that solves it. ValueError: an unknown name, split, key or level, or too large an `n`.
    """
    levels = _levels(name, config)
    if split not in ("train", "held_out"):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'held_out'")
    seen: set[str] = set()
    streams = [_problems(name, split, level, seed, seen) for level in levels]
    rows: list[Row] = []
    for i in range(n):
        row = next(streams[i % len(levels)], None)
        if row is None:
            raise ValueError(
                f"{name}: level {levels[i % len(levels)]} has no more than {i // len(levels)} {split} problems, "
                f"too few for n={n} over levels {levels}; lower n to {i} or add levels"
            )
        rows.append(row)
    return rows


def _levels(name: str, config: dict[str, Any]) -> list[int]:
    if name not in TASKS:
        raise ValueError(f"unknown generated task {name!r}{did_you_mean(name, TASKS)}; there are {', '.join(TASKS)}")
    for key in config:
        if key != "levels":
            raise ValueError(f"{name}: unknown key {key!r}{did_you_mean(key, ['levels'])}; allowed: levels")
    known = TASKS[name]
    levels = config.get("levels", list(known))
    if not isinstance(levels, list) or not levels or len(set(levels)) < len(levels) or not set(levels) <= set(known):
        raise ValueError(f"{name}: levels must be a list of different levels among {list(known)}, got {levels!r}")
    return levels


def _problems(name: str, split: Split, level: int, seed: int, seen: set[str]) -> Iterator[Row]:
    """Problems of one level that are not in `seen`, until `MAX_MISSES` draws in a row bring none."""
    rng = random.Random(f"{name}/{split}/{level}/{seed}")
    draw, misses = TASKS[name][level], 0
    while misses < MAX_MISSES:
        problem = draw(rng)
        key, label = problem.pop("key"), problem.pop("label")
        if label in seen or split_of(f"{name}/{key}") != split:
            misses += 1
            continue
        seen.add(label)
        misses = 0
        yield {"id": f"{name}/{label}", **problem, "level": level}


def split_of(key: str) -> Split:
    """The split that a problem belongs to for ever, by SHA-256 of its key."""
    digest = hashlib.sha256(key.encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0 else "train"


def _arithmetic(first: int, rest: list[tuple[str, int]]) -> Row:
    """`first` followed by (operator, operand) pairs, left to right."""
    question = " ".join([str(first), *(f"{op} {operand}" for op, operand in rest)])
    if rest[0][0] == "*":
        answer, key = first * rest[0][1], "*".join(map(str, sorted([first, rest[0][1]])))
    else:
        terms = [first, *(operand if op == "+" else -operand for op, operand in rest)]
        answer, key = sum(terms), "+".join(map(str, sorted(terms)))
    return {"key": key, "label": question.replace(" ", ""), "question": question, "answer": str(answer)}


def _sum_to_99(rng: random.Random) -> Row:
    return _arithmetic(rng.randint(1, 99), [("+", rng.randint(1, 99))])


def _difference(rng: random.Random) -> Row:
    a = rng.randint(10, 99)
    return _arithmetic(a, [("-", rng.randint(1, a))])


def _sum_of_three_digits(rng: random.Random) -> Row:
    return _arithmetic(rng.randint(100, 999), [("+", rng.randint(100, 999))])


def _difference_of_three_digits(rng: random.Random) -> Row:
    a = rng.randint(100, 999)
    return _arithmetic(a, [("-", rng.randint(100, a))])


def _three_operands(rng: random.Random) -> Row:
    while True:
        a, b, c = (rng.randint(10, 99) for _ in range(3))
        x, y = rng.choice("+-"), rng.choice("+-")
        after_b = a + b if x == "+" else a - b
        if after_b >= 0 and (y == "+" or after_b >= c):  # nothing is ever negative on the way
            return _arithmetic(a, [(x, b), (y, c)])


def _product(rng: random.Random) -> Row:
    return _arithmetic(rng.randint(10, 999), [("*", rng.randint(2, 9))])


def _countdown(count: int, largest: int, operators: str) -> Draw:
    def draw(rng: random.Random) -> Row:
        while True:
            numbers = [rng.randint(1, largest) for _ in range(count)]
            target, answer = _combine(rng, numbers, operators)
            if 1 <= target <= 999 and target not in numbers:
                break
        label = f"{','.join(map(str, sorted(numbers)))}={target}"
        question = f"Use each of the numbers {', '.join(map(str, numbers))} exactly once, with {' '.join(operators)}"
        question += f" and parentheses, to make {target}."
        row = {"key": label, "label": label, "question": question, "answer": answer}
        return {**row, "numbers": numbers, "target": target}

    return draw


def _combine(rng: random.Random, numbers: list[int], operators: str) -> tuple[int, str]:
    """Join two random terms, until one is left: its value and its expression."""
    terms = [(number, str(number)) for number in numbers]
    while len(terms) > 1:
        rng.shuffle(terms)
        (a, left), (b, right) = terms.pop(), terms.pop()
        op = rng.choice(operators)
        if op == "/" and (b == 0 or a % b):
            op = "+"
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]
        terms.append((value, f"({left} {op} {right})"))
    value, expression = terms[0]
    return value, expression[1:-1]


TASKS: dict[str, dict[int, Draw]] = {
    "arithmetic": {
        1: _sum_to_99,
        2: _difference,
        3: _sum_of_three_digits,
        4: _difference_of_three_digits,
        5: _three_operands,
        6: _product,
    },
    "countdown": {1: _countdown(3, 10, "+-"), 2: _countdown(3, 25, "+-*/"), 3: _countdown(4, 50, "+-*/")},
}
