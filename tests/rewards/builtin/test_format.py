"""The shape of a completion, strict and graded."""

from __future__ import annotations

import pytest

from rewards.builtin.format import format, format_graded

CASES = [
    ("<think>a</think><answer>b</answer>", 1.0),
    ("<think>a</think>\n<answer>b</answer>\n", 1.0),
    ("<think>\na\n</think>\n\n<answer>\nb\n</answer>", 1.0),
    ("<think>a</think><answer>b</answer> and more", 0.75),
    ("<think>a</think><answer>b</answer>\nUser: next", 0.75),
    ("<think>a</think><answer>b</answer></answer>", 0.75),
    ("<think>a</think><answer> </answer>", 0.75),
    ("<think>a</think><answer>b", 0.75),
    ("<think>a</think> so <answer>b</answer>", 0.5),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 0.5),
    ("<think>a</think>b", 0.5),
    ("<think> </think><answer>b</answer>", 0.25),
    ("<think>a</think></think><answer>b</answer>", 0.25),
    ("<think>a<answer>b</answer></think>", 0.5),
    ("<think>a", 0.25),
    ("<think><think>a</think><answer>b</answer>", 0.0),
    ("x<think>a</think><answer>b</answer>", 0.0),
    ("a</think><answer>b</answer>", 0.0),
    ("<answer>b</answer>", 0.0),
    ("", 0.0),
]


@pytest.mark.parametrize(("text", "graded"), CASES)
def test_graded_gives_the_quarters_and_strict_only_the_whole(text: str, graded: float) -> None:
    assert format_graded([text]) == [graded]
    assert format([text]) == [1.0 if graded == 1.0 else 0.0]


def test_a_chat_is_judged_by_its_last_message() -> None:
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>a</think><answer>b</answer>"}]
    assert format([chat]) == [1.0]
    assert format([[{"role": "assistant", "content": None}]]) == [0.0]
