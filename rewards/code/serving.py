"""A driver, beside the program in its sandbox: load it, then do as the other end asks, and tell the values.

The other end is its tests, in a sandbox of their own (testing.py). No expected value comes here.

Runs inside the sandbox, after values.py: nothing but Python 3.9 and its standard library here.
"""

import json
import sys
import types
from typing import Any

from rewards.code.values import decoded, encoded


def serve(job: Any, channel: int) -> None:
    """Until the other end closes the channel."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    sys.path.insert(0, ".")
    try:
        exec(job["code"], module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        if error.__traceback__:
            error.__traceback__ = error.__traceback__.tb_next  # without this file
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)
    served = Served(module)
    with open(channel, "r+b", buffering=0) as raw:
        while line := read_line(raw):
            raw.write(json.dumps(served.answer(json.loads(line))).encode() + b"\n")


def read_line(raw: Any) -> bytes:
    pieces = []
    while piece := raw.read(65536):
        pieces.append(piece)
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces)


class Served:
    """The program's functions, variables, and the objects that it gave out."""

    def __init__(self, module: types.ModuleType):
        self.module, self.objects, self.solution = module, [], None  # type: tuple[Any, list[Any], Any]

    def answer(self, asked: Any) -> Any:
        try:
            if "call" in asked:
                args = decoded(asked["args"], self.objects)
                value = self.named(asked["call"])(*args, **decoded(asked["kwargs"], self.objects))
                told, after = encoded(value, self.objects), encoded(args, self.objects)
                return {"value": told, "args": after if after != asked["args"] else None}
            if "get" in asked:
                value = self.named(asked["get"])
                function = isinstance(value, (types.FunctionType, types.MethodType, type))
                return {"function": True} if function else {"value": encoded(value, self.objects), "args": None}
            it, name = self.objects[asked["of"]], asked["name"]
            if "set" in asked:
                setattr(it, name, decoded(asked["set"], self.objects))
                return {"value": None, "args": None}
            return {"value": encoded(getattr(it, name), self.objects), "args": None}
        except Exception as error:
            return {"raised": type(error).__name__, "message": str(error)[:300]}

    def named(self, name: str) -> Any:
        """What the module calls so, or LeetCode's way, a method of its class Solution."""
        if hasattr(self.module, name):
            return getattr(self.module, name)
        if hasattr(self.module, "Solution"):
            if self.solution is None:
                self.solution = self.module.Solution()
            return getattr(self.solution, name)
        raise NameError(f"name {name!r} is not defined")
