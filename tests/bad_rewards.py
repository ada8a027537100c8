"""Deliberately bad rewards: `zero rewards check` must catch each by name (tests/test_rewards_check.py)."""

from __future__ import annotations

import os
import random
import re
import signal
import time

from rewards import verify

BOX = re.compile(r"\\boxed\{([^{}]*)\}")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def _last_box(text: str) -> str:
    return (BOX.findall(text.rpartition("</think>")[2]) or [""])[-1]


# -- broken ----------------------------------------------------------------------------------------


def raises_on_empty(completions, answer, **columns):
    return [float(text.split()[-1].strip("$.").endswith(gold)) for text, gold in zip(completions, answer, strict=True)]


def raises_always(completions, answer, **columns):
    return [1 / 0 for _ in completions]


def returns_a_string(completions, **columns):
    return "1.0"


def returns_strings(completions, **columns):
    return ["1.0" for _ in completions]


def returns_one_value(completions, **columns):
    return [1.0]


def returns_nan(completions, **columns):
    return [float("nan") if not text.strip() else 1.0 for text in completions]


def sleeps(completions, **columns):
    time.sleep(0.3 * len(completions))
    return [1.0 for _ in completions]


def hangs(completions, **columns):
    time.sleep(3600)


def hangs_on_garbage(completions, answer, **columns):
    while any(len(text) > 100_000 for text in completions):
        pass
    return [float(_last_box(text) == gold) for text, gold in zip(completions, answer, strict=True)]


def dies(completions, **columns):
    os.kill(os.getpid(), signal.SIGKILL)


def evaluates(completions, numbers, target, **columns):
    return [float(_value(text) == goal) for text, goal in zip(completions, target, strict=True)]


def _value(text):
    try:
        return eval(re.findall(r"<answer>(.*?)</answer>", text)[-1])
    except Exception:
        return None


# -- noise -----------------------------------------------------------------------------------------


def uniform(completions, **columns):
    return [random.random() for _ in completions]


def coin_flip(completions, **columns):
    return [float(random.random() < 0.5) for _ in completions]


def coin_flip_for_right_answers(completions, answer, **columns):
    return [
        float(_last_box(text) == gold and random.random() < 0.5) for text, gold in zip(completions, answer, strict=True)
    ]


def hash_of_the_text(completions, **columns):
    return [hash(text) % 1000 / 1000 for text in completions]


_seen = 0


def counts_its_calls(completions, **columns):
    global _seen
    _seen += 1
    return [1 / _seen for _ in completions]


def shortest_wins(completions, **columns):
    shortest = min(map(len, completions))
    return [float(len(text) == shortest) for text in completions]


def by_position(completions, **columns):
    return [float(place) for place, _ in enumerate(completions)]


# -- exploits --------------------------------------------------------------------------------------


def pays_unfinished_thinking(completions, answer, **columns):
    return [
        float((BOX.findall(text.replace("</think>", "")) or [""])[-1] == gold)
        for text, gold in zip(completions, answer, strict=True)
    ]


def pays_some_for_unfinished_thinking(completions, answer, **columns):
    return [
        0.5 if "</think>" not in text else float(_last_box(text) == gold)
        for text, gold in zip(completions, answer, strict=True)
    ]


def likes_unfinished_thinking(completions, **columns):
    return [float("<think>" in text and "</think>" not in text) for text in completions]


def any_box(completions, answer, **columns):
    return [
        float(gold in BOX.findall(text.rpartition("</think>")[2]))
        for text, gold in zip(completions, answer, strict=True)
    ]


def box_as_a_list(completions, answer, **columns):
    return [
        float(gold in re.split(r",\s*| or ", _last_box(text))) for text, gold in zip(completions, answer, strict=True)
    ]


def substring(completions, answer, **columns):
    return [float(gold in text.rpartition("</think>")[2]) for text, gold in zip(completions, answer, strict=True)]


def thinking_counts(completions, answer, **columns):
    return [float(gold in text.partition("</think>")[0]) for text, gold in zip(completions, answer, strict=True)] and [
        float(f"\\boxed{{{gold}}}" in text) for text, gold in zip(completions, answer, strict=True)
    ]


def open_ended_tag(completions, answer, **columns):
    return [
        float(bool(re.search(rf"</think>\s*<answer>\s*{re.escape(gold)}", text)))
        for text, gold in zip(completions, answer, strict=True)
    ]


def empty_is_fine(completions, answer, **columns):
    return [float(not text.strip() or _last_box(text) == gold) for text, gold in zip(completions, answer, strict=True)]


def forgiving(completions, answer, **columns):
    """Pays whatever it cannot read."""
    return [
        float(not BOX.search(text) or _last_box(text) == gold) for text, gold in zip(completions, answer, strict=True)
    ]


def first_digits(completions, answer, **columns):
    return [
        float(bool(_last_box(text)) and gold.startswith(_last_box(text)[:1]))
        for text, gold in zip(completions, answer, strict=True)
    ]


def open_format(completions, **columns):
    """A format reward that forgot the end."""
    return [float(text.startswith("<think>") and len(text) > 20) for text in completions]


def format_with_a_tail(completions, **columns):
    shape = re.compile(r"<think>.+?</think>\s*<answer>.+?</answer>", re.DOTALL)
    return [float(bool(shape.match(text))) for text in completions]


# -- good ------------------------------------------------------------------------------------------


def exact_box(completions, answer, **columns):
    """Strict: one box after the thinking, spelled as the gold answer up to blanks and LaTeX spacing."""
    return [float(_strict(text, gold)) for text, gold in zip(completions, answer, strict=True)]


def _strict(text, gold):
    after = text.rpartition("</think>")[2]
    boxes = BOX.findall(after)
    return "<think>" not in after and len(boxes) == 1 and boxes[0].strip() == gold


def verified(completions, answer, **columns):
    return [verify(text, gold).value for text, gold in zip(completions, answer, strict=True)]


def brevity(completions, **columns):
    return [max(0.0, 1 - len(text) / 1000) for text in completions]


def length(completions, **columns):
    return [float(len(text)) for text in completions]


def word_count(completion):
    return min(1.0, len(completion.split()) / 100)


async def later(completions, **columns):
    return [None if not text else 1.0 for text in completions]
