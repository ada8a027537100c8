"""A driver, in a sandbox without the program: run tests, whose calls are answered by the program in its own (serving.py).

Expected values and comparisons are here, where nothing that a model wrote is: the program can neither read nor patch them.

    stdout  a line of JSON for each test: [passed, why not]
"""

# values.py stands before this text when it runs, `job` and `CHANNEL` are inside.py's.

import builtins
import importlib
import json
import math
import sys


class ProgramError(Exception):
    """The program raised what has no name here, or gave no answer."""


class Program:
    """The other end."""

    def __init__(self, channel, most):
        self.raw, self.most, self.unread = open(channel, "r+b", buffering=0), most, b""

    def call(self, name, args, kwargs):
        value, after = self.asked({"call": name, "args": encoded(list(args), None), "kwargs": encoded(kwargs, None)})
        if after is not None:
            put_back(args, after)
        return value

    def get(self, name):
        return self.asked({"get": name})[0]

    def asked(self, asked):
        """The value that the program told, and what became of the arguments where that is something else."""
        try:
            self.raw.write(json.dumps(asked).encode() + b"\n")
        except OSError:
            gone()
        try:
            reply = json.loads(self.line())
            if "raised" in reply:
                raise self.error(str(reply["raised"]), str(reply["message"]))
            return decoded(reply["value"], None), decoded(reply["args"], None)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            if hasattr(error, "of_the_program"):
                raise
            raise ProgramError("it gave no answer that can be read (%s)" % type(error).__name__) from None

    def error(self, name, message):
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return ProgramError("%s: %s" % (name, message))
        try:
            error = kind(message)
        except TypeError:
            return ProgramError("%s: %s" % (name, message))
        error.of_the_program = True
        return error

    def line(self):
        while b"\n" not in self.unread:
            try:
                piece = self.raw.read(65536)
            except OSError:
                gone()
            self.unread += piece
            if not piece or len(self.unread) > self.most:
                gone()
        line, _, self.unread = self.unread.partition(b"\n")
        return line


def gone():
    """The program ended, or was ended: no other test can pass."""
    print("gone", flush=True)
    sys.exit(0)


def put_back(args, after):
    """What the program changed in its arguments, in ours."""
    for ours, theirs in zip(args, after):  # noqa: B905
        if type(ours) is type(theirs) and ours != theirs:
            if isinstance(ours, list):
                ours[:] = theirs
            elif isinstance(ours, (dict, set)):
                ours.clear()
                ours.update(theirs)


def stub(program, name):
    return lambda *args, **kwargs: program.call(name, args, kwargs)


def equal(got, wanted, tolerance):
    """As JSON has it: a tuple is a list, true is not 1. Numbers within the tolerance."""
    if isinstance(got, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(got) == len(wanted) and all(equal(a, b, tolerance) for a, b in zip(got, wanted))  # noqa: B905
    if isinstance(got, dict) and isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(equal(got[key], wanted[key], tolerance) for key in got)
    if isinstance(got, bool) or isinstance(wanted, bool):
        return got is wanted
    if isinstance(got, (int, float)) and isinstance(wanted, (int, float)) and tolerance:
        return math.isclose(got, wanted, rel_tol=tolerance, abs_tol=tolerance)
    return got == wanted


def ready(tests, program):
    """The tests, each as a function."""
    space = {"__name__": "tests"}
    for name in tests["calls"]:
        space[name] = stub(program, name)
    try:
        for name in tests["variables"]:
            space[name] = program.get(name)
    except Exception as error:
        print(json.dumps([False, reason(error, "")]))
        return
    for name in tests["modules"]:
        space[name] = importlib.import_module(name)
    try:
        exec(compile(tests["setup"], "setup", "exec"), space)
    except Exception as error:
        print(json.dumps([None, "%s: %s" % (type(error).__name__, error)]))
        return
    for test in tests["asserts"]:
        yield lambda test=test: exec(compile(test, "test", "exec"), space)
    for args, accepted in tests["cases"]:
        yield lambda args=args, accepted=accepted: expect(program, tests, args, accepted)


def expect(program, tests, args, accepted):
    got = program.call(tests["function"], args, {})
    if not any(equal(got, wanted, tests["tolerance"]) for wanted in accepted):
        raise AssertionError("gave %s, expected %s" % (short(got), short(accepted[0])))


def reason(error, setup):
    """In words; of an assert without any, the line that it is on, where it is one of the tests' own functions."""
    if type(error) is not AssertionError:
        return "%s: %s" % (type(error).__name__, error)
    if error.args:
        return str(error)
    step, line = error.__traceback__, ""
    while step:
        if step.tb_frame.f_code.co_filename == "setup":
            line = setup.split("\n")[step.tb_lineno - 1].strip()
        step = step.tb_next
    return line and "not true: " + line


def short(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def main(job, channel):
    program = Program(channel, job["output_bytes"])
    for test in ready(job["data"], program):
        try:
            test()
            passed, why = True, ""
        except Exception as error:
            passed, why = False, reason(error, job["data"]["setup"])
        print(json.dumps([passed, why[:300]]), flush=True)
        if not (passed or job["data"]["all"]):
            return


main(job, CHANNEL)  # noqa: F821
