"""Environments of the package `verifiers`: played and scored as its own rollout does it, and what is refused."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers")
import verifiers
from datasets import Dataset

from grpo.environments.builtin.verifiers import Verifiers, _response
from grpo.environments.environment import EnvironmentRefusedError, EpisodeFailedError, Player, load_environment
from grpo.environments.host import EnvironmentHost
from grpo.environments.settings import EnvironmentSettings
from grpo.types import Episode, Message

SUMS = Dataset.from_list([{"question": f"{k}+1", "answer": str(k + 1), "info": {"k": k}} for k in range(6)])
TEXTS = Dataset.from_list([{"prompt": f"{k}+1=", "answer": str(k + 1)} for k in range(6)])


def text_of(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def exact(completion: Any, answer: str) -> float:
    return float(text_of(completion).strip() == answer)


async def short(completion: Any, state: dict[str, Any], **_: Any) -> float:
    assert len(state["responses"]) == state["turn"]
    return 1 / state["turn"]


def raises(completion: Any) -> float:
    return 1 / 0


class Again(verifiers.MultiTurnEnv):
    """Says what was wrong until a reply is right."""

    def setup_state(self, state: Any, **_: Any) -> Any:
        return state | {"tries": 0}

    def is_completed(self, messages: Any, state: Any, **_: Any) -> bool:
        reply = messages.rpartition("=")[2] if isinstance(messages, str) else messages[-1]["content"]
        return reply == state["answer"]

    def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        state["tries"] += 1
        said = f"no, {state['tries']}="
        return (said if isinstance(messages, str) else [{"role": "user", "content": said}]), state


def rubric(*functions: Any, weights: list[float] | None = None) -> verifiers.Rubric:
    return verifiers.Rubric(funcs=list(functions), weights=weights or [1.0] * len(functions))


def single(rule: Any = None, **more: Any) -> verifiers.SingleTurnEnv:
    return verifiers.SingleTurnEnv(dataset=SUMS, system_prompt="Add.", rubric=rule or rubric(exact), **more)


def again(**more: Any) -> Again:
    return Again(dataset=SUMS, rubric=rubric(exact, short, weights=[1.0, 0.5]), **more)


def grouped() -> verifiers.EnvGroup:
    return verifiers.EnvGroup([single(rubric(exact)), again(max_turns=3)], env_names=["one", "more"])


ENVIRONMENTS: dict[str, Any] = {
    "one turn": single,
    "a group of rubrics": lambda: single(verifiers.RubricGroup([rubric(exact), rubric(short, weights=[0.25])])),
    "several turns": again,
    "a limit of turns": lambda: again(max_turns=2),
    "texts": lambda: Again(dataset=TEXTS, message_type="completion", rubric=rubric(exact, short), max_turns=3),
    "a group of environments": grouped,
}
REPLIES = ["5", "x", "", "2"]


async def theirs(env: Any, row: dict[str, Any]) -> tuple[Any, float]:
    """What its own rollout makes of the same replies."""
    left = iter(REPLIES)

    async def reply(*_: Any, message_type: str, **__: Any) -> Any:
        return _response(next(left), message_type == "chat")

    for one in (env, *getattr(env, "envs", ())):
        one.get_model_response = reply
    task, info = row.get("task") or "default", row.get("info") or {}
    said, state = await env.rollout(None, "", row["prompt"], row["answer"], task, info)
    given = [row["prompt"]], [said], [row["answer"]], [state], [task], [info]
    return said, (await env.rubric.score_rollouts(*given)).reward[0]


async def ours(env: Any, row: dict[str, Any]) -> tuple[tuple[Message, ...], list[Message], Any]:
    player, said, left = Player(Verifiers(env)), [], iter(REPLIES)
    begun = await player.start({"row": row, "id": "r"})
    new: tuple[Message, ...] = begun
    while new:
        said.append({"role": "assistant", "content": next(left)})
        new = await player.step(said[-1]["content"])
        said += new
    return begun, said, await player.score(Episode((*begun, *said), "done"))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_episode_is_what_their_own_rollout_makes_of_the_same_replies(name):
    for k in (1, 4):
        row = {**ENVIRONMENTS[name]().dataset[k]}
        if name == "a group of environments":
            row["task"] = "more" if k == 1 else "one"
        said, reward = asyncio.run(theirs(ENVIRONMENTS[name](), row))
        begun, messages, score = asyncio.run(ours(ENVIRONMENTS[name](), row))
        if isinstance(said, str):
            assert begun == ({"role": "user", "content": row["prompt"]},)
            assert "".join(message["content"] for message in messages) == said
        else:
            assert list(begun) == row["prompt"]
            assert messages == said
        assert score.value == pytest.approx(reward)
        assert score.outcome == ("correct" if reward >= 1 else "wrong")


def test_rows_are_its_datasets_and_without_an_own_one_the_end_is_held_out():
    alone = Verifiers(single())
    assert [row["answer"] for row in alone.rows("train", 2)] == ["1", "2"]
    assert [row["answer"] for row in alone.rows("held_out", 2)] == ["5", "6"]
    assert len(alone.rows("train", 100)) == 6
    both = Verifiers(single(eval_dataset=SUMS.select([3])))
    assert [row["answer"] for row in both.rows("held_out", 2)] == ["4"]


def test_a_reply_that_was_cut_is_scored_though_no_step_was_taken():
    async def cut() -> Any:
        player = Player(Verifiers(again()))
        begun = await player.start({"row": dict(again().dataset[1]), "id": "r"})
        return await player.score(Episode((*begun, {"role": "assistant", "content": "2"}), "tokens"))

    score = asyncio.run(cut())
    assert (score.value, score.reason) == (1.5, "exact 1, short 1")


def test_a_reward_function_that_raises_fails_its_episode_and_is_no_zero():
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ours(single(rubric(exact, raises)), dict(single().dataset[0])))


class Compares(verifiers.Rubric):
    async def score_rollouts(self, *_: Any, **__: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        (lambda: single(Compares()), "Compares scores rollouts together"),
        (lambda: verifiers.ToolEnv(dataset=SUMS, tools=[single]), "tools are called by a server"),
        (lambda: 7, "got int, expected a verifiers.SingleTurnEnv"),
    ],
)
def test_what_has_no_place_here_is_refused(environment, problem):
    with pytest.raises(ValueError, match=problem):
        Verifiers(environment())


def test_another_version_and_a_missing_package_are_refused_with_the_command(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(verifiers, "__version__", "0.1.8")
        with pytest.raises(ValueError, match=r"verifiers 0\.1\.8: expected 0\.1\.2 or 0\.1\.3; run: pip install"):
            Verifiers("any")
    monkeypatch.setattr("grpo.environments.builtin.verifiers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("not installed; run: pip install 'zero-rl[verifiers]'")):
        Verifiers("any")


MODULE = """
import verifiers
from datasets import Dataset

