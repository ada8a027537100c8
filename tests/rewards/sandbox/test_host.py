"""Sandboxes that a host forks: the same verdicts as of those that start by themselves, and as much apart."""

from __future__ import annotations

import logging
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from rewards.code.formats import Asserts, Calls
from rewards.code.judge import judge
from rewards.sandbox import Limits, Program, host, run, run_each, together
from rewards.sandbox.tools import find
from tests.processes import ended, killed_with
from tests.sandboxes import needs

pytestmark = needs("bubblewrap")
SHORT = Limits(cpu_seconds=1, wall_seconds=60, memory_mib=256, output_kib=16, disk_mib=8)
MANY = 9  # programs, as far as `together` knows
PROGRAMS = {
    "ends well": "print(input()[::-1])",
    "its code": "import sys; sys.exit(300)",
    "its last words": "import sys; sys.exit('no')",
    "an error": "def f():\n    1 / 0\nf()",
    "no program": "def f(:",
    "time": "while True: pass",
    "memory": "bytearray(2**30)",
    "output": "print('x' * 20_000)",
    "a network": "import socket; socket.socket()",
    "a mount": "import ctypes; print(ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None))",
    "a namespace": "import os; os.unshare(0x10000000) if hasattr(os, 'unshare') else os.abort()",
    "disk": "open('x', 'wb').write(b'x' * 10**7)",
    "processes": "import os\nfor i in range(99):\n    os.fork() or __import__('time').sleep(9)",
    "at its end": "import atexit; atexit.register(print, 'end'); print('body')",
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "an open file": "f = open(1, 'w', closefd=False)\nf.write('written')",
    "its own stdout": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint(5)",
    "what it deletes": "class A:\n    def __del__(self):\n        print('gone')\na = A()",
    "a cycle": "class A:\n    def __del__(self):\n        print('gone')\na = A()\na.a = a",
    "its own exit": "import os\nos._exit = None\nprint('kept')",
    "rights": "print([line.split()[1] for line in open('/proc/self/status') if line[:3] in ('Cap', 'NoN', 'Sec')])",
    "files": "import os; print(sorted(os.listdir('/')), os.listdir('/tmp'), os.listdir('/dev/shm'), os.getcwd())",
    "processes seen": "import os; print(len([name for name in os.listdir('/proc') if name.isdigit()]))",
    "who it is": "import os; print(os.getuid(), os.getgid(), os.getgroups(), dict(os.environ))",
    "descriptors": "import os; print(len(os.listdir('/proc/self/fd')))",
}  # fmt: skip


def stripped(done):
    return done.outcome, done.stdout, done.stderr, done.exit_code, done.reason


@pytest.mark.slow
def test_a_program_ends_as_in_a_sandbox_that_is_started_by_itself():
    alone = {name: stripped(run(Program(source), "abc", SHORT)) for name, source in PROGRAMS.items()}
    with together(MANY):
        forked = {name: stripped(run(Program(source), "abc", SHORT)) for name, source in PROGRAMS.items()}
        assert host._shared.host is not None
        compiled = run(Program("int main() { return 4; }", "c"), "", SHORT)
    assert forked == alone
    assert compiled.exit_code == 4
    outcomes = {name: done[0] for name, done in forked.items()}
    assert outcomes["time"] == "timeout"
    assert outcomes["memory"] == "memory"
    assert outcomes["a network"] == outcomes["a mount"] == "forbidden"
    words = {name: done[1] for name, done in forked.items()}
    assert (words["at its end"], words["a thread"]) == ("body\nend\n", "late\n")
    assert (words["an open file"], words["its own stdout"]) == ("written", "5\n")
    assert words["what it deletes"] == words["a cycle"] == "gone\n"
    assert forked["its last words"][2:4] == ("no\n", 1)
    assert forked["its code"][3] == 44


LEAVES = """
import os, pty, socket, sys, time
name = sys.stdin.read()
open('/tmp/left', 'w'), open('/dev/shm/left', 'w')
ends = pty.openpty()
bound = socket.socket(socket.AF_UNIX)
bound.bind('\\0' + name)
bound.listen()
print('there', flush=True)
time.sleep(3)
"""
LOOKS = """
import os, socket, sys
seen = [os.path.exists(path) for path in ('/tmp/left', '/dev/shm/left')]
seen += [name for name in os.listdir('/dev/pts') if name.isdigit()]
seen += [pid for pid in os.listdir('/proc') if pid.isdigit() and b'left' in open(f'/proc/{pid}/cmdline', 'rb').read()]
try:
    socket.socket(socket.AF_UNIX).connect('\\0' + sys.stdin.read())
    seen.append('connected')
except OSError:
    pass
try:
    os.kill(-1, 9)
except ProcessLookupError:
    pass
print(seen)
"""


