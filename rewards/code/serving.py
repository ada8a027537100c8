"""A driver, beside the program in its sandbox: load it, then call its functions as the other end asks, and tell the values.

The other end is its tests, in a sandbox of their own (testing.py). No expected value comes here.
"""

# values.py stands before this text when it runs, `job` and `CHANNEL` are inside.py's.

import json
import sys


def serve(job, channel):
    module = type(sys)("solution")
    sys.modules["solution"] = module
    sys.path.insert(0, ".")
    objects, made = [], {}
    try:
        exec(job["code"], module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        error.__traceback__ = error.__traceback__.tb_next
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)
    with open(channel, "r+b", buffering=0) as raw:
        for line in iter(lambda: _line(raw), b""):
            raw.write(json.dumps(_answer(module, json.loads(line), objects, made)).encode() + b"\n")


def _line(raw):
    pieces = []
    while piece := raw.read(65536):
        pieces.append(piece)
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces)


def _answer(module, asked, objects, made):
    try:
        if "get" in asked:
            return {"value": encoded(getattr(module, asked["get"]), objects), "args": None}
        function = _function(module, asked["call"], made)
        args, kwargs = decoded(asked["args"], objects), decoded(asked["kwargs"], objects)
        value = encoded(function(*args, **kwargs), objects)
        after = encoded(args, objects)
        return {"value": value, "args": after if after != asked["args"] else None}
    except Exception as error:
        return {"raised": type(error).__name__, "message": str(error)[:300]}


def _function(module, name, made):
    """A function of the module's, or LeetCode's way, a method of its class Solution."""
    if hasattr(module, name):
        return getattr(module, name)
    if hasattr(module, "Solution"):
        if "it" not in made:
            made["it"] = module.Solution()
        return getattr(made["it"], name)
    raise NameError("name %r is not defined" % name)


serve(job, CHANNEL)  # noqa: F821
