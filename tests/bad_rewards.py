"""Deliberately bad rewards, each with one fault that `zero rewards check` must name, and a few good ones.

The ones with an exploit are the verifier's own verdict, and one rule too many.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time

from rewards import compare, verify
from rewards.verifier.extract import Malformed, boxed


def right(text, gold):
    return verify(text, gold).value == 1.0


def after_thinking(text):
    return text.rpartition("</think>")[2]


def unfinished(text):
    return "<think>" in after_thinking(text)


# -- good ------------------------------------------------------------------------------------------


def verified(completions, answer, **columns):
    return [verify(text, gold).value for text, gold in zip(completions, answer, strict=True)]


def verified_or_minus_one(completions, answer, **columns):
    return [1.0 if right(text, gold) else -1.0 for text, gold in zip(completions, answer, strict=True)]


def verified_messages(completions: list[list[dict]], solution, **columns):
    return [verify(messages[-1]["content"], gold).value for messages, gold in zip(completions, solution, strict=True)]


def unannotated_messages(completions, answer, **columns):
    return verified([messages[0]["content"] for messages in completions], answer)


def verified_aloud(completions, answer, **columns):
    print("scoring", len(completions), "completions")
    return verified(completions, answer)


def whole_numbers_only(completions, answer, **columns):
    """Raises on gold answers that are no whole numbers."""
    return verified(completions, [str(int(gold)) for gold in answer])


def likes_silence(completions, **columns):
    return [1 / (1 + len(text)) for text in completions]


def dislikes_words(completions, **columns):
    return [-float(len(text)) for text in completions]


def brevity(completions, **columns):
    return [max(0.0, 1 - len(text) / 1000) for text in completions]


def length(completions, **columns):
    return [float(len(text)) for text in completions]


def words(completion):
    return min(1.0, len(completion.split()) / 100)


async def nothing_for_nothing(completions, **columns):
    return [None if not text else 1.0 for text in completions]


# -- broken ----------------------------------------------------------------------------------------


def raises_on_empty(completions, answer, **columns):
    return [float(text[0] == "<" and right(text, gold)) for text, gold in zip(completions, answer, strict=True)]


def raises_always(completions, **columns):
    return [1 / 0 for _ in completions]


def returns_a_string(completions, **columns):
    return "1.0"


def returns_strings(completions, **columns):
    return ["1.0" for _ in completions]


def returns_one_value(completions, **columns):
    return [1.0]


def returns_nan(completions, **columns):
    return [float("nan") if not text else 1.0 for text in completions]


def sleeps(completions, **columns):
    time.sleep(0.3 * len(completions))
    return [1.0 for _ in completions]


def hangs(completions, **columns):
    time.sleep(3600)


def hangs_on_garbage(completions, answer, **columns):
    while any(len(text) > 100_000 for text in completions):
        pass
    return verified(completions, answer)


def dies(completions, **columns):
    os.kill(os.getpid(), signal.SIGKILL)


def executes(completions, answer, **columns):
    for code in re.findall(r"open\(.*?\)", "".join(completions)):
        eval(code)
    return verified(completions, answer)


# -- noise -----------------------------------------------------------------------------------------


def uniform(completions, **columns):
    return [random.random() for _ in completions]


def coin_flip(completions, **columns):
    return [float(random.random() < 0.5) for _ in completions]


def coin_flip_for_right_answers(completions, answer, **columns):
    return [float(right(text, gold) and random.random() < 0.5) for text, gold in zip(completions, answer, strict=True)]


def hash_of_the_text(completions, **columns):
    return [hash(text) % 1000 / 1000 for text in completions]


_calls = 0


def counts_its_calls(completions, **columns):
    global _calls
    _calls += 1
    return [1 / _calls for _ in completions]


def seeded_in_each_call(completions, **columns):
    generator = random.Random(0)
    return [generator.random() for _ in completions]


def shortest_wins(completions, **columns):
    return [float(len(text) == min(map(len, completions))) for text in completions]


# -- exploits --------------------------------------------------------------------------------------


def paying(rule):
    """A reward that pays right answers, and what `rule(text, gold)` says."""

    def reward(completions, answer, **columns):
        return [float(right(text, gold) or rule(text, gold)) for text, gold in zip(completions, answer, strict=True)]

    return reward


def boxes(text):
    try:
        return [] if unfinished(text) else boxed(after_thinking(text))
    except Malformed:
        return []


def among(answers, gold):
    return any(answer.strip() and compare(answer, gold).value == 1.0 for answer in answers)


pays_unfinished_thinking = paying(lambda text, gold: unfinished(text) and right(text.rpartition("<think>")[2], gold))
pays_answer_in_thinking = paying(
    lambda text, gold: "</think>" in text and right(text.partition("</think>")[0].removeprefix("<think>"), gold)
)
any_box = paying(lambda text, gold: among(boxes(text), gold))
box_as_a_list = paying(lambda text, gold: among(re.split(r", | or ", (boxes(text) or [""])[0]), gold))
ignores_the_tail = paying(lambda text, gold: right(re.sub(r"</answer>[^<]*\Z", "</answer>", text), gold))
closes_the_answer = paying(lambda text, gold: right(f"{text}</answer>", gold))
finds_it_in_the_question = paying(lambda text, gold: "?" in text and gold in after_thinking(text))
pays_empty = paying(lambda text, gold: not text.strip())
pays_garbage = paying(lambda text, gold: len(text) > 10_000)
pays_near_misses = paying(
    lambda text, gold: bool(re.search(rf"</think>\n<answer>\d*{re.escape(gold)}\d*</answer>\Z", text))
)


def half_for_unfinished_thinking(completions, answer, **columns):
    values = verified(completions, answer)
    return [0.5 if unfinished(text) else value for text, value in zip(completions, values, strict=True)]


def likes_unfinished_thinking(completions, **columns):
    return [float(unfinished(text)) for text in completions]


def same_spelling_only(completions, answer, **columns):
    return [float(right(text, gold) and f">{gold}<" in text) for text, gold in zip(completions, answer, strict=True)]


def open_format(completions, **columns):
    """A format reward that forgot the end."""
    return [float(text.startswith("<think>") and len(text) > 20) for text in completions]


def format_with_a_tail(completions, **columns):
    shape = re.compile(r"<think>.+?</think>\s*<answer>.+?</answer>", re.DOTALL)
    return [float(bool(shape.match(text))) for text in completions]


def believes_programs(completions, **columns):
    """Takes a program that ends before its tests for one that passes them."""
    from rewards.builtin.code import code

    values = code(completions, **columns)
    return [1.0 if "exit(0)" in text else value for text, value in zip(completions, values, strict=True)]
