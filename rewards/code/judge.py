"""Run a program's tests.

    stdin and stdout     the program once for each input, in one sandbox; outputs are compared here
    calls and asserts    two sandboxes, joined by a socket: the program (serving.py), and its tests (testing.py), which
                         call it and compare what it tells. Neither sees the other.

No expected value is ever where the program is, so that it can neither read nor patch them, and what it prints or how it
ends decides nothing: a test passes by the value that came.
"""

from __future__ import annotations

import ast
import builtins
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rewards.code.compare import difference, same_output
from rewards.code.formats import Asserts, Calls, Stdio, Tests, as_source
from rewards.sandbox.run import Box, Frame, executed, run_each, slot
from rewards.sandbox.tools import SandboxName, find
from rewards.sandbox.types import Execution, Limits, Program

# passed: all. failed: another value or output, or the program ended in an error. The others: what the program did that
# it may not. broken: the tests or the sandbox, which says nothing about the program.
Ending = Literal["passed", "failed", "compile error", "timeout", "memory", "output", "forbidden", "broken"]
_ENDINGS: dict[str, Ending] = {"compile_error": "compile error", "error": "broken", "ok": "failed"}
_HERE = Path(__file__).parent


def _driver(name: str, call: str) -> str:
    """A module that runs inside, behind values.py, as one text."""
    texts = [(_HERE / file).read_text(encoding="utf-8") for file in ("values.py", name)]
    return "\n".join(line for text in texts for line in text.split("\n") if not line.startswith("from rewards.")) + call


_SERVING = _driver("serving.py", "serve(job, CHANNEL)")
_TESTING = _driver("testing.py", "run(job, CHANNEL)")
_TESTS_OWN = Program("")
GONE = "gone"  # what testing.py says where the program's end of the socket is closed
TESTS_MORE_SECONDS = 10.0  # that tests wait for longer than the program may take: it is the one that is late


@dataclass(frozen=True, slots=True)
class Judgement:
    """Example: Judgement("failed", passed=1, total=3, reason="test 2: line 1: wrote '4', expected '5'")"""

    ending: Ending
    passed: int
    total: int
    reason: str = ""


def judge(
    program: Program,
    tests: Tests,
    limits: Limits,
    sandbox: SandboxName = "auto",
    tolerance: float = 0.0,
    all_tests: bool = False,
) -> Judgement:
    """Run the tests until one fails, or with `all_tests` all of them, unless the sandbox had to be ended.

    Raises SandboxError where no sandbox works, ValueError where tests call functions of a program that is not Python.
    """
    program = Program(as_source(tests, program.source), program.language)
    if isinstance(tests, Stdio):
        return _of_outputs(program, tests, limits, sandbox, tolerance, all_tests)
    if not program.spoken.in_process:
        raise ValueError(f"language: tests that call functions are for Python, got {program.spoken.name}")
    return _of_values(program, tests, limits, sandbox, tolerance, all_tests)


def _of_outputs(
    program: Program, tests: Stdio, limits: Limits, sandbox: SandboxName, tolerance: float, all_tests: bool
) -> Judgement:
    passed, total, first = 0, len(tests.cases), None
    executions = run_each(program, [given for given, _ in tests.cases], limits, sandbox)
    for number, (execution, (_, expected)) in enumerate(zip(executions, tests.cases, strict=False), 1):
        if execution.outcome == "ok" and same_output(execution.stdout, expected, tolerance):
            passed += 1
            continue
        why = execution.reason or difference(execution.stdout, expected)
        place = "" if execution.outcome == "compile_error" else f"test {number}: "
        first = first or Judgement(_ENDINGS.get(execution.outcome, execution.outcome), 0, total, f"{place}{why}")  # type: ignore[arg-type]
        if not all_tests or execution.outcome in ("compile_error", "timeout", "error"):
            break
    executions.close()
    return Judgement(first.ending, passed, total, first.reason) if first else Judgement("passed", passed, total)


def _of_values(
    program: Program, tests: Calls | Asserts, limits: Limits, sandbox: SandboxName, tolerance: float, all_tests: bool
) -> Judgement:
    """Both sandboxes at once; the program's is watched, and when it is ended its tests see that it is gone."""
    data = _data(tests, tolerance, all_tests)
    tool = find(sandbox)
    for_program, for_tests = socket.socketpair()
    patient = replace(limits, wall_seconds=limits.wall_seconds + TESTS_MORE_SECONDS)
    with (
        slot(),
        for_program,
        for_tests,
        Box(program, limits, tool, driver=_SERVING, channel=for_program.fileno()) as served,
        Box(_TESTS_OWN, patient, tool, driver=_TESTING, channel=for_tests.fileno(), data=data) as testing,
    ):
        for_program.close()  # each end is where it belongs: what ends there is seen at the other
        for_tests.close()
        said, ended = _watched(served, testing)
    return _judged(said, ended, tests)


