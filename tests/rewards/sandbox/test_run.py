"""Running programs: each outcome, each sandbox, and what is left when the caller is killed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest

from rewards.sandbox import Execution, Language, Limits, Program, SandboxError, describe, run, run_all, run_each
from rewards.sandbox.tools import _probed, find
from tests.processes import ended, killed_with
from tests.sandboxes import needs

pytestmark = needs()
SHORT = Limits(cpu_seconds=1, wall_seconds=60, memory_mib=256, output_kib=16, disk_mib=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sandbox", [pytest.param(name, marks=needs(name)) for name in ("bubblewrap", "unshare", "none")]
)
def test_each_sandbox_runs_a_program_and_sees_its_end(sandbox):
    assert run(Program("print(input()[::-1])"), "abc", SHORT, sandbox) == Execution(
        "ok", "cba\n", "", 0, pytest.approx(0, abs=1), ""
    )
    assert run(Program("import sys; sys.exit(3)"), "", SHORT, sandbox).exit_code == 3
    assert run(Program("int main() { return 4; }", "c"), "", SHORT, sandbox).exit_code == 4
    assert run(Program("while True: pass"), "", SHORT, sandbox).outcome == "timeout"
    assert run(Program("import time; time.sleep(60)"), "", replace(SHORT, wall_seconds=2), sandbox).outcome == "timeout"


@pytest.mark.parametrize("sandbox", [pytest.param(name, marks=needs(name)) for name in ("bubblewrap", "unshare")])
def test_a_program_sees_nothing_of_the_machine(sandbox):
    look = """import os
print(sorted(os.listdir('/')), os.listdir('/tmp'), len([p for p in os.listdir('/proc') if p.isdigit()]))"""
    seen = run(Program(look), "", SHORT, sandbox).stdout
    for name in ("work", "root", "home", "var", "sys", "mnt", "run", "old"):
        assert f"'{name}'" not in seen
    assert seen.strip().endswith("['main.py'] 2")
    for place in ("/usr/left", "/left", "/dev/left", "/etc/left"):
        assert run(Program(f"open({place!r}, 'w')"), "", SHORT, sandbox).outcome == "failed"


@pytest.mark.parametrize(
    ("source", "outcome", "reason"),
    [
        ("1/0", "failed", "ended with code 1: ZeroDivisionError: division by zero"),
        ("import os; os.abort()", "failed", "ended by SIGABRT"),
        ("def f(:", "compile_error", "SyntaxError: invalid syntax (line 1)"),
        ("x = '\0'", "compile_error", "null bytes"),
        ("(" * 10_000, "compile_error", "too many nested parentheses"),
        ("bytearray(2**30)", "memory", "needed more than 256 MiB"),
        ("print('x' * 20_000)", "output", "wrote more than 16 KiB"),
        ("import socket; socket.socket()", "forbidden", "network"),
        ("open('x', 'wb').write(b'x' * 10**7)", "failed", "ended with code 1: OSError"),
        ("exit()", "ok", ""),
        ("", "ok", ""),
    ],
)  # fmt: skip
@needs("bubblewrap")
def test_what_a_program_did_is_its_outcome_and_its_reason(source, outcome, reason):
    done = run(Program(source), "", SHORT)
    assert (done.outcome, reason in done.reason) == (outcome, True), done


def test_a_compiler_that_fails_says_its_first_error():
    done = run(Program("int main() { return x; }", "c++"), "", SHORT)
    assert (done.outcome, "x\N{RIGHT SINGLE QUOTATION MARK} was not declared" in done.reason) == (
        "compile_error",
        True,
    ), done


def test_whatever_has_an_interpreter_line_runs():
    upper = Language("upper", "main.txt", "tr a-z A-Z")
    assert run(Program("unused", upper), "abc").stdout == "ABC"
    assert run(Program("echo $((6 * 7))", "bash")).stdout == "42\n"
    assert run(Program("6 * 7", "expression")).stdout == "42\n"
    missing = run(Program("x", Language("nothing", "main.x", "no-such-interpreter main.x")))
    assert (missing.outcome, missing.reason) == (
        "failed",
        "ended with code 127: no-such-interpreter: No such file or directory",
    )


def test_one_program_takes_many_inputs_and_keeps_nothing_between_them():
    before = psutil.Process().children()
    source = "import os\nprint(input(), os.path.exists('mark'))\nopen('/dev/shm/mark', 'w')"
    assert [one.stdout for one in run_each(Program(source), ["1", "2", "3"])] == ["1 False\n", "2 False\n", "3 False\n"]
    stopped = run_each(Program("print(input())"), ["1", "2", "3"])
    assert next(stopped).stdout == "1\n"
    stopped.close()
    assert not set(psutil.Process().children()) - set(before)


def test_texts_come_as_they_are():
    text = "ä\N{GRINNING FACE} \u2028 \ud800 \x00 end"
    assert run(Program("print(input())"), text).stdout == text.replace("\ud800", "?") + "\n"
    assert run(Program("import os; os.write(1, b'\\xff')")).stdout == "\N{REPLACEMENT CHARACTER}"
    assert run(Program("import sys; print(len(sys.stdin.read()))"), "x" * 5_000_000).stdout == "5000000\n"


def test_many_at_once_from_many_threads_keep_their_order():
    with ThreadPoolExecutor(4) as threads:
        batches = list(
            threads.map(lambda n: run_all([(Program(f"print({n} + {i})"), "") for i in range(5)]), range(0, 40, 10))
        )
    assert [[int(one.stdout) for one in batch] for batch in batches] == [
        [n + i for i in range(5)] for n in range(0, 40, 10)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [pytest.param(name, marks=needs(name)) for name in ("bubblewrap", "unshare")])
def test_a_caller_that_is_killed_takes_its_programs_along(sandbox):
    code = f"""
        from rewards.sandbox import *
        run(Program("import time; time.sleep(600)"), "", Limits(wall_seconds=900), {sandbox!r})
    """
    assert all(ended(pid) for pid in killed_with(code, 2))


def test_limits_languages_and_sandboxes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="memory_mib: got 0, expected a number above 0"):
        Limits(memory_mib=0)
    with pytest.raises(ValueError, match="language: got 'cobol', expected one of python, c"):
        Program("", "cobol")
    with pytest.raises(ValueError, match=r"file: got '\.\./x'"):
        Language("x", "../x", "x")
    with pytest.raises(ValueError, match="sandbox: got 'docker', expected auto, bubblewrap, unshare or none"):
        run(Program(""), sandbox="docker")


def test_without_a_sandbox_nothing_runs_unless_it_is_said(monkeypatch, tmp_path):
    _probed.cache_clear()
    (tmp_path / "env").symlink_to("/usr/bin/env")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match=r"there is no bwrap.*there is no unshare.*apt-get install bubblewrap"):
        run(Program("print(1)"))
    assert find("none").name == "none"
    assert describe("none").startswith("no sandbox: programs run with your rights")
    monkeypatch.undo()
    _probed.cache_clear()


@needs("bubblewrap")
def test_bubblewrap_is_taken_where_both_work():
    assert find().name == "bubblewrap"
    assert os.path.basename(find().python.path).startswith("python")
