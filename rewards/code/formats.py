"""A row's tests, in the formats in which data sets of programs are published.

    tests          ours: a list, or the same as JSON, of {input, output}, of asserts, or of {args, returns} beside a
                   column `function`
    input_output   APPS, TACO: JSON of inputs, outputs, and fn_name where a function is called
    livecodebench  public_test_cases, private_test_cases, metadata
    humaneval      prompt, test with its `check`, entry_point
    mbpp           test_list of asserts, test_setup_code or test_imports
    verification   verification_info of the `verifiable-coding-problems` sets

Which one a row is in, its columns say; where it has those of several, the first of this list, or the one asked for.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST = 1000  # tests of a row


class TestsError(ValueError):
    """A row has no tests that can be read. The message names the column."""

    __test__ = False  # pytest: this is no test


@dataclass(frozen=True, slots=True)
class Stdio:
    """A program reads an input and writes an output. Example: Stdio((("1 2\\n", "3\\n"),))"""

    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """A function is called; each call has the values of which it may return one.

    Example: Calls("add", ((([1, 2],), (3,)),)) of add([1, 2]) == 3
    """

    function: str
    cases: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...]


@dataclass(frozen=True, slots=True)
class Asserts:
    """Statements that raise nothing if the program is right. `before`: what the program goes on from.

    Example: Asserts(("assert add(1, 2) == 3",))
    """

    asserts: tuple[str, ...]
    setup: str = ""
    before: str = ""


Tests = Stdio | Calls | Asserts


def read_tests(row: Mapping[str, Any], form: str | None = None) -> Tests:
    """The tests of a row. Raises TestsError if there are none, or they are not as their format says."""
    if form is not None and form not in FORMATS:
        raise TestsError(f"format: got {form!r}, expected one of {', '.join(FORMATS)}")
    for name in [form] if form else FORMATS:
        columns, read = FORMATS[name]
        if all(row.get(column) not in (None, "", []) for column in columns):
            try:
                tests = read(row)
            except TestsError:
                raise
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError, zlib.error) as error:
                raise TestsError(f"{columns[0]}: no tests of the format {name}: {error}") from error
            n = len(tests.asserts if isinstance(tests, Asserts) else tests.cases)
            if not 0 < n <= MOST:
                raise TestsError(f"{columns[0]}: got {n} tests, expected 1 to {MOST}")
            return tests
    known = "; ".join(f"{name}: {', '.join(columns)}" for name, (columns, _) in FORMATS.items())
    raise TestsError(
        f"no tests: the row has {', '.join(row) or 'no column'}; expected the columns of a format ({known})"
    )


def as_source(tests: Tests, program: str) -> str:
    """The whole program. A base model goes on from a prompt where it ends, a chat model writes the function anew."""
    if not isinstance(tests, Asserts) or not tests.before:
        return program
    goes_on = program[:1] in (" ", "\t")
    return tests.before + ("" if goes_on else "\n\n") + program


def shown(row: Mapping[str, Any], most: int | None = None) -> str:
    """What a question has to say of its tests for a program to be possible: names and forms. At most so many asserts.

    Of MBPP the asserts, as in its paper; of LiveCodeBench, APPS and TACO the code that they start from.
    """
    starter = str(row.get("starter_code") or "").strip("\n")
    if starter:
        return f"\n\nStart from this code:\n```python\n{starter}\n```"
    try:
        tests = read_tests(row)
    except TestsError:
        return ""
    if isinstance(tests, Asserts) and not tests.before:
        return "\n\nYour code should pass these tests:\n" + "\n".join(tests.asserts[:most])
    if isinstance(tests, Calls):
        return f"\n\nWrite a function `{tests.function}`."
    return ""


# -- The formats --------------------------------------------------------------------------------------------------


def _own(row: Mapping[str, Any]) -> Tests:
    items = _json(row["tests"])
    if isinstance(items, Mapping):  # {"inputs": [...], "outputs": [...]}
        return _of_lists(items)
    if not isinstance(items, list) or not items:
        raise TestsError(f"tests: got {str(items)[:80]!r}, expected a list that is not empty")
    if all(isinstance(item, str) for item in items):
        return _asserts(items, str(row.get("setup") or ""))
    if all(isinstance(item, Mapping) and {"input", "output"} <= set(item) for item in items):
        return Stdio(tuple((_text(item["input"]), _text(item["output"])) for item in items))
    if all(isinstance(item, Mapping) and {"args", "returns"} <= set(item) for item in items):
        function = row.get("function")
        if not isinstance(function, str) or not function.isidentifier():
            raise TestsError(f"function: got {function!r}, expected the name of the function that tests call")
        return Calls(function, tuple((tuple(item["args"]), (item["returns"],)) for item in items))
    raise TestsError(
        f"tests: got {str(items[0])[:80]!r}, expected {{input, output}}, an assert as text, or {{args, returns}}, "
        "the same in all"
    )


def _of_lists(held: Mapping[str, Any]) -> Tests:
    """APPS and TACO. An output in a list of one is that output, or the list."""
    inputs, outputs = held["inputs"], held["outputs"]
    if len(inputs) != len(outputs):
        raise TestsError(f"got {len(inputs)} inputs and {len(outputs)} outputs, expected as many of both")
    if function := held.get("fn_name"):
        cases = []
        for args, output in zip(inputs, outputs, strict=True):
            accepted = (output, output[0]) if isinstance(output, list) and output else (output,)
            cases.append((tuple(args), accepted))
        return Calls(str(function), tuple(cases))
    return Stdio(tuple((_lines(given), _lines(output)) for given, output in zip(inputs, outputs, strict=True)))


def _input_output(row: Mapping[str, Any]) -> Tests:
    return _of_lists(_json(row["input_output"]))


def _livecodebench(row: Mapping[str, Any]) -> Tests:
    cases = [*_json(row["public_test_cases"]), *_private(row.get("private_test_cases"))]
    if all(case["testtype"] == "functional" for case in cases):
        metadata = _json(row.get("metadata") or "{}")
        read = [(tuple(map(json.loads, case["input"].split("\n"))), (json.loads(case["output"]),)) for case in cases]
        return Calls(str(metadata["func_name"]), tuple(read))
    return Stdio(tuple((_text(case["input"]), _text(case["output"])) for case in cases))


def _private(held: Any) -> list[Any]:
    """JSON, or a pickled text of JSON, zipped. Nothing but a text is unpickled: a pickle can run code."""
    if not held:
        return []
    try:
        return _json(held)
    except json.JSONDecodeError:
        pass
    try:
        zipped = base64.b64decode(held, validate=True)
    except binascii.Error as error:
        raise TestsError(f"private_test_cases: neither JSON nor base64: {error}") from error
    text = _OnlyText(io.BytesIO(zlib.decompress(zipped))).load()
    return _json(text)


class _OnlyText(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise TestsError(f"private_test_cases: a pickle that wants {module}.{name}, expected a text")


def _humaneval(row: Mapping[str, Any]) -> Tests:
    name = row["entry_point"]
    return Asserts((f"check({name})",), str(row["test"]), str(row.get("prompt") or ""))


def _mbpp(row: Mapping[str, Any]) -> Tests:
    imports = row.get("test_imports") or []
    return _asserts(_json(row["test_list"]), "\n".join([*imports, str(row.get("test_setup_code") or "")]))


def _verification(row: Mapping[str, Any]) -> Tests:
    cases = _json(row["verification_info"])["test_cases"]
    if function := next((case.get("fn_name") for case in cases), None):
        return Calls(str(function), tuple((tuple(_json(case["input"])), (_json(case["output"]),)) for case in cases))
    return Stdio(tuple((_text(case["input"]), _text(case["output"])) for case in cases))


FORMATS: Mapping[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Tests]]] = {
    "tests": (("tests",), _own),
    "input_output": (("input_output",), _input_output),
    "livecodebench": (("public_test_cases",), _livecodebench),
    "humaneval": (("test", "entry_point"), _humaneval),
    "mbpp": (("test_list",), _mbpp),
    "verification": (("verification_info",), _verification),
}
COLUMNS = tuple(
    dict.fromkeys(
        [
            *(column for columns, _ in FORMATS.values() for column in columns),
            *("function", "setup", "private_test_cases", "metadata", "prompt", "test_setup_code", "test_imports"),
            "starter_code",
        ]
    )
)  # that tests are read from


def _asserts(statements: Sequence[str], setup: str) -> Asserts:
    for statement in statements:
        try:
            ast.parse(statement)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise TestsError(f"{str(statement)[:80]!r} is no Python: {error}") from error
    return Asserts(tuple(statements), setup)


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise TestsError(f"got {str(value)[:80]!r}, expected a text")
    return str(value)


def _lines(value: Any) -> str:
    """APPS has some inputs as lists of lines."""
    return "\n".join(map(_text, value)) if isinstance(value, Iterable) and not isinstance(value, str) else _text(value)
