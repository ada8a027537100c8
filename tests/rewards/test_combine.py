"""Rewards of ours, of a user's file and of TRL through one interface, and each way in which a user's can fail."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rewards import Reward, RewardError, RewardSettings, RewardSum, Score, grader, load_reward

RIGHT, WRONG = "<think>t</think><answer>42</answer>", "<think>t</think> <answer>41</answer>"

README = '''
def brevity(completions, **columns):
    """1.0 for an empty completion, 0.0 from 100 characters on."""
    return [max(0.0, 1 - len(text) / 100) for text in completions]
'''


def write(folder: Path, body: str, name: str = "mine.py") -> str:
    (folder / name).write_text(body)
    return f"{name}:f"


def reward_sum(*specs: str | dict[str, Any], base: Path | None = None) -> RewardSum:
    settings = [RewardSettings(name=spec) if isinstance(spec, str) else RewardSettings(**spec) for spec in specs]
    return RewardSum(settings, base)


def test_weights_multiply_parts_and_the_score_is_the_verdict() -> None:
    rewards = reward_sum("accuracy", {"name": "format", "weight": 0.2})
    right, wrong, loose = rewards.score([RIGHT, WRONG, "\\boxed{42}"], {"answer": ["42", "42", 42]})
    assert right.parts == {"accuracy": 1.0, "format": 1.0}
    assert right.value == pytest.approx(1.2)  # 1 * 1 + 0.2 * 1
    assert wrong.value == pytest.approx(0.2)  # 0.2 * 1
    assert loose.value == pytest.approx(1.0)
    assert right.score == Score(1.0, "42", "correct", "42 is 42")
    assert wrong.score is not None
    assert wrong.score.outcome == "wrong"


VERDICT = """
from rewards import Score
from rewards.graded import Graded
calls = []

@Graded
def f(completions, **columns):
    calls.append(completions)
    return [Score(None, None, text, "by the test") for text in completions]
