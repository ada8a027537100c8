"""Tests as they are published: each format is read, and what is none is said."""

import base64
import json
import os
import pickle
import zlib

import pytest

from rewards.code.formats import Asserts, Calls, Stdio, TestsError, as_source, read_tests, shown

STDIN = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
FUNCTIONAL = [{"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional"}]


def packed(cases):
    """As LiveCodeBench hides its tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


@pytest.mark.parametrize(
    ("row", "tests"),
    [
        ({"tests": [{"input": "1\n", "output": "2"}]}, Stdio((("1\n", "2"),))),
        ({"tests": '[{"input": 1, "output": 2}]'}, Stdio((("1", "2"),))),
        ({"tests": ["assert f(1) == 2"], "setup": "import math"}, Asserts(("assert f(1) == 2",), "import math")),
        ({"tests": [{"args": [1, [2]], "returns": 3}], "function": "f"}, Calls("f", (((1, [2]), (3,)),))),
        ({"input_output": '{"inputs": ["1\\n", ["2", "3"]], "outputs": ["4\\n", ["5", "6"]]}'}, Stdio((("1\n", "4\n"), ("2\n3", "5\n6")))),
        ({"input_output": '{"fn_name": "f", "inputs": [[1]], "outputs": [[2]]}'}, Calls("f", (((1,), ([2], 2)),))),
        ({"public_test_cases": json.dumps(STDIN), "private_test_cases": packed(STDIN)}, Stdio((("1 2\n", "3\n"),) * 2)),
        ({"public_test_cases": json.dumps(STDIN), "private_test_cases": json.dumps(STDIN)}, Stdio((("1 2\n", "3\n"),) * 2)),
        ({"public_test_cases": json.dumps(FUNCTIONAL), "private_test_cases": packed(FUNCTIONAL), "metadata": '{"func_name": "f"}'}, Calls("f", ((([1, 2], "a"), (True,)),) * 2)),
        ({"prompt": "def f():\n", "test": "def check(c): pass", "entry_point": "f"}, Asserts(("check(f)",), "def check(c): pass", "def f():\n")),
        ({"test_list": ["assert f(1)"], "test_setup_code": "x = 1"}, Asserts(("assert f(1)",), "x = 1")),
        ({"test_list": ["assert f(1)"], "test_imports": ["import math"]}, Asserts(("assert f(1)",), "import math\n")),
        ({"verification_info": json.dumps({"test_cases": [{"input": "1", "output": "2", "fn_name": None}]})}, Stdio((("1", "2"),))),
    ],
)  # fmt: skip
def test_each_published_format_is_read(row, tests):
    assert read_tests({"answer": "", "question": "", **row}) == tests


@pytest.mark.parametrize(
    ("row", "form", "message"),
    [
        ({"question": "?"}, None, "no tests: the row has question; expected the columns of a format"),
        ({}, None, "no tests: the row has no column"),
        ({"tests": []}, None, "no tests"),
        ({"tests": "[1"}, None, "tests: no tests of the format tests"),
        ({"tests": [1]}, None, "expected {input, output}"),
        ({"tests": [{"input": "1"}]}, None, "expected {input, output}"),
        ({"tests": ["assert f("]}, None, "'assert f\\(' is no Python"),
        ({"tests": [{"args": [1], "returns": 2}]}, None, "function: got None, expected the name"),
        ({"tests": [{"input": {}, "output": 2}]}, None, "expected a text"),
        ({"tests": [{"input": "1", "output": "2"}] * 2000}, None, "got 2000 tests, expected 1 to 1000"),
        ({"input_output": '{"inputs": ["1"], "outputs": []}'}, None, "got 1 inputs and 0 outputs"),
        ({"input_output": "null"}, None, "input_output: no tests of the format input_output"),
        ({"public_test_cases": "[]", "private_test_cases": "###"}, None, "private_test_cases: neither JSON nor base64"),
        ({"tests": ["assert f(1)"]}, "mbp", "format: got 'mbp', expected one of tests, input_output"),
        ({"tests": ["assert f(1)"]}, "mbpp", "no tests"),
    ],
)  # fmt: skip
def test_what_is_no_test_is_said(row, form, message):
    with pytest.raises(TestsError, match=message):
        read_tests(row, form)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    held = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(TestsError, match=r"a pickle that wants posix\.system, expected a text"):
        read_tests({"public_test_cases": "[]", "private_test_cases": held})
    assert not list(tmp_path.iterdir())


def test_the_format_that_is_asked_for_is_read_where_a_row_has_several():
    row = {"tests": [{"input": "1", "output": "1"}], "test_list": ["assert f(1)"]}
    assert isinstance(read_tests(row), Stdio)
    assert read_tests(row, "mbpp") == Asserts(("assert f(1)",), "")


def test_a_program_goes_on_from_its_prompt_or_starts_anew():
    tests = Asserts(("check(f)",), "", "import math\ndef f(x):\n")
    assert as_source(tests, "    return x") == "import math\ndef f(x):\n    return x"
    assert as_source(tests, "def f(x):\n    return 1") == "import math\ndef f(x):\n\n\ndef f(x):\n    return 1"
    assert as_source(Stdio((("", ""),)), "    return x") == "    return x"


def test_a_question_shows_what_its_tests_call():
    assert shown({"test_list": ["assert f(1)", "assert f(2)"]}, 1).endswith("these tests:\nassert f(1)")
    assert "Start from this code:\n```python\nclass Solution:" in shown(
        {"starter_code": "class Solution:\n", "public_test_cases": "[]"}
    )
    assert shown({"tests": [{"args": [1], "returns": 2}], "function": "f"}) == "\n\nWrite a function `f`."
    assert shown({"tests": [{"input": "1", "output": "2"}]}) == ""
    assert shown({"question": "?"}) == ""
