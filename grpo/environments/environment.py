"""An environment: what the model talks to, turn by turn, and what the talk was worth.

    class Echo:
        def start(self, row):            # the row of the dataset, as a dictionary
            return row["question"]       # text, a message, or a list of messages

        def step(self, reply):           # what the model wrote
            return "again"               # alike; None: the episode is over

        def score(self, episode):        # an Episode; optional: without it, the task's verifier reads the last reply
            return 1.0                   # a number (1.0 and more: success), or a rewards.Score

Each may be `async def`. An episode has a copy of the object to itself. `rows(split, n)`, optional too, gives the
problems where the task has no dataset.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from grpo.environments.builtin.calculator import Calculator
from grpo.environments.builtin.guess_number import GuessNumber
from grpo.environments.builtin.python import Python
from grpo.types import Episode, Message
from rewards.nearest import did_you_mean
from rewards.types import Score
from rewards.user.loading import Purpose, load_function, user_code

BUILT_IN: Mapping[str, Callable[..., Any]] = {
    "calculator": Calculator,
    "guess_number": GuessNumber,
    "python": Python,
}
# Built in, too, but made of other people's code: it runs where a user's does.
ADAPTERS = {"verifiers": "grpo.environments.builtin.verifiers:Verifiers"}
SUCCESS = 1.0  # the least score that counts as success in accuracy and evaluation
_ROLES = ("system", "user", "tool")
_MESSAGES = 'text, a message such as {"role": "user", "content": "higher"}, or a list of messages'


class EnvironmentRefusedError(ValueError):
    """The environment that the settings name cannot be used. The message says what to do."""


class EpisodeFailedError(Exception):
    """An episode that cannot go on, nor be scored. `cause` is what it is counted under."""

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(cause, reason)  # both: it is pickled
        self.cause, self.reason = cause, reason


class Environment(Protocol):
    """See the module; `score` and `rows` are optional."""

    def start(self, row: Mapping[str, Any]) -> Any: ...
    def step(self, reply: str) -> Any: ...


LOADED = Purpose("task.environment", EnvironmentRefusedError)


def load_environment(name: str, config: Mapping[str, Any], base_dir: Path | None = None) -> Environment:
    """Make the environment. Raises EnvironmentRefusedError, with the nearest valid name, if that cannot be done."""
    if ":" in name or name in ADAPTERS:
        made_by: Callable[..., Any] = load_function(ADAPTERS.get(name, name), LOADED, base_dir)
    elif name in BUILT_IN:
        made_by = BUILT_IN[name]
    else:
        named = (*BUILT_IN, *ADAPTERS)
        raise EnvironmentRefusedError(
            f"task.environment {name!r}: no built-in has this name{did_you_mean(name, named)}. "
            f"Give one of {', '.join(named)}, path/to/file.py:Class or package.module:Class"
        )
    with user_code(name, made_by, f"being made with task.environment.config {dict(config)}", LOADED):
        environment = made_by(**config)
    if missing := [one for one in ("start", "step") if not callable(getattr(environment, one, None))]:
        raise EnvironmentRefusedError(
            f"task.environment {name!r}: {type(environment).__name__} has no method {' and no '.join(missing)}; "
            "an environment has start(row), step(reply) and, where its score counts, score(episode)"
        )
    return environment


class Player:
    """One episode with an environment: what its methods return, as records.

    Raises whatever the environment raises, and TypeError or ValueError if it returns something else.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    async def start(self, row: Mapping[str, Any]) -> tuple[Message, ...]:
        messages = as_messages("start", await _result(self._environment.start(dict(row))))
        if not messages:
            raise ValueError(f"start returned nothing to begin with, expected {_MESSAGES}")
        return messages

    async def step(self, reply: str) -> tuple[Message, ...]:
        """() at the end."""
        return as_messages("step", await _result(self._environment.step(reply)))

    async def score(self, episode: Episode) -> Score | None:
        score = getattr(self._environment, "score", None)
        return None if score is None else as_score(await _result(score(episode)))


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def as_messages(method: str, value: Any) -> tuple[Message, ...]:
    """What `start` or `step` returned, as messages."""
    if value is None:
        return ()
    values = [value] if isinstance(value, str | Mapping) else value
    if not isinstance(values, Sequence):
        raise TypeError(f"{method} returned {_short(value)}, expected {_MESSAGES}, or None at the end")
    return tuple(_message(method, one) for one in values)


def _message(method: str, value: Any) -> Message:
    if isinstance(value, str):
        return {"role": "user", "content": value}
    if not isinstance(value, Mapping) or not all(isinstance(value.get(key), str) for key in ("role", "content")):
        raise TypeError(f"{method} returned the message {_short(value)}, expected {_MESSAGES}")
    if value["role"] not in _ROLES:
        raise ValueError(
            f"{method} returned a message of role {value['role']!r}, expected {', '.join(_ROLES)}: "
            "the assistant's are the model's own"
        )
    return {"role": value["role"], "content": value["content"]}


def as_score(value: Any) -> Score | None:
    """What `score` returned, as a Score; None: the environment leaves it to the task's verifier."""
    if value is None or isinstance(value, Score):
        return value
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise TypeError(f"score returned {_short(value)}, expected a finite number, a rewards.Score, or None")
    number = float(value)
    return Score(number, None, "correct" if number >= SUCCESS else "wrong", f"the environment's score is {number:g}")


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:80] + '...'}"
