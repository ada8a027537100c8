"""The calculator and the Python tool: what they answer, and that nothing they are told stops or harms them."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest

from grpo.environments.builtin.calculator import calculate
from grpo.environments.environment import EnvironmentRefusedError, load_environment
from grpo.environments.host import EnvironmentHost
from grpo.environments.settings import EnvironmentSettings
from tests.sandboxes import needs


def answers(name: str, *replies: str, **config: Any) -> list[str | None]:
    """What the tool says to each reply; None where the episode is over."""

    async def played(host: EnvironmentHost) -> list[str | None]:
        async with host.session() as session:
            await session.start({"id": "r", "question": "q"}, "")
            said = [await session.step(reply) for reply in replies]
            return [one[0]["content"] if one else None for one in said]

    with closing(EnvironmentHost(EnvironmentSettings(name=name, config=config))) as host:
        return asyncio.run(played(host))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12*(3+4)", "84"),
        ("1,000 + 1", "1001"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("2^10 - 2**10", "0"),
        ("-7 // 2", "-4"),
        ("7 % -3", "-2"),
        (" 3\n", "3"),
        ("2**0.5", "1.41421356237"),
        ("10**80", "about 10^80"),
        ("10**-400", "0"),
        ("1/0", "error: division by zero"),
        ("0**-1", "error: too large, or not defined"),
        ("9**9**9", "error: too large, or not defined"),
        ("(-8)**0.5", "error: too large, or not defined"),
        ("", "error: not an expression"),
        ("2 +", "error: not an expression"),
        ("__import__('os').getcwd()", "error: not an expression"),
        ("'a'*9", "error: not an expression"),
        ("True + 1", "error: not an expression"),
        ("1 if 1 else 2", "error: not an expression"),
        ("1e999999999", "error: too large"),
        ("x\0", "error: not an expression"),
        ("(" * 299, "error: not an expression"),
        ("1+" * 200 + "1", "error: 401 characters, at most 300"),
    ],
)
def test_the_calculator(expression, value):
    found = calculate(expression)
    assert found == value or (value.startswith("error: ") and found.startswith(value))


def test_every_use_in_a_reply_is_answered_and_a_reply_without_one_is_the_last():
    said = answers("calculator", "so <calculator>1+1</calculator>, <calculator>\n2*3</calculator>", "it is 8")
    assert said == ["<result>2</result>\n<result>6</result>", None]
    assert answers("calculator", "<c>1+1</c>", "<calculator>1</calculator>", tag="c") == ["<result>2</result>", None]


@needs()
@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("print(sum(range(10)))", "45"),
        ("```python\nfor i in range(2):\n    print(i)\n```", "0\n1"),
        ("1 + 1", "nothing was printed"),
        ("print('a'); 1/0", "a\nerror: "),
        ("print(1", "error: "),
        ("import socket; socket.create_connection(('127.0.0.1', 80))", "error: "),
        ("open('/etc/passwd').read()", "error: "),
        ("while True: pass", "error: ran for more than 1 s of CPU"),
        ("print('x' * 5000)", "x" * 500 + " ... " + "x" * 500),
    ],
)
def test_the_python_tool_says_what_a_program_prints_and_what_ended_it(program, says):
    (said,) = answers("python", f"<python>{program}</python>", limits={"cpu_seconds": 1})
    assert said is not None
    text = said.removeprefix("<result>").removesuffix("</result>")
    assert text.startswith(says) if says.endswith(": ") else text == says


@needs()
def test_a_program_knows_nothing_of_the_one_before():
    first, second = answers("python", "<python>x = 1</python>", "<python>print(x)</python>")
    assert first == "<result>nothing was printed</result>"
    assert second is not None
    assert "NameError" in second


@pytest.mark.parametrize(
    ("name", "config", "problem"),
    [
        ("calculater", {}, "did you mean 'calculator'"),
        ("calculator", {"tag": "a b"}, "tag: got 'a b'"),
        ("python", {"limits": {"cpu": 1}}, "unexpected keyword argument 'cpu'"),
        ("python", {"limits": {"cpu_seconds": 0}}, "cpu_seconds: got 0"),
        ("python", {"sandbox": "jail"}, "jail"),
        ("python", {"shown": 0}, "shown: got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, config, problem):
    with pytest.raises(EnvironmentRefusedError, match=problem):
        load_environment(name, config)
