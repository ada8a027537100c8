"""Programs are judged by their values: what passes, what fails and how, and no cheat does."""

from dataclasses import replace

import pytest

from rewards.code.formats import Asserts, Calls, Stdio
from rewards.code.judge import judge
from rewards.sandbox import Limits, Program
from tests.sandboxes import needs

pytestmark = needs("bubblewrap")
LIMITS = Limits(cpu_seconds=1, wall_seconds=60, memory_mib=256, output_kib=64)  # on however busy a machine
DOUBLES = Stdio((("2\n", "4\n"), ("21\n", "42\n")))
ADDS = Calls("add", (((1, 2), (3,)), ((20, 22), (42,))))
ASSERTS = Asserts(("assert add(1, 2) == 3", "assert add(20, 22) == 42"))
CHECKED = Asserts(
    ("check(add)",), "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(20, 22) == 42\n", "def add(a, b):\n    '''Adds.'''\n"
)  # fmt: skip


def judged(source, tests, **settings):
    limits = replace(LIMITS, wall_seconds=2) if "sleep" in source else LIMITS
    return judge(Program(source), tests, limits, **settings)


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("print(2 * int(input()))", DOUBLES),
        ("def add(a, b): return a + b", ADDS),
        ("class Solution:\n    def add(self, a, b): return a + b", ADDS),
        ("def add(a, b): return a + b", ASSERTS),
        ("def add(a, b): return a + b", CHECKED),
        ("    return a + b", CHECKED),
        ("def f(): return (1, {2: [3.5, None]}, {4}, 'ä', b'x', 1j, True, 10**30, float('inf'))", Asserts(("assert f() == (1, {2: [3.5, None]}, {4}, 'ä', b'x', 1j, True, 10**30, float('inf'))",))),
        ("def f(): return (i for i in range(3))", Asserts(("assert list(f()) == [0, 1, 2]",))),
        ("from collections import Counter\ndef f(x): return Counter(x)", Asserts(("assert f('aab') == {'a': 2, 'b': 1}",))),
        ("def f(x): x.append(4)", Asserts(("a = [1]\nf(a)\nassert a == [1, 4]",))),
        ("def f(x): raise KeyError(x)", Asserts(("try:\n    f(1)\n    assert False\nexcept KeyError: pass",))),
        ("class Pair:\n    def __init__(self, a): self.a = a\ndef f(p): return p.a", Asserts(("assert f(Pair(3)) == 3", "assert Pair(4).a == 4"))),
        ("def f(x): return 0.1 + 0.2", Asserts(("assert math.isclose(f(1), 0.3)",))),
        ("def sum(a, b): return a - b", Asserts(("assert sum(5, 2) == 3",))),
        ("def f(x, kind): return kind(x)", Asserts(("assert f(3, str) == '3'",))),
        ("import sys\nprint('noise')\ndef add(a, b): print('noise', file=sys.stderr); return a + b", ADDS),
        ("def f(n): return 1.0000001", Calls("f", (((1,), (1,)),))),
    ],
)  # fmt: skip
def test_right_programs_pass(source, tests):
    assert judged(source, tests, tolerance=1e-3).ending == "passed"