def _watched(served: Box, testing: Box) -> tuple[Execution, Execution | None]:
    """How the tests ended, and how the program did, where it did."""
    ended: Execution | None = None
    said: Execution | None = None
    while said is None:
        said = _execution(testing.poll(), testing)
        ended = ended or _execution(served.poll(0), served)
    if GONE in said.stdout.splitlines():  # why, its sandbox says in a moment
        while ended is None:
            ended = _execution(served.poll(), served)
    return said, ended


def _execution(frame: Frame | Execution | None, box: Box) -> Execution | None:
    return executed(frame, box.limits) if isinstance(frame, Frame) else frame


def _judged(said: Execution, ended: Execution | None, tests: Calls | Asserts) -> Judgement:
    total, lines = _total(tests), said.stdout.splitlines()
    verdicts = [json.loads(line) for line in lines if line != GONE]
    if verdicts and verdicts[0][0] is None:
        return Judgement("broken", 0, total, f"the tests' own code fails: {verdicts[0][1]}")
    passed = sum(ok for ok, _ in verdicts)
    if ended is not None and ended.outcome != "ok" and passed < total:
        place = "" if ended.outcome == "compile_error" else f"test {len(verdicts) + ('gone' in lines)}: "
        return Judgement(_ENDINGS.get(ended.outcome, ended.outcome), passed, total, f"{place}{ended.reason}")  # type: ignore[arg-type]
    if GONE in lines:
        return Judgement("failed", passed, total, f"test {len(verdicts) + 1}: the program ended before its tests did")
    if said.outcome != "ok":
        return Judgement("broken", passed, total, f"the tests' own code: {said.outcome}: {said.reason}")
    if passed == total:
        return Judgement("passed", passed, total)
    number, why = next((number, why) for number, (ok, why) in enumerate(verdicts, 1) if not ok)
    if not why and isinstance(tests, Asserts):
        why = f"not true: {tests.asserts[number - 1].strip()}"
    return Judgement("failed", passed, total, f"test {number}: {why}")


def _total(tests: Calls | Asserts) -> int:
    return len(tests.cases) if isinstance(tests, Calls) else len(tests.asserts)


def _data(tests: Calls | Asserts, tolerance: float, all_tests: bool) -> dict[str, Any]:
    """What testing.py needs; the names that tests use and nobody there defines are the program's."""
    names = _of_the_program(tests) if isinstance(tests, Asserts) else Names([], [], [])
    return {
        **names._asdict(),
        "function": tests.function if isinstance(tests, Calls) else "",
        "cases": list(tests.cases) if isinstance(tests, Calls) else [],
        "asserts": list(tests.asserts) if isinstance(tests, Asserts) else [],
        "before": _modules_of(tests.setup) if isinstance(tests, Asserts) else "",
        "setup": tests.setup if isinstance(tests, Asserts) else "",
        "tolerance": tolerance,
        "all": all_tests,
    }


class Names(NamedTuple):
    """What tests use and do not define: the program's functions and variables, and modules that they do not import."""

    calls: list[str]
    variables: list[str]
    modules: list[str]


def _of_the_program(tests: Asserts) -> Names:
    texts = [tests.setup, *tests.asserts]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    unknown = _read_names(nodes, {*_bound(nodes), *dir(builtins)})
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    calls = [name for name in unknown if name in called]
    modules = [name for name in unknown if name not in called and name in sys.stdlib_module_names]
    variables = [name for name in unknown if name not in called and name not in modules]
    if not calls:  # the function has the name of a built-in one, as `sum` in MBPP 126: what each assert calls first
        calls = [name for name in dict.fromkeys(map(_first_called, tests.asserts)) if name]
    return Names(calls, variables, modules)


def _modules_of(setup: str) -> str:
    """The imports that tests begin with. Where these fail, the tests do, whatever the program."""
    found = [node for node in ast.parse(setup).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, found))


def _first_called(text: str) -> str:
    names = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return next((name.id for name in names if isinstance(name, ast.Name)), "")


def _read_names(nodes: Sequence[ast.AST], known: set[str]) -> list[str]:
    read = (node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return [name for name in dict.fromkeys(read) if name not in known]


def _bound(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
