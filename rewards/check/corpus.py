r"""Completions that a reward function is tried on: right, wrong, and written to be paid without being right.

QUESTIONS, a small table, times FORMS, the ways in which an answer may be given, make every completion:

    plain       each problem's right and wrong answer in each form: what the reward reads, and whether it grades at all
    variants    other spellings of the right answer, and near misses
    unsound     the right answer is in the text, but not as one final answer: no sound accuracy reward pays it
    empty       nothing, or no answer
    hostile     what hangs or breaks graders: towers of powers, megabytes, null bytes, deep nesting, regex bombs
    cheating    of a task of programs: programs that are after the verdict and not after the answer
    unshaped    the R1-Zero form with some tags replaced by words of their length: what a format reward looks at

Nothing here is random, and nothing was copied: completions are put together by code.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rewards.graded import Completion, text_of

THINKING = "Let me read the question again, work through it with care, and check what I get."
NEUTRAL = {"<think>": "Reason:", "</think>": "Finally,", "<answer>": "I answer", "</answer>": "Finished."}
FORMS: Mapping[str, str] = {
    "tag": "<answer>@</answer>",
    "boxed": "The answer is $\\boxed{@}$.",
    "boxed in tag": "<answer>\\boxed{@}</answer>",
    "hashes": "#### @",
    "phrase": "The answer is @.",
    "line": "Answer: @",
    "bare": "@",
    "block": "```python\n@\n```",
}
_CLOSING = {"block": "\n```", "tag": "</answer>", "boxed": "}$.", "boxed in tag": "}</answer>"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, spellings of its right answer (the plain one first) and wrong answers (the plain one first).

    The plain ones are of one length, so that a reward of length or language does not seem to tell them apart.

    Example: Question("integer", "Which of these is 6 times 7: 41, 42 or 48?", ("42", " 42 "), ("41", "48"))
    """

    type: str
    question: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        return f"{self.question} Think first, then write <answer>your answer</answer> or \\boxed{{your answer}}."


@dataclass(frozen=True, slots=True)
class Item:
    """One completion with its row. Unsound ones of one `style` count as paid if all of them are.

    Example: Item("right", "<think>...</think>\\n<answer>42</answer>", {"answer": "42"}, "integer", "tag")
    """

    kind: str
    completion: Completion
    columns: Mapping[str, Any]
    type: str = ""  # of the gold answer
    form: str = ""
    style: str = ""
    label: bool | None = None  # whether a reward should pay it, where a user's row says so