def test_programs_at_the_same_time_and_later_see_nothing_of_each_other():
    with together(MANY), ThreadPoolExecutor(2) as threads:
        leaves = threads.submit(run, Program(LEAVES), "name", SHORT)
        time.sleep(1)
        looks = [run(Program(LOOKS), "name", SHORT) for _ in range(2)]
        assert stripped(leaves.result()) == ("ok", "there\n", "", 0, "")
        looks.append(run(Program(LOOKS), "name", SHORT))
    assert [stripped(one) for one in looks] == [("ok", "[False, False]\n", "", 0, "")] * 3


def test_tests_that_call_functions_are_judged_in_it():
    adds, asserts = Calls("add", (((1, 2), (3,)), ((2, 2), (4,)))), Asserts(("assert add(1, 2) == 3",))
    with together(MANY):
        for tests, total in ((adds, 2), (asserts, 1)):
            for right in ("a + b", "a - b"):
                judged = judge(Program(f"def add(a, b):\n    return {right}"), tests, SHORT)
                assert (judged.ending, judged.total) == ("passed" if right == "a + b" else "failed", total)
        assert host._shared.host is not None


def test_the_host_is_there_as_long_as_somebody_is_and_for_few_programs_not_at_all():
    before = set(psutil.Process().children())
    with together(host.WORTH - 1):
        assert run(Program("print(1)")).stdout == "1\n"
        assert host._shared.host is None
    with together(MANY):
        with ThreadPoolExecutor(1) as threads, together(MANY):  # the thread that starts it ends before it
            assert threads.submit(run, Program("print(1)")).result().stdout == "1\n"
        assert [one.stdout for one in run_each(Program("print(input())"), ["1", "2"])] == ["1\n", "2\n"]
        stopped = run_each(Program("print(input())"), ["1", "2", "3"])
        assert next(stopped).stdout == "1\n"
        stopped.close()
        assert len(set(psutil.Process().children()) - before) == 1
    assert set(psutil.Process().children()) == before
    assert host._shared.host is None


def test_a_host_that_is_killed_judges_nothing_and_is_followed_by_another():
    with together(MANY), ThreadPoolExecutor(1) as threads:
        assert run(Program("print(1)")).stdout == "1\n"
        first = host.host_of(find())
        asleep = threads.submit(run, Program("import time; time.sleep(60)"), "", SHORT)
        time.sleep(1)
        for process in psutil.Process(first._process.pid).children(recursive=True)[:1]:
            process.kill()
        assert asleep.result().outcome == "error"
        first._process.wait()
        assert [run(Program("print(1)")).stdout for _ in range(2)] == ["1\n"] * 2
        assert host.host_of(find()) is not first


def test_where_it_can_make_no_sandbox_each_is_started_by_itself_and_that_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(host, "_shared", host._Shared())
    monkeypatch.setattr(host, "_HOSTING", host._HOSTING.replace("NEW_USER |", "0x8 | NEW_USER |"))
    with caplog.at_level(logging.WARNING), together(MANY):
        assert [run(Program("print(1)")).stdout for _ in range(2)] == ["1\n"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "sandboxes are started one by one, which takes longer: failed [Errno 22] unshare: Invalid argument"
    ]


def _in_a_child(answers):
    with together(MANY):
        answers.send(run(Program("print(2)")).stdout)


def test_a_forked_child_has_a_host_of_its_own():
    ours, theirs = multiprocessing.Pipe()
    with together(MANY):
        assert run(Program("print(1)")).stdout == "1\n"
        child = multiprocessing.get_context("fork").Process(target=_in_a_child, args=(theirs,))
        child.start()
        assert ours.recv() == "2\n"
        child.join()
        assert run(Program("print(3)")).stdout == "3\n"
    assert child.exitcode == 0


@pytest.mark.slow
def test_a_caller_that_is_killed_takes_the_host_and_its_programs_along():
    code = """
        from rewards.sandbox import *
        with together(9):
            run(Program("import time; time.sleep(600)"), "", Limits(wall_seconds=900))
    """
    # The host, the sandbox's first two processes and the program.
    assert all(ended(pid) for pid in killed_with(code, 4))
