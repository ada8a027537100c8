"""A driver, in a sandbox without the program: run its tests. Their calls are answered by the program (serving.py).

Expected values and comparisons are here, where nothing that a model wrote is: it can neither read nor patch them.

    stdout  a line for each test, JSON of [passed, why not]; `[null, why]` if the tests' own code fails; `gone` if the
            program ended

Runs inside the sandbox, after values.py: nothing but Python 3.9 and its standard library here.
"""

import builtins
import importlib
import json
import math
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from rewards.code.values import Remote, decoded, encoded


class ProgramError(Exception):
    """The program raised what has no name here, or gave no answer."""


class Program:
    """The other end."""

    def __init__(self, channel: int, most: int):
        self.raw: Any = open(channel, "r+b", buffering=0)  # noqa: SIM115 - closed with the process
        self.most, self.unread = most, b""

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        reply = self.ask({"call": name, "args": encoded(list(args), None), "kwargs": encoded(kwargs, None)})
        if reply["args"] is not None:
            put_back(args, self.told(reply["args"]))
        return self.told(reply["value"])

    def get(self, name: str) -> Any:
        """A variable of the program, or a function."""
        reply = self.ask({"get": name})
        return self.function(name) if "function" in reply else self.told(reply["value"])

    def function(self, name: str) -> Any:
        return lambda *args, **kwargs: self.call(name, args, kwargs)

    def ask(self, asked: Any) -> Any:
        """Its reply. Raises what the program raised, where that has a name here, else ProgramError."""
        try:
            self.raw.write(json.dumps(asked).encode() + b"\n")
            reply = json.loads(self.line())
        except OSError:
            gone()
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or not (
            {"raised", "message"} <= set(reply) or {"function", "value"} & set(reply)
        ):
            raise ProgramError("it gave no answer that can be read")
        if "raised" in reply:
            raise named_error(str(reply["raised"]), str(reply["message"]))
        return {"args": None, **reply}

    def told(self, value: Any) -> Any:
        try:
            return decoded(value, lambda number: Far(number, self))
        except (ValueError, LookupError, TypeError, RecursionError, ArithmeticError):
            raise ProgramError("it gave no answer that can be read") from None

    def line(self) -> bytes:
        while b"\n" not in self.unread:
            piece = self.raw.read(65536)
            self.unread += piece
            if not piece or len(self.unread) > self.most:
                gone()
        line, _, self.unread = self.unread.partition(b"\n")
        return line


class Far(Remote):
    """An object of the program, whose attributes are there."""

    def __init__(self, number: int, program: Program):
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "program", program)

    def __getattr__(self, name: str) -> Any:
        program = object.__getattribute__(self, "program")
        return program.told(program.ask({"of": self.number, "name": name})["value"])

    def __setattr__(self, name: str, value: Any) -> None:
        program = object.__getattribute__(self, "program")
        program.ask({"of": self.number, "name": name, "set": encoded(value, None)})


def gone() -> NoReturn:
    """The program ended, or was ended: no other test can pass."""
    print("gone", flush=True)
    sys.exit(0)


def named_error(name: str, message: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError takes more
            pass
    return ProgramError(f"{name}: {message}")


def put_back(args: Any, after: Any) -> None:
    """What the program changed in its arguments, in ours."""
    for ours, theirs in zip(args, after):  # noqa: B905 - Python 3.9
        if type(ours) is type(theirs) and ours != theirs:
            if isinstance(ours, list):
                ours[:] = theirs
            elif isinstance(ours, (dict, set)):
                ours.clear()
                ours.update(theirs)


def equal(got: Any, wanted: Any, tolerance: float) -> bool:
    """As JSON has it: a tuple is a list, true is not 1. Numbers within the tolerance."""
    if isinstance(got, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(got) == len(wanted) and all(equal(a, b, tolerance) for a, b in zip(got, wanted))  # noqa: B905
    if isinstance(got, dict) and isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(equal(got[key], wanted[key], tolerance) for key in got)
    if isinstance(got, bool) or isinstance(wanted, bool):
        return got is wanted
    if tolerance and isinstance(got, (int, float)) and isinstance(wanted, (int, float)):
        return math.isclose(got, wanted, rel_tol=tolerance, abs_tol=tolerance)
    return got == wanted


def ready(tests: Any, program: Program) -> Iterator[Any]:
    """The tests, each as a function."""
    space: dict = {"__name__": "tests"}
    for name in tests["calls"]:
        space[name] = program.function(name)
    for name in tests["modules"]:
        space[name] = importlib.import_module(name)
    try:
        exec(compile(tests["before"], "before", "exec"), space)
    except Exception as error:
        print(json.dumps([None, reason(error, "")]))
        return
    # From here on the program has a part in what happens.
    yield lambda: prepare(tests, program, space)
    for test in tests["asserts"]:
        yield lambda test=test: exec(compile(test, "test", "exec"), space)
    for args, accepted in tests["cases"]:
        yield lambda args=args, accepted=accepted: expect(program, tests, args, accepted)


def prepare(tests: Any, program: Program, space: dict) -> None:
    for name in tests["variables"]:
        space[name] = program.get(name)
    exec(compile(tests["setup"], "setup", "exec"), space)


def expect(program: Program, tests: Any, args: Any, accepted: Any) -> None:
    got = program.call(tests["function"], args, {})
    if not any(equal(got, wanted, tests["tolerance"]) for wanted in accepted):
        raise AssertionError(f"gave {short(got)}, expected {short(accepted[0])}")


def reason(error: Exception, setup: str) -> str:
    """In words; of an assert without any, the line that it is on, where it is one of the tests' own functions."""
    if type(error) is not AssertionError:
        return f"{type(error).__name__}: {error}"
    if error.args:
        return str(error)
    step, line = error.__traceback__, ""
    while step:
        if step.tb_frame.f_code.co_filename == "setup":
            line = setup.split("\n")[step.tb_lineno - 1].strip()
        step = step.tb_next
    return f"not true: {line}" if line else ""


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def run(job: Any, channel: int) -> None:
    tests = job["data"]
    for number, test in enumerate(ready(tests, Program(channel, job["output_bytes"]))):
        try:
            test()
            passed, why = True, ""
        except Exception as error:
            passed, why = False, reason(error, tests["setup"])
        if number or not passed:  # the first only prepares
            print(json.dumps([passed, why[:300]]), flush=True)
        if not passed and not (number and tests["all"]):
            return
