"""An environment of the package `verifiers` (0.1.2 and 0.1.3), of one turn or of several, as one of ours.

    ours             theirs
    rows             the datasets; without an eval_dataset, what is held out is the end of the dataset
    start            the row's prompt, setup_state
    step             is_completed, max_turns, env_response
    score            the rubric, of one rollout at a time

A reward function that raises is worth 0 there, in silence; here its episode has failed. What needs their client is
refused: tools that the server calls (`oai_tools`), rubrics that compare the rollouts of a group.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from grpo.types import Episode
from rewards.types import Score

VERSIONS = ("0.1.2", "0.1.3")  # later ones ask for openai-agents, which moves packages that vLLM pins
INSTALL = "pip install 'zero-rl[verifiers]'"


class Verifiers:
    """
    Args:
        environment: its name, as verifiers.load_environment takes it, or a verifiers.Environment.
        args: what is loaded by name gets these.
        success: the least reward that counts as success.

    Raises ValueError where the package is missing or is another version, or the environment needs what is not here.
    """

    def __init__(self, environment: Any, args: Mapping[str, Any] | None = None, success: float = 1.0) -> None:
        package = _package()
        self._env = (
            package.load_environment(environment, **(args or {})) if isinstance(environment, str) else environment
        )
        if not isinstance(self._env, package.MultiTurnEnv | package.EnvGroup):
            kind = type(self._env).__name__
            raise ValueError(f"environment: got {kind}, expected a verifiers.SingleTurnEnv, MultiTurnEnv or EnvGroup")
        self._success = success
        self._errors: list[Exception] = []
        for env in _all(self._env, "envs"):
            if env.oai_tools:
                raise ValueError("environment: its tools are called by a server (oai_tools), which is not done here")
        for rubric in _all(self._env.rubric, "rubrics"):
            if _scores_groups(package, rubric):
                raise ValueError(f"environment: {type(rubric).__name__} scores rollouts together, not one by one")
        for env in _all(self._env, "envs"):
            for rubric in _all(env.rubric, "rubrics"):
                rubric.reward_funcs = [_watched(function, self._errors) for function in rubric.reward_funcs]

    def rows(self, split: str, n: int) -> list[dict[str, Any]]:
        data, held_out = self._env.dataset, self._env.eval_dataset
        if split == "train" or held_out is not None:
            chosen = data if split == "train" else held_out
            if chosen is None:
                raise ValueError("environment: it has no dataset to train on, an eval_dataset alone")
            chosen = chosen.select(range(min(n, len(chosen))))
        else:
            chosen = data.select(range(max(0, len(data) - n), len(data)))
        return [{"answer": str(row.get("answer", "")), "row": dict(row)} for row in chosen]

    async def start(self, row: Mapping[str, Any]) -> Any:
        if "row" not in row:
            raise ValueError(
                "an environment of verifiers brings its own problems; leave out task.name and task.dataset"
            )
        given = row["row"]
        self._prompt = given["prompt"]
        self._state: dict[str, Any] = {
            "prompt": self._prompt,
            "completion": [],
            "answer": given.get("answer", ""),
            "task": given.get("task") or "default",
            "info": given.get("info") or {},
            "responses": [],
            "turn": 0,
        }
        self._talk = self._of_task(self._state["task"])
        self._chat = self._talk.message_type == "chat"
        self._said: Any = [] if self._chat else ""
        if not self._chat:
            self._state["responses_start_idx"] = []
        self._state = await _result(self._talk.setup_state(self._state))
        return [dict(message) for message in self._prompt] if self._chat else self._prompt

    async def step(self, reply: str) -> Any:
        self._hear(reply)
        done = await _result(self._talk.is_completed(self._whole(), self._state))
        if done or self._state["turn"] >= self._talk.max_turns:
            return None
        said, self._state = await _result(self._talk.env_response(self._whole(), self._state))
        self._said = self._said + (list(said) if self._chat else said)
        return said

    async def score(self, episode: Episode) -> Score:
        if self._state["turn"] < episode.turns:  # the last reply was cut, and no step taken
            self._hear(episode.replies[-1])
        self._state["completion"] = self._said
        self._errors.clear()
        reward, metrics = await _scored(self._env.rubric, self._prompt, self._said, self._state)
        if self._errors:
            raise self._errors[0]
        reason = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
        return Score(float(reward), None, "correct" if reward >= self._success else "wrong", reason)

    def _of_task(self, task: str) -> Any:
        """The environment of a group that the row is of."""
        env = self._env
        while hasattr(env, "env_map"):
            env = env.env_map[task]
        return env

    def _hear(self, reply: str) -> None:
        self._state["responses"].append(_response(reply, self._chat))
        if not self._chat:
            self._state["responses_start_idx"].append(len(self._said))
        self._said = self._said + ([{"role": "assistant", "content": reply}] if self._chat else reply)
        self._state["turn"] += 1

    def _whole(self) -> Any:
        return [*self._prompt, *self._said] if self._chat else self._prompt + self._said


def _package() -> ModuleType:
    if find_spec("verifiers") is None:
        raise ValueError(f"the package verifiers is not installed; run: {INSTALL}")
    import verifiers

    if verifiers.__version__ not in VERSIONS:
        raise ValueError(f"verifiers {verifiers.__version__}: expected {' or '.join(VERSIONS)}; run: {INSTALL}")
    logging.getLogger("verifiers").setLevel(logging.WARNING)
    return verifiers


def _all(one: Any, parts: str) -> Iterator[Any]:
    """Itself, and what it is made of."""
    yield one
    for part in getattr(one, parts, ()):
        yield from _all(part, parts)


def _scores_groups(package: ModuleType, rubric: Any) -> bool:
    own = type(rubric).score_rollouts
    return own not in (package.Rubric.score_rollouts, package.RubricGroup.score_rollouts)


async def _scored(rubric: Any, prompt: Any, said: Any, state: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
    """The reward, and its parts by name; of a group the sum, as verifiers has it."""
    parts: Sequence[Any] = getattr(rubric, "rubrics", ())
    if not parts:
        score = await rubric.score_rollout(prompt, said, state["answer"], state, state["task"], state["info"])
        return score.reward, dict(score.metrics)
    reward, metrics = 0.0, dict[str, float]()
    for part in parts:
        value, named = await _scored(part, prompt, said, state)
        reward += value
        metrics |= {name: metrics.get(name, 0.0) + one for name, one in named.items()}
    return reward, metrics


def _watched(function: Callable[..., Any], errors: list[Exception]) -> Callable[..., Any]:
    """A reward function whose exception is kept, for the rubric takes it for a 0."""

    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> float:
        try:
            return float(await _result(function(*args, **kwargs)))
        except Exception as error:  # broad: a user's reward function; it is raised again when all are done
            errors.append(error)
            raise

    return watched


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _response(reply: str, chat: bool) -> Any:
    """What a server would have answered, for environments and rubrics that count or read the responses."""
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    about = {"id": "", "created": 0, "model": ""}
    if chat:
        message = {"role": "assistant", "content": reply}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": message}
        return ChatCompletion.model_validate({**about, "object": "chat.completion", "choices": [choice]})
    choice = {"index": 0, "finish_reason": "stop", "text": reply}
    return Completion.model_validate({**about, "object": "text_completion", "choices": [choice]})
