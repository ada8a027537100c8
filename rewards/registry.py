"""Find a reward function by its name, entry point, file or module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rewards.builtin.accuracy import accuracy
from rewards.builtin.choice import multiple_choice
from rewards.builtin.code import code
from rewards.builtin.countdown import countdown
from rewards.builtin.environment import environment
from rewards.builtin.format import format, format_graded
from rewards.builtin.judge import judge
from rewards.builtin.language import language_consistency
from rewards.builtin.length import cosine_length, soft_overlong
from rewards.builtin.number import number
from rewards.builtin.reasoning_gym import reasoning_gym
from rewards.builtin.repetition import repetition_penalty
from rewards.builtin.reward_model import reward_model
from rewards.chat import CompletionForm
from rewards.graded import Graded
from rewards.nearest import did_you_mean
from rewards.types import RewardError, Score
from rewards.user.loading import Purpose, load_function, user_code

REWARD = Purpose("reward", RewardError)
ENTRY_POINTS = "zero.rewards"  # the group in which a package names its rewards
BUILT_IN: Mapping[str, Callable[..., Any]] = {
    "accuracy": accuracy,
    "code": code,
    "cosine_length": cosine_length,
    "countdown": countdown,
    "environment": environment,
    "format": format,
    "format_graded": format_graded,
    "judge": judge,
    "language_consistency": language_consistency,
    "multiple_choice": multiple_choice,
    "number": number,
    "reasoning_gym": reasoning_gym,
    "repetition_penalty": repetition_penalty,
    "reward_model": reward_model,
    "soft_overlong": soft_overlong,
}
_GRADERS: Mapping[str, Graded] = {
    "math": accuracy,
    "code": code,
    "countdown": countdown,
    "multiple_choice": multiple_choice,
    "number": number,
    "reasoning_gym": reasoning_gym,
}


class RewardSettings(BaseModel):
    """One reward of a recipe. Example: {name: my_rewards.py:brevity, weight: 0.1, args: {limit: 200}}"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # a built-in's name, an installed entry point's, path/to/file.py:function, or package.module:function
    weight: float = Field(default=1.0, allow_inf_nan=False)
    args: dict[str, Any] = Field(default_factory=dict)  # keyword arguments, beside the columns
    columns: dict[str, str] = Field(default_factory=dict)  # argument: column it is to take, such as solution: answer
    completions: CompletionForm | None = None  # None: as its annotation says, else as the template has them
    timeout: float = Field(default=120.0, gt=0)  # seconds for one call in training, of a reward that is not built in
    alias: str | None = None  # what its values are recorded as; needed where two rewards have one name
    tasks: list[str] | None = Field(default=None, min_length=1)  # of several, those that it scores; None: all

    @model_validator(mode="before")
    @classmethod
    def _named(cls, settings: Any) -> Any:
        """A name alone is a reward with its defaults, as in rewards: [accuracy]."""
        return {"name": settings} if isinstance(settings, str) else settings

    @property
    def known_as(self) -> str:
        return self.alias or self.name.rpartition(":")[2]

    def scores(self, task: str) -> bool:
        """Whether it scores completions of this task."""
        return self.tasks is None or task in self.tasks


def load_reward(spec: str, base_dir: Path | None = None) -> Callable[..., Any]:
    """The function that `spec` names. Paths are relative to `base_dir` (default: the current folder).

    Raises RewardError, with the nearest valid name, if there is none.
    """
    if ":" in spec:
        return load_function(spec, REWARD, base_dir)
    return BUILT_IN[spec] if spec in BUILT_IN else _load_installed(spec)


def installed_rewards() -> dict[str, list[EntryPoint]]:
    """The entry points of the group `zero.rewards`, by name; more than one where packages disagree.

    One with a built-in's name is listed but never used: no package that is installed along changes what a recipe means.
    """
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value)):
        if point.value not in [other.value for other in found.setdefault(point.name, [])]:
            found[point.name].append(point)
    return found


def reads_answers(name: str) -> bool:
    """Whether a built-in reward reads a final answer, so that its `read` must be the evaluation's. False if unknown."""
    return name in BUILT_IN and "read" in inspect.signature(BUILT_IN[name]).parameters


def grader(name: str, **args: Any) -> Callable[[str, Mapping[str, Any]], Score]:
    """What an evaluation grades with: (completion, row of columns) -> Score.

    Names: math, code, countdown, multiple_choice, number, reasoning_gym. `args` as for the reward of that kind, such as
    read=("boxed",). Raises RewardError on an unknown name.
    """
    if name not in _GRADERS:
        raise RewardError(f"no grader {name!r}{did_you_mean(name, _GRADERS)}; there are {', '.join(_GRADERS)}")
    reward = _GRADERS[name]

    def grade(completion: str, row: Mapping[str, Any]) -> Score:
        return reward.scores([completion], **{column: [value] for column, value in row.items()}, **args)[0]

    return grade


def _load_installed(name: str) -> Callable[..., Any]:
    installed = installed_rewards()
    points = installed.get(name, [])
    if not points:
        names = [*BUILT_IN, *(other for other in installed if other not in BUILT_IN)]
        raise RewardError(
            f"reward {name!r}: no built-in and no installed entry point has this name{did_you_mean(name, names)}. "
            f"Give one of {', '.join(names)}, path/to/file.py:function or package.module:function"
        )
    if len(points) > 1:
        values = " and ".join(point.value for point in points)
        raise RewardError(f"reward {name!r}: several packages install it, {values}: give one of these in its place")
    with user_code(name, None, "being imported", REWARD):
        function = points[0].load()
    if not callable(function):
        raise RewardError(f"reward {name!r}: the entry point {points[0].value} is no function, got {function!r}")
    return function
