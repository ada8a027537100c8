"""The program in a completion, and outputs that are the same."""

import pytest

from rewards.code.compare import difference, same_output
from rewards.code.extract import MAX_PROGRAM, read_program


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("<think>```\nprint(0)\n```</think>So:\n```py\nprint(1)\n\nprint(2)\n```\nDone.", "print(1)\n\nprint(2)"),
        ("```\na\n```\nor better\n```\nb\n```", "b"),
        ("```c++\nint main() {}\n```", "int main() {}"),
        ("```python\n    return x\n```", "    return x"),
        ("~~~~python\nprint('```')\n~~~~", "print('```')"),
        ("````\n```\ninner\n```\n````", "```\ninner\n```"),
        ("1. First\n   ```python\n   print(1)\n   ```", "   print(1)"),
        ("<answer>print(1)</answer>", "print(1)"),
        ("<answer>print(1)</answer>\n<|im_end|></s>", "print(1)"),
        ("<answer>\nprint(1)\n</answer>", "print(1)"),
        ("<answer>```python\nprint(1)\n```</answer>", "print(1)"),
        ("<answer>```python\nprint(1)```</answer>", "print(1)"),
        ("```\nprint(0)\n```<answer>```\nprint(1)\n```</answer>", "print(1)"),
        ("```python\r\nprint(1)\r\n```", "print(1)"),
    ],
)
def test_the_last_block_is_the_program(completion, program):
    assert read_program(completion).answer == program


@pytest.mark.parametrize(
    ("completion", "failure"),
    [
        ("", "no_answer"),
        ("print(1)", "no_answer"),
        ("<think>```\nprint(1)\n```", "no_answer"),
        ("<think>```\nprint(1)\n```</think>", "no_answer"),
        ("```python\n```", "no_answer"),
        ("<answer></answer>", "no_answer"),
        ("`print(1)`", "no_answer"),
        ("```python\nprint(1)", "malformed"),
        ("<answer>print(1)</answer> and more", "malformed"),
        ("```\nprint(1)\n```\n```\nprint(2)", "malformed"),
        ("```\n" + "x" * (MAX_PROGRAM + 1) + "\n```", "malformed"),
    ],
)
def test_what_is_no_program_says_why(completion, failure):
    reading = read_program(completion)
    assert (reading.answer, reading.failure) == (None, failure)


def test_megabytes_of_fences_are_read_in_one_pass():
    for text in ("```\n" * 300_000, "<answer>" * 100_000 + "</answer>" * 100_000, "`" * 1_000_000):
        read_program(text)


@pytest.mark.parametrize(
    ("got", "expected", "tolerance", "same"),
    [
        ("3", "3\n", 0, True),
        ("3 \n\n", "3", 0, True),
        ("1 2\n3", "1  2\n3.0", 0, True),
        ("1.50", "1.5", 0, True),
        ("1e3", "1000", 0, True),
        ("", "\n", 0, True),
        ("3", "4", 0, False),
        ("3\n4", "3", 0, False),
        ("", "3", 0, False),
        ("1 2", "12", 0, False),
        ("1\n2", "1 2", 0, False),
        ("yes", "YES", 0, False),
        ("nan", "nan", 0, True),
        ("0.3333", "0.333333", 0, False),
        ("0.3333", "0.333333", 1e-3, True),
        ("0.34", "0.333333", 1e-3, False),
        ("inf", "1e9999", 1e-3, False),
        ("1_000", "1000", 0, False),
    ],
)
def test_outputs_are_compared_as_judges_of_contests_do(got, expected, tolerance, same):
    assert same_output(got, expected, tolerance) is same


def test_a_difference_names_its_line():
    assert difference("1\n3", "1\n2") == "line 2: wrote '3', expected '2'"
    assert difference("1", "1\n2") == "line 2: wrote nothing, expected '2'"
    assert difference("1\n2", "1") == "line 2: wrote '2', expected nothing more"
