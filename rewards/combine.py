"""The weighted sum of a recipe's rewards: value = sum of weight * part, over the parts that apply.

Weights are not renormalised where a part does not apply. A verdict that failed (timeout, error) makes the whole
value None: a failure of the verifier says nothing about the policy and is no 0.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rewards.graded import Completion, Graded, text_of
from rewards.registry import BUILT_IN, RewardSettings, load_reward, user_code
from rewards.types import FAILURES, Reward, RewardError, Score

_FIX = "return a list with one number, or None for 'does not apply', for each completion"


class RewardSum:
    """Score completions with several rewards.

    Example: RewardSum([RewardSettings(name="accuracy"), RewardSettings(name="format", weight=0.2)])

    Raises RewardError if a reward cannot be loaded, two have one name, or one lacks an argument of its settings.
    """

    def __init__(self, settings: Sequence[RewardSettings], base_dir: Path | None = None):
        self.parts = [_Part(one, base_dir) for one in settings]
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise RewardError(f"rewards: got {names}, expected at least one, each with a name of its own")

    def score(self, completions: Sequence[Completion], columns: Mapping[str, Any]) -> list[Reward]:
        """One Reward for each completion, in order.

        completions: texts (what the template opened included), or message lists for a chat.
        columns: the dataset's columns, and `prompts`, `completion_ids`, each as long as completions; `trainer_state`.
        Raises RewardError if a column is missing or of another length, or a reward broke its contract.
        """
        for name, column in columns.items():
            if name != "trainer_state" and len(column) != len(completions):
                raise RewardError(f"column {name!r}: got {len(column)} values, expected {len(completions)}")
        results = {part.name: part.values(completions, columns) for part in self.parts}
        return [self._sum({name: result[i] for name, result in results.items()}) for i in range(len(completions))]

    def _sum(self, results: Mapping[str, float | Score | None]) -> Reward:
        scores = [result for result in results.values() if isinstance(result, Score)]
        parts = {name: result.value if isinstance(result, Score) else result for name, result in results.items()}
        weighted = [part.weight * value for part in self.parts if (value := parts[part.name]) is not None]
        failed = any(score.outcome in FAILURES for score in scores)
        return Reward(sum(weighted) if weighted and not failed else None, parts, scores[0] if scores else None)


class _Part:
    """One reward function with its weight, its arguments and the columns that it takes."""

    def __init__(self, settings: RewardSettings, base_dir: Path | None):
        self.spec, self.weight, self._args = settings.name, settings.weight, settings.args
        self.name = settings.name.rpartition(":")[2]
        self._function = load_reward(settings.name, base_dir)
        self._read_signature()
        if "completions" not in self._named and not self._takes_any:  # it makes the reward, as TRL's get_... do
            with user_code(self.spec, self._function, "making the reward from its args, for it takes no `completions`"):
                self._function, self._args = self._function(**self._args), {}
            self._read_signature()
        unknown = set(self._args) - set(self._named)
        if unknown and (not self._takes_any or settings.name in BUILT_IN):
            raise RewardError(f"reward {self.spec!r}: no argument {', '.join(sorted(unknown))}; has {self._named}")

    def values(self, completions: Sequence[Completion], columns: Mapping[str, Any]) -> Sequence[float | Score | None]:
        arguments = {"trainer_state": None, **columns, **self._args, "completions": list(completions)}
        if missing := [name for name in self._required if name not in arguments]:
            raise RewardError(f"reward {self.spec!r} needs the column {missing[0]!r}; the data has {sorted(columns)}")
        if not self._takes_any:
            arguments = {name: arguments[name] for name in self._named if name in arguments}
        elif "trainer_state" not in columns and "trainer_state" not in self._named:
            del arguments["trainer_state"]
        with user_code(self.spec, self._function, f"scoring {len(completions)} completions"):
            if isinstance(self._function, Graded):
                return self._function.scores(**arguments)
            values = _finished(self._function(**arguments))
        return self._checked(values, completions)

    def _read_signature(self) -> None:
        if not callable(self._function):
            raise RewardError(f"reward {self.spec!r}: got {self._function!r}, expected a function")
        parameters = inspect.signature(self._function).parameters.values()
        self._takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
        by_name = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        self._named = [one.name for one in by_name]
        self._required = [one.name for one in by_name if one.default is one.empty]

    def _checked(self, values: Any, completions: Sequence[Completion]) -> list[float | None]:
        if not isinstance(values, list | tuple):
            raise RewardError(f"reward {self.spec!r} returned {type(values).__name__} {str(values)[:60]!r}: {_FIX}")
        if len(values) != len(completions):
            raise RewardError(f"reward {self.spec!r}: got {len(values)} values, expected {len(completions)}: {_FIX}")
        for value, completion in zip(values, completions, strict=True):
            number = isinstance(value, numbers.Real)
            if value is not None and not (number and math.isfinite(value)):
                problem = "is not finite" if number else f"is of type {type(value).__name__}"
                shown = text_of(completion)[:80]
                raise RewardError(f"reward {self.spec!r} gave {value!r}, which {problem}, to {shown!r}: {_FIX}")
        return [None if value is None else float(value) for value in values]


def _finished(result: Any) -> Any:
    """The result of an `async def` reward, from a thread of its own: the caller may be inside an event loop."""
    if not inspect.iscoroutine(result):
        return result
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, result).result()