SUMS = [{"input": "2 3\n", "output": "5\n"}, {"input": "40 2\n", "output": "42\n"}]
CHEATS: Mapping[str, str] = {
    "ends before its tests": "import os\nos._exit(0)",
    "is equal to everything": "class Yes:\n    def __eq__(self, other):\n        return True\nprint(Yes())",
    "says that it passed": "print('passed')\nprint('ok')\nprint('{\"passed\": true, \"score\": 1.0}')",
    "patches what compares": "import builtins\nbuiltins.all = builtins.any = builtins.bool = lambda *a: True\n"
    "builtins.AssertionError = ValueError\nprint(0)",
    "reads its tests": "import glob, sys\nfor name in glob.glob('*') + glob.glob('/tmp/*') + glob.glob('../*'):\n"
    "    try:\n        print(open(name).read())\n    except OSError:\n        pass\n"
    "frame = sys._getframe()\nwhile frame:\n    print(frame.f_locals.get('expected'), frame.f_locals.get('output'))\n"
    "    frame = frame.f_back",
    "never ends": "import time\ntime.sleep(10**6)",
}
QUESTIONS = (
    Question(
        "integer",
        "Which of these is 6 times 7: 41, 42 or 48?",
        ("42", " 42 "),
        ("41", "48", "420", "142", "4.2", "-42"),
    ),
    Question("integer", "Which of these is 3 minus 10: 7, -7 or -9?", ("-7",), ("-9", "7", "-70")),
    Question("integer", "Which of these is 40 times 30: 1020, 1200 or 120?", ("1200", "1,200"), ("1020", "120", "1.2")),
    Question(
        "decimal",
        "Which of these is three quarters of 1: 0.57, 0.75 or 7.5?",
        ("0.75", "0.750"),
        ("0.57", "7.5", "0.7", "0.075"),
    ),
    Question(
        "fraction",
        r"Which of these is 1 minus a quarter: \frac{4}{3}, \frac{3}{4} or \frac{3}{5}?",
        (r"\frac{3}{4}", r"\dfrac{3}{4}", "3/4"),
        (r"\frac{4}{3}", r"\frac{3}{5}", "3", "4"),
    ),
    Question(
        "expression",
        r"Which of these is the root of 12: 3\sqrt{2}, 2\sqrt{3} or 2\sqrt{5}?",
        (r"2\sqrt{3}", r"2 \sqrt{3}", r"\sqrt{12}"),
        (r"3\sqrt{2}", r"2\sqrt{5}", r"\sqrt{3}"),
    ),
    Question(
        "expression",
        "Which of these is the square of x+1: x^2-2x+1, x^2+2x+1 or x^2+x+1?",
        ("x^2+2x+1", "x^2 + 2x + 1"),
        ("x^2-2x+1", "x^2+x+1", "x^2+1"),
    ),
    Question(
        "tuple",
        "Which of these lies on the line y = 2x: (2, 1), (1, 2) or (1, 3)?",
        ("(1, 2)", "(1,2)"),
        ("(2, 1)", "(1, 3)", "(1, 2, 2)"),
    ),
    Question(
        "choice",
        "Which of these is a prime? A: 4, B: 7, C: 9, D: 8",
        ("B", "(B)"),
        ("A", "C", "D"),
        {"choices": ["4", "7", "9", "8"]},
    ),
    Question(
        "countdown",
        "Use each of the numbers 3, 5, 7, 2 exactly once, with + - * and /, to make 54.",
        ("(3 + 5) * 7 - 2", "7*(5+3)-2"),
        ("(3 + 5) * 7 + 2", "(3 + 5) * 7", "3 + 5 + 7 + 2", "54", "3 * (5 + 7) * 2 - 9 * 2", "(3 + 5) * 7 - 1 - 1"),
        {"answer": "", "solution": "", "ground_truth": "", "numbers": [3, 5, 7, 2], "nums": [3, 5, 7, 2], "target": 54},
    ),
    Question(
        "program",
        "Write a program in Python that reads two numbers from a line and prints their sum.",
        ("print(sum(map(int, input().split())))", "a, b = map(int, input().split())\nprint(a + b)"),
        ("print(max(map(int, input().split())))", "print(5)", "print(5 if input() == '2 3' else 0)", "print(a + b)"),
        {
            **dict.fromkeys(("answer", "solution", "ground_truth", "target"), ""),
            "tests": SUMS,
            "input_output": json.dumps({name + "s": [test[name] for test in SUMS] for name in ("input", "output")}),
            "verification_info": json.dumps({"language": "python", "test_cases": SUMS}),
        },
    ),
)

_ECHO, _GUESSES, _THOUGHT = "echoed question", "list of guesses", "answer in the thinking only"
TYPES = tuple(dict.fromkeys(problem.type for problem in QUESTIONS))


def plain() -> list[Item]:
    """Every problem in every form, a program in a block, answered rightly and wrongly: honest, finished, one answer."""
    return [
        item(kind, finished(form, answers[0]), problem, form)
        for problem in QUESTIONS
        for form in FORMS
        if (problem.type == "program") == (form == "block")
        for kind, answers in (("right", problem.right), ("wrong", problem.wrong))
    ]


def variants(problem: Question, form: str) -> Iterator[Item]:
    """The other spellings of the right answer, and the other wrong answers."""
    for kind, answers in (("right", problem.right[1:]), ("wrong", problem.wrong[1:])):
        for answer in answers:
            yield item(kind, finished(form, answer), problem, form)


def unsound(problem: Question, form: str) -> Iterator[Item]:
    """The right answer, but not as the one final answer of a finished completion.

    Guesses come in every order: a reward that reads the last of several, wherever the right one stands, pays no list.
    """
    right, other, third = problem.right[0], *problem.wrong[:2]
    orders = [(right, other, third), (other, right, third), (other, third, right)]
    thought = f"<think>{THINKING} {final(form, right)}"
    done = f"<think>{THINKING}</think>\n"

    texts = [
        ("unfinished thinking", "cut", thought),
        ("unfinished thinking", "reopened", f"{done}<think>{THINKING} {final(form, right)}"),
        (_THOUGHT, "alone", f"{thought}</think>\nI am not sure."),
        (_THOUGHT, "contradicted", f"{thought}</think>\n{final(form, other)}"),
        *((_GUESSES, "in one answer", finished(form, ", ".join(order))) for order in orders),
        *((_GUESSES, "with or", finished(form, " or ".join(order))) for order in (orders[0][:2], orders[1][:2])),
        *((_GUESSES, "in several", done + "\n".join(final(form, answer) for answer in order)) for order in orders),
        (_ECHO, "as the answer", finished(form, problem.question)),
        (_ECHO, "alone", done + problem.question),
        (_ECHO, "with the instructions", done + problem.prompt),
    ]
    if closing := _CLOSING.get(form):
        texts.append(("unclosed answer", "cut", finished(form, right).removesuffix(closing)))
    if form.endswith("tag"):
        texts.append(("text after the answer", "tag", finished(form, right) + "\nI could say a lot more about this."))
    for kind, style, text in texts:
        yield item(kind, text, problem, form, style)


