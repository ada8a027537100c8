"""The code reward: outcomes, values, settings; HumanEval's programs and mutants of them against plain execution."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rewards import RewardError, RewardSettings, RewardSum
from rewards.builtin.code import code
from tests.sandboxes import needs

pytestmark = needs()
ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("ZERO_DATA_DIR", ROOT / "../shared/data"))
TESTS = [{"input": "1 2\n", "output": "3\n"}, {"input": "4 5\n", "output": "9\n"}]
RIGHT, HALF = "print(sum(map(int, input().split())))", "print(3)"


def fenced(program: str) -> str:
    return f"<think>Let me see.</think>\n```python\n{program}\n```"


def scores(*completions: str, tests: object = TESTS, **settings):
    return code.scores(list(completions), tests=[tests] * len(completions), **settings)


@pytest.mark.slow
def test_each_completion_has_its_own_outcome_in_order():
    got = scores(
        fenced(RIGHT),
        fenced(HALF),
        fenced("print("),
        "no program",
        "```\nprint(3)",
        fenced("while 1: pass"),
        limits={"cpu_seconds": 1},
    )
    assert [(one.value, one.outcome) for one in got] == [
        (1.0, "correct"), (0.0, "wrong"), (0.0, "wrong"), (0.0, "no_answer"), (0.0, "malformed"), (0.0, "wrong")
    ]  # fmt: skip
    assert [one.reason.partition(":")[0] for one in got][:3] == ["passed", "failed", "compile error"]
    assert got[5].reason == "timeout: test 1: ran for more than 1 s of CPU"
    assert (got[0].extracted, got[3].extracted) == (RIGHT, None)


def test_the_share_of_tests_is_the_value_where_it_is_asked_for():
    got = scores(fenced(RIGHT), fenced(HALF), fenced("1/0"), partial=True)
    assert [one.value for one in got] == [1.0, 0.5, 0.0]
    assert got[1].reason.endswith("1 of 2 tests passed")


def test_rows_without_tests_are_errors_and_no_zeros():
    (got,) = scores(fenced(RIGHT), tests=[])
    assert (got.value, got.outcome) == (None, "error")
    assert got.reason.startswith("no tests: the row has tests")


def test_other_languages_read_and_write():
    source = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"
    assert scores(f"```c++\n{source}\n```", language="c++")[0].outcome == "correct"
    assert scores("```\nread a b; echo $((a + b))\n```", language="bash")[0].outcome == "correct"
    awk = {"name": "awk", "file": "main.awk", "run": "awk -f main.awk"}
    assert scores("```\n{ print $1 + $2 }\n```", language=awk)[0].outcome == "correct"
    (calls,) = scores("```\nint main() {}\n```", tests=["assert f(1)"], language="c++")
    assert (calls.outcome, "for Python, got c++" in calls.reason) == ("error", True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "cobol"}, "language: got 'cobol', expected one of python"),
        ({"sandbox": "docker"}, "sandbox: got 'docker', expected auto"),
        ({"limits": {"seconds": 1}}, "seconds"),
        ({"limits": {"cpu_seconds": 0}}, "cpu_seconds: got 0, expected a number above 0"),
    ],
)
def test_a_setting_that_is_none_is_refused(settings, message):
    with pytest.raises(RewardError, match=message):
        scores(fenced(RIGHT), **settings)


def test_a_recipe_takes_it_as_any_other():
    rewards = RewardSum(
        [RewardSettings(name="code", args={"partial": True}), RewardSettings(name="format", weight=0.5)]
    )
    messages = [{"role": "assistant", "content": fenced(HALF)}]
    (reward,) = rewards.score([messages], {"tests": [TESTS], "answer": [""], "language": ["python"]})
    assert (reward.value, reward.parts["code"]) == (0.5, 0.5)


# -- HumanEval --------------------------------------------------------------------------------------------------------


OTHER = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq}


class Mutant(ast.NodeTransformer):
    """Changes the n-th thing that can be: an operator, a comparison, a constant, a return."""

    def __init__(self, wanted: int):
        self.wanted, self.seen = wanted, -1

    def visit(self, node):
        node = self.generic_visit(node)
        number = isinstance(node, ast.Constant) and type(node.value) is int
        if number or type(node) in OTHER or (isinstance(node, ast.Return) and node.value):
            self.seen += 1
            if self.seen == self.wanted:
                if isinstance(node, ast.Constant):
                    return ast.copy_location(ast.Constant(node.value + 1), node)
                if isinstance(node, ast.Return):
                    return ast.copy_location(ast.Return(ast.List([node.value], ast.Load())), node)
                return OTHER[type(node)]()
        return node


def mutants(source: str, numbers: range) -> list[str]:
    made = [ast.unparse(ast.fix_missing_locations(Mutant(n).visit(ast.parse(source)))) for n in numbers]
    return [one for one in dict.fromkeys(made) if one != ast.unparse(ast.parse(source))]


PLAIN = """
import io, json, signal, sys
verdicts = []
for program in json.load(sys.stdin):
    signal.setitimer(signal.ITIMER_VIRTUAL, 3)
    signal.signal(signal.SIGVTALRM, lambda *_: (_ for _ in ()).throw(TimeoutError))
    try:
        exec(program, {}); verdicts.append(True)
    except BaseException:
        verdicts.append(False)
print(json.dumps(verdicts))
"""


@pytest.mark.slow
def test_programs_of_humaneval_pass_and_mutants_fare_as_they_do_when_run_plainly():
    if not (DATA / "humaneval").is_dir():
        pytest.skip(f"no {DATA / 'humaneval'}: set ZERO_DATA_DIR to the benchmark data's folder")
    rows = [json.loads(line) for line in (DATA / "humaneval" / "test.jsonl").open(encoding="utf-8")]
    sources, of = [], []
    for number, row in enumerate(rows):
        whole = row["prompt"] + row["canonical_solution"]
        for source in [whole, *mutants(whole, range(number % 3, 12, 3))]:
            sources.append(source)
            of.append(row)
    columns = {name: [row[name] for row in of] for name in ("prompt", "test", "entry_point")}
    ours = code.scores([fenced(source) for source in sources], limits={"cpu_seconds": 3}, **columns)
    plain = [f"{source}\n{row['test']}\ncheck({row['entry_point']})" for source, row in zip(sources, of, strict=True)]
    done = subprocess.run([sys.executable, "-c", PLAIN], input=json.dumps(plain), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = ["correct" if passed else "wrong" for passed in json.loads(done.stdout.splitlines()[-1])]

    canonical = [row["prompt"] + row["canonical_solution"] for row in rows]
    right = [one for source, one in zip(sources, ours, strict=True) if source in canonical]
    assert [one.reason for one in right if one.value != 1] == []
    assert len(right) == 164
    differ = [
        (row["task_id"], source, one.outcome, one.reason, plain)
        for source, row, one, plain in zip(sources, of, ours, theirs, strict=True)
        if one.outcome != plain
    ]
    assert differ == []
    assert len(sources) > 500
    # Those that pass mean the same, or HumanEval does not tell them apart.
    survivors = sum(one.outcome == "correct" for one in ours) - 164
    assert survivors < 0.2 * (len(sources) - 164)