def right(completion, answer):
    if completion[-1]["content"] == "bad":
        raise KeyError("no such key")
    return float(completion[-1]["content"] == answer)

def load_environment(n=2):
    rows = Dataset.from_list([{"question": str(k), "answer": str(k)} for k in range(n)])
    return verifiers.SingleTurnEnv(dataset=rows, rubric=verifiers.Rubric(funcs=[right]))
"""


@pytest.mark.slow
def test_by_name_it_runs_in_the_host_and_its_failures_are_those_of_its_episode(tmp_path: Path, monkeypatch):
    (tmp_path / "my_env.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def settings(name: str) -> EnvironmentSettings:
        return EnvironmentSettings(name="verifiers", config={"environment": name, "args": {"n": 3}})

    async def played(host: EnvironmentHost, reply: str) -> Any:
        (row,) = host.rows("train", 1) or []
        async with host.session() as session:
            begun = await session.start({**row, "id": "r"}, "")
            assert await session.step(reply) == ()
            return await session.score(Episode((*begun, {"role": "assistant", "content": reply}), "done"))

    with closing(EnvironmentHost(settings("my-env"))) as host:
        assert len(host.rows("train", 9) or []) == 3
        assert asyncio.run(played(host, "0")).value == 1.0
        assert asyncio.run(played(host, "1")).outcome == "wrong"
        with pytest.raises(EpisodeFailedError, match="KeyError: 'no such key'"):
            asyncio.run(played(host, "bad"))
    with pytest.raises(EnvironmentRefusedError, match="Could not import 'my-evn' environment"):
        load_environment("verifiers", {"environment": "my-evn"})