"""


@pytest.mark.parametrize("outcome", ["timeout", "error"])
def test_a_failed_verdict_leaves_the_whole_value_none_and_is_the_score(tmp_path: Path, outcome: Any) -> None:
    (reward,) = reward_sum("accuracy", write(tmp_path, VERDICT), base=tmp_path).score([outcome], {"answer": ["42"]})
    assert reward == Reward(None, {"accuracy": 0.0, "f": None}, Score(None, None, outcome, "by the test"))


def test_a_completion_is_graded_once_for_its_value_and_its_score(tmp_path: Path) -> None:
    rewards = reward_sum(write(tmp_path, VERDICT), base=tmp_path)
    rewards.score(["timeout", "error"], {})
    assert rewards._functions["f"]._function.scores.__globals__["calls"] == [["timeout", "error"]]


def test_none_does_not_apply_and_all_none_is_none(tmp_path: Path) -> None:
    f = write(tmp_path, "def f(completions, flag):\n    return [2 if on else None for on in flag]")
    g = write(tmp_path, "def g(completions, flag):\n    return [None] * len(flag)").replace(":f", ":g")
    (tmp_path / "mine.py").write_text(
        "def f(completions, flag):\n    return [2 if on else None for on in flag]\n"
        "def g(completions, **columns):\n    return [None for _ in completions]\n"
    )
    rewards = reward_sum({"name": f, "weight": 0.5}, g, base=tmp_path)
    assert rewards.score(["a", "b"], {"flag": [True, False]}) == [
        Reward(1.0, {"f": 2.0, "g": None}, None),  # 0.5 * 2
        Reward(None, {"f": None, "g": None}, None),
    ]


def test_a_users_reward_from_a_file_works_beside_ours(tmp_path: Path) -> None:
    write(tmp_path, README, "my_rewards.py")
    rewards = reward_sum("accuracy", {"name": "my_rewards.py:brevity", "weight": 0.1}, base=tmp_path)
    (reward,) = rewards.score([RIGHT], {"answer": ["42"], "level": [3]})
    assert reward.value == pytest.approx(1 + 0.1 * (1 - len(RIGHT) / 100))


def test_only_named_columns_are_passed_without_kwargs_and_all_with_them(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "def f(completions, prompts, completion_ids, trainer_state, level=None):\n"
        "    assert prompts == ['p'] and completion_ids == [[1]] and trainer_state is None and level == [3]\n"
        "    return [1]\n"
        "def g(completions, **columns):\n"
        "    assert set(columns) == {'prompts', 'completion_ids', 'level', 'answer', 'trainer_state', 'log_extra',\n"
        "                            'log_metric'}\n"
        "    return [2]\n",
    )
    columns = {"prompts": ["p"], "completion_ids": [[1]], "level": [3], "answer": ["42"]}
    (reward,) = reward_sum(spec, "mine.py:g", base=tmp_path).score(["x"], columns)
    assert reward.parts == {"f": 1.0, "g": 2.0}


def test_an_async_reward_runs_inside_and_outside_an_event_loop(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "import asyncio\nasync def f(completions):\n    await asyncio.sleep(0)\n    return [0.5]\n",
    )
    rewards = reward_sum(spec, base=tmp_path)

    async def inside() -> list[Reward]:
        return rewards.score(["a"], {})

    assert rewards.score(["a"], {}) == asyncio.run(inside()) == [Reward(0.5, {"f": 0.5}, None)]


# -- forms of a reward -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "def f(completion, answer):\n    return None if answer is None else len(completion) + answer",
        "async def f(completion, answer):\n    return None if answer is None else len(completion) + answer",
        "def f(completions, answer):\n"
        "    return [None if a is None else len(c) + a for c, a in zip(completions, answer)]",
        "class F:\n    async def __call__(self, completions, answer, **columns):\n"
        "        return [None if a is None else len(c) + a for c, a in zip(completions, answer)]\nf = F()",
        "def f(extra):\n    def g(completion, answer):\n"
        "        return None if answer is None else len(completion) + answer\n    return g",
    ],
    ids=["single", "async single", "batch", "async object", "factory of a single"],
)
def test_batch_single_async_and_made_rewards_give_the_same_values(tmp_path: Path, body: str) -> None:
    args = {"extra": 1} if "extra" in body else {}
    rewards = reward_sum({"name": write(tmp_path, body), "args": args}, base=tmp_path)
    values = [reward.value for reward in rewards.score(["a", "bcd", ""], {"answer": [10, 20, None]})]
    assert values == [11.0, 23.0, None]


def test_a_single_reward_gets_its_rows_own_values(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "def f(completion, prompt, completion_ids, level, trainer_state, log_metric, k=1, **columns):\n"
        "    log_metric('level', level)\n"
        "    assert (prompt, completion_ids, trainer_state, columns) == ('p', [level], 7, {'other': 'o'})\n"
        "    return k * level\n",
    )
    columns = {"prompts": ["p", "p"], "completion_ids": [[3], [4]], "level": [3, 4], "other": ["o", "o"]}
    metrics = []
    rewards = reward_sum({"name": spec, "args": {"k": 10}}, base=tmp_path)
    scored = rewards.score(["a", "b"], columns, 7, lambda *metric: metrics.append(metric))
    assert [reward.value for reward in scored] == [30.0, 40.0]
    assert metrics == [("level", 3.0), ("level", 4.0)]


def test_the_calls_of_an_async_single_reward_wait_together(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "import asyncio\nwaiting = []\n"
        "async def f(completion):\n"
        "    waiting.append(completion)\n"
        "    while len(waiting) < 3:\n"  # one after the other, the first would wait for ever
        "        await asyncio.sleep(0)\n"
        "    return 1\n",
    )
    assert [reward.value for reward in reward_sum(spec, base=tmp_path).score(["a", "b", "c"], {})] == [1.0] * 3


@pytest.mark.parametrize(
    "values",
    [
        "numpy.array([0.5, 1.0])",
        "numpy.array([0.5, 1.0], dtype='float32')",
        "[numpy.float32(0.5), numpy.int64(1)]",
        "[0.5, numpy.bool_(True)]",
        "torch.tensor([0.5, 1.0])",
        "torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True)",
        "[torch.tensor(0.5), torch.tensor(1)]",
        "(0.5, True)",
    ],
)
def test_numbers_of_numpy_and_torch_are_numbers(tmp_path: Path, values: str) -> None:
    spec = write(tmp_path, f"import numpy, torch\ndef f(completions):\n    return {values}\n")
    assert [reward.value for reward in reward_sum(spec, base=tmp_path).score(["a", "b"], {})] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("numpy.array(1.0)", "returned float '1.0'"),
        ("numpy.array([1.0])", "got 1 values, expected 2"),
        ("numpy.zeros((2, 1))", r"gave \[0.0\], which is of type list"),
        ("numpy.array([1.0, numpy.nan])", "gave nan, which is not finite, to 'b'"),
        ("['x', numpy.str_('y')]", "gave 'x', which is of type str"),
        ("[1 + 2j, 1]", "which is of type complex"),
    ],
)
def test_an_array_of_another_shape_or_kind_is_refused(tmp_path: Path, values: str, message: str) -> None:
    spec = write(tmp_path, f"import numpy\ndef f(completions):\n    return {values}\n")
    with pytest.raises(RewardError, match=message):
        reward_sum(spec, base=tmp_path).score(["a", "b"], {})


TEXT = "x"
CHAT = [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize(
    ("parameter", "setting", "given", "got"),
    [
        ("completions", None, TEXT, TEXT),
        ("completions", None, CHAT, CHAT),
        ("completions", "messages", TEXT, CHAT),
        ("completions", "text", CHAT, TEXT),
        ("completions: list[str]", None, CHAT, TEXT),
        ("completions: list[str]", "messages", CHAT, CHAT),
        ("completions: Sequence[str]", None, CHAT, TEXT),
        ("completions: list[list[dict[str, str]]]", None, TEXT, CHAT),
        ("completions: typing.List[typing.List[typing.Dict[str, typing.Any]]]", None, TEXT, CHAT),
        ("completions: 'list[list[dict]]'", None, TEXT, CHAT),
        ("completions: list[str] | list[list[dict]]", None, CHAT, CHAT),
        ("completions: list", None, TEXT, TEXT),
        ("completion: str", None, CHAT, TEXT),
        ("completion: list[dict[str, str]]", None, TEXT, CHAT),
        ("completion", None, CHAT, CHAT),
    ],
)
def test_completions_come_as_the_setting_the_annotation_or_the_template_says(
    tmp_path: Path, parameter: str, setting: Any, given: Any, got: Any
) -> None:
    body = "seen.append(completion)\n    return 1"
    if parameter.startswith("completions"):
        body = "seen.extend(completions)\n    return [1]"
    head = "import typing\nfrom collections.abc import Sequence\nseen = []\n"
    spec = write(tmp_path, f"{head}def f({parameter}):\n    {body}\n")
    rewards = reward_sum({"name": spec, "completions": setting}, base=tmp_path)
    rewards.score([given], {})
    assert rewards._functions["f"]._function.__globals__["seen"] == [got]


def test_an_argument_takes_the_column_that_the_settings_name(tmp_path: Path) -> None:
    spec = write(
        tmp_path, "def f(completions, solution, answer):\n    return [a + b for a, b in zip(solution, answer)]\n"
    )
    rewards = reward_sum({"name": spec, "columns": {"solution": "answer", "answer": "level"}}, base=tmp_path)
    assert rewards.score(["x"], {"answer": [40], "level": [2]})[0].value == 42
    with pytest.raises(RewardError, match=r"no column answer; the data has \['level'\]"):
        rewards.score(["x"], {"level": [2]})


def test_prompts_come_in_the_form_of_the_completions(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "def f(completions: list[str], prompts):\n    return [float(prompts == ['q'])]\n"
        "def g(completions: list[list[dict]], prompts):\n"
        "    return [float(prompts == [[{'role': 'user', 'content': 'q'}]])]\n",
    )
    rewards = reward_sum(spec, "mine.py:g", base=tmp_path)
    for prompt in ("q", [{"role": "user", "content": "q"}]):
        (reward,) = rewards.score(["x"], {"prompts": [prompt]})
        assert reward.parts == {"f": 1.0, "g": 1.0}


def test_log_extra_is_kept_by_completion_and_of_another_length_refused(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "import numpy\ndef f(completions, log_extra):\n    log_extra('n', numpy.array([1, 2]))\n    return [0, 0]\n"
        "def g(completions, log_extra):\n    log_extra('n', [1])\n    return [0, 0]\n",
    )
    assert [reward.extra for reward in reward_sum(spec, base=tmp_path).score(["a", "b"], {})] == [
        {"f/n": 1},
        {"f/n": 2},
    ]
    with pytest.raises(RewardError, match=r"'mine.py:g': log_extra\('n'\) got 1 values, expected 2"):
        reward_sum("mine.py:g", base=tmp_path).score(["a", "b"], {})


# -- what a reward does wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("\n    return [1 / 0]", r"'mine.py:f' raised ZeroDivisionError: division by zero, while .*mine.py:2\)"),
        ("\n    return [1.0]", "got 1 values, expected 2: return a list with one number"),
        ("\n    return 1.0", "returned float '1.0': return a list"),
        ("\n    return 'ab'", "returned str 'ab': return a list"),
        ("\n    return None", "returned NoneType"),
        ("\n    return (x for x in (1, 2))", "returned generator"),
        ("\n    return [1.0, float('nan')]", "gave nan, which is not finite, to 'second'"),
        ("\n    return [float('inf'), 1.0]", "gave inf, which is not finite, to 'first'"),
        ("\n    return ['1', 1.0]", "gave '1', which is of type str, to 'first'"),
        ("\n    return [1.0, [1.0]]", r"gave \[1.0\], which is of type list, to 'second'"),
        ("\n    return [1.0", r"raised SyntaxError: .*mine.py:2\)"),
        ("\n    return int('x')", r"raised ValueError: invalid literal .*mine.py:2\)"),
    ],
)
def test_each_broken_contract_is_one_clear_error(tmp_path: Path, body: str, message: str) -> None:
    spec = write(tmp_path, f"def f(completions, **columns):{body}\n")
    with pytest.raises(RewardError, match=message):
        reward_sum(spec, base=tmp_path).score(["first", "second"], {})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answers": ["42"]}, r"'accuracy' needs the column 'answer'; the data has \['answers'\]"),
        ({"answer": ["42", "42"]}, "column 'answer': got 2 values, expected 1"),
    ],
)
def test_a_wrong_column_is_named(columns: dict, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        reward_sum("accuracy").score([RIGHT], columns)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("acuracy", r"'acuracy': no built-in and no installed .* has this name \(did you mean 'accuracy'?"),
        ("mine.py", "path/to/file.py:function"),
        ("mni.py:f", r"there is no file .* \(did you mean 'mine.py'?"),
        ("mine.py:brevty", r"has no function 'brevty' \(did you mean 'brevity'?"),
        ("no_such_package.rewards:f", "raised ModuleNotFoundError: No module named 'no_such_package'"),
        ("trl.rewards:think_format_rewards", "did you mean 'think_format_reward'?"),
    ],
)
def test_a_reward_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, spec: str, message: str) -> None:
    write(tmp_path, README)
    with pytest.raises(RewardError, match=message):
        load_reward(spec, tmp_path)


def test_settings_refuse_unknown_keys_unknown_arguments_and_equal_names() -> None:
    with pytest.raises(ValidationError, match="wieght"):
        RewardSettings(name="accuracy", wieght=1)  # type: ignore[call-arg]
    with pytest.raises(RewardError, match="no argument raed"):
        reward_sum({"name": "accuracy", "args": {"raed": ["tag"]}})
    with pytest.raises(RewardError, match="each with a name of its own"):
        reward_sum("accuracy", "accuracy")
    with pytest.raises(RewardError, match=r"read: got \['box'\]"):
        reward_sum({"name": "accuracy", "args": {"read": ["box"]}}).score([RIGHT], {"answer": ["42"]})


def test_arguments_reach_the_reward() -> None:
    (reward,) = reward_sum({"name": "accuracy", "args": {"read": ["hashes"]}}).score(["#### 42"], {"answer": ["42"]})
    assert reward.value == 1.0


def test_graders_take_a_row_of_columns() -> None:
    assert grader("math")(RIGHT, {"answer": "42", "level": 3}).outcome == "correct"
    assert grader("math", read=("last_line",))("42", {"answer": 42}).outcome == "correct"
    assert grader("countdown")("<answer>1+2</answer>", {"numbers": [1, 2], "target": 3}).outcome == "correct"
    with pytest.raises(RewardError, match="did you mean 'math'"):
        grader("maths")


def test_importing_rewards_imports_no_torch_and_no_sympy() -> None:
    code = "import sys, rewards; print([name for name in ('torch', 'sympy', 'math_verify') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_the_worker_imports_no_torch() -> None:
    code = "import sys, rewards.verifier.symbolic; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