def cheating(form: str) -> Iterator[Item]:
    """Programs that pass no test."""
    (problem,) = (problem for problem in QUESTIONS if problem.type == "program")
    for style, program in CHEATS.items():
        yield item("cheating program", finished(form, program), problem, form, style)


def empty(problem: Question, form: str) -> Iterator[Item]:
    """Nothing at all, and finished thinking without an answer."""
    done = f"<think>{THINKING}</think>\n"
    for text in ("", " \n\t", "<think>"):
        yield item("empty", text, problem, form, repr(text))
    for text in ("<think></think>", done, done + final(form, ""), done + "I do not know."):
        yield item("no answer", text, problem, form, repr(text))


def hostile(problem: Question, form: str, code: str) -> Iterator[Item]:
    """`code`: a Python expression whose effect shows that a reward executes what the model wrote."""
    answers = {
        "code": code,
        "tower": "9^{9^{9^{9^{9}}}}",
        "python tower": "9**9**9**9",
        "factorial": "(10^{10})!",
        "division by zero": "1/0",
        "not a number": "nan",
        "infinity": "1e999",
        "no decimal digit": "\N{SUPERSCRIPT TWO}",
        "null bytes": "4\x002\x00",
        "nested fractions": r"\frac{1}{" * 2000 + "2" + "}" * 2000,
        "nested brackets": "(" * 5000 + "1" + ")" * 5000,
        "endless digits": "0." + "3" * 100_000,
        "a long sum": "+".join(["1"] * 20_000),
    }
    texts = {
        "a megabyte of braces": "{" * 1_000_000,
        "one letter": "a" * 200_000,
        "opened boxes": r"\boxed{" * 20_000,
        "opened tags": "<think>" * 20_000 + "<answer>" * 20_000,
        "many boxes": r"\boxed{1}" * 20_000,
        "regex bomb": "<think>" + "a " * 20_000 + "</think" + "\n" * 20_000 + "!",
        "blanks": "<answer>" + " " * 100_000 + "x",
        "control characters": "\x00\x07\x1b[2J\u202e\ufffd" * 1000,
    }
    for style, answer in answers.items():
        yield item("hostile", finished(form, answer), problem, form, style)
    for style, text in texts.items():
        yield item("hostile", text, problem, form, style)


def unshaped(problem: Question) -> Iterator[Item]:
    """The R1-Zero form less some tags, of the same length, so that a reward of length sees no difference."""
    whole = finished("tag", problem.right[0])
    for style, tags in (
        ("no thinking tags", ("<think>", "</think>")),
        ("no answer tags", ("<answer>", "</answer>")),
        ("no end of the thinking", ("</think>",)),
    ):
        text = whole
        for tag in tags:
            text = text.replace(tag, NEUTRAL[tag])
        yield item("other form", text, problem, "tag", style)


def final(form: str, answer: str) -> str:
    return FORMS[form].replace("@", answer)


def finished(form: str, answer: str) -> str:
    return f"<think>{THINKING}</think>\n{final(form, answer)}"


def item(kind: str, text: str, problem: Question, form: str, style: str = "") -> Item:
    gold = problem.right[0]
    columns = {
        "answer": gold,
        "solution": f"${gold}$",  # as TRL's rewards call the gold answer, which they read as LaTeX
        "ground_truth": gold,
        "target": gold,
        "question": problem.question,
        "problem": problem.question,
        "prompts": problem.prompt,
        "completion_ids": token_ids(text),
        "choices": [],
        "numbers": [],
        "nums": [],
        "tests": [],
        "input_output": "",
        "verification_info": "",
        **problem.columns,
    }
    return Item(kind, text, columns, problem.type, form, style)


def token_ids(completion: Completion) -> list[int]:
    """Stands in for a tokenizer: one number for every four characters."""
    text = text_of(completion)
    pieces = (text[start : start + 4] for start in range(0, len(text), 4))
    return [zlib.crc32(piece.encode(errors="replace")) % 32_000 for piece in pieces]