@pytest.mark.parametrize(
    ("source", "tests", "ending", "reason"),
    [
        ("print(4)", DOUBLES, "failed", "test 2: line 1: wrote '4', expected '42'"),
        ("print(4); 1/0", DOUBLES, "failed", "test 1: ended with code 1: ZeroDivisionError"),
        ("print(", DOUBLES, "compile error", "SyntaxError"),
        ("while True: pass", DOUBLES, "timeout", "test 1: ran for more than 1 s of CPU"),
        ("import time; time.sleep(60)", DOUBLES, "timeout", "test 1: did not end in 2 s"),
        ("bytearray(2**30)", DOUBLES, "memory", "test 1"),
        ("while True: print(1)", DOUBLES, "output", "test 1: wrote more than 64 KiB"),
        ("import socket; socket.socket()", DOUBLES, "forbidden", "test 1"),
        ("def add(a, b): return 3", ADDS, "failed", "test 2: gave 3, expected 42"),
        ("def add(a, b): return True", Calls("add", (((1, 2), (1,)),)), "failed", "test 1: gave True, expected 1"),
        ("def add(a): return a", ADDS, "failed", "test 1: TypeError"),
        ("def sub(a, b): return 3", ADDS, "failed", "test 1: NameError: name 'add' is not defined"),
        ("1/0", ADDS, "failed", "ended with code 1: ZeroDivisionError"),
        ("def add(", ADDS, "compile error", "SyntaxError"),
        ("def add(a, b):\n    while True: pass", ADDS, "timeout", "test 1: ran for more than 1 s of CPU"),
        ("def add(a, b):\n    import time; time.sleep(60)", ADDS, "timeout", "test 1: did not end in 2 s"),
        ("def add(a, b): return bytearray(2**30)", ADDS, "failed", "test 1: MemoryError"),
        ("def add(a, b): return 'x' * 10**6", ADDS, "failed", "the program ended before"),
        ("def add(a, b):\n    import socket; socket.socket()", ADDS, "forbidden", "test 1"),
        ("def add(a, b): return 3", ASSERTS, "failed", "test 2: not true: assert add(20, 22) == 42"),
        ("def add(a, b): return 3", CHECKED, "failed", "test 1: not true: assert candidate(20, 22) == 42"),
        ("def add(a, b): return a + b", Asserts(("assert add(1, 2) == 3",), "import no_such_module"), "broken", "the tests' own code fails"),
    ],
)  # fmt: skip
def test_wrong_programs_fail_for_their_own_reason(source, tests, ending, reason):
    got = judged(source, tests)
    assert (got.ending, reason in got.reason) == (ending, True), got


@pytest.mark.parametrize("tests", [DOUBLES, ADDS, ASSERTS, CHECKED], ids=["stdin", "calls", "asserts", "check"])
@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)",
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef add(a, b): return Yes()\nprint(Yes())",
        "class Yes:\n    def __eq__(self, other): return True\n    def __str__(self): return '4'\ndef add(a, b): return Yes()\nprint(Yes())",
        "import builtins\nbuiltins.AssertionError = ValueError\nbuiltins.all = builtins.any = lambda x: True\ndef add(a, b): return 0",
        "def add(a, b):\n    import os; os._exit(0)",
        "def add(a, b): raise SystemExit(0)",
        "print('[true, \"\"]\\n[true, \"\"]', flush=True)\ndef add(a, b): return 0",
        "import os\nos.write(1, b'run 0 1 2 0\\n4\\n')\ndef add(a, b): return 0",
        "import os\nfor n in range(3, 20):\n    try: os.write(n, b'{\"value\": 3, \"args\": null}\\n' * 9)\n    except OSError: pass\nos._exit(0)",
        "import os\nwith open('/proc/1/fd/1', 'wb') as f: f.write(b'run 0 1 2 0\\n4\\n' * 2)\nos._exit(0)",
        "import sys\nsys.modules['json'] = sys.modules['os'] = sys\ndef add(a, b): return 0",
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n        if '42' in repr(value): print(42)\n    frame = frame.f_back\ndef add(a, b): return 0",
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'asserts' in o: print(4, 42, o)\ndef add(a, b): return [o for o in gc.get_objects() if o == 42]",
        "import os\nfor root, _, files in os.walk('/tmp'):\n    for name in files: print(open(os.path.join(root, name)).read())\ndef add(a, b): return 0",
        "def add(a, b): return (lambda: 0).__globals__.get('wanted', 0)",
        "def add(a, b): return float('nan')",
        "def add(a, b): return None\nprint()",
        "def add(a, b): return add",
    ],
)  # fmt: skip
def test_no_cheat_passes(source, tests):
    got = judged(source, tests)
    assert got.ending != "passed"
    assert got.ending != "broken", got


def test_all_tests_are_run_where_their_share_counts():
    assert judged("print(4)", DOUBLES, all_tests=True).passed == 1
    assert judged("print(42)", DOUBLES, all_tests=True).passed == 1
    assert judged("def add(a, b): return 42", ADDS, all_tests=True).passed == 1
    assert judged("def add(a, b): return 42", ASSERTS, all_tests=True).passed == 1
    assert judged("def add(a, b):\n    if a > 9: raise SystemExit\n    return 3", ASSERTS, all_tests=True).passed == 1


def test_tests_that_call_functions_are_for_python():
    with pytest.raises(ValueError, match=r"tests that call functions are for Python, got c\+\+"):
        judge(Program("int main() {}", "c++"), ADDS, LIMITS)
