"""The weighted sum of a recipe's rewards: value = sum of weight * part, over the parts that apply.

Weights are not renormalised where a part does not apply. A verdict that failed (timeout, error) makes the whole
value None: a failure of the verifier says nothing about the policy and is no 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.graded import Completion
from rewards.registry import BUILT_IN, RewardSettings
from rewards.types import FAILURES, Reward, RewardError, Score
from rewards.user.function import Returned, RewardFunction
from rewards.user.isolated import IsolatedReward


class RewardSum:
    """Score completions with several rewards.

    Example: RewardSum([RewardSettings(name="accuracy"), RewardSettings(name="format", weight=0.2)])

    Args:
        isolate: run each reward that is not built in in a process of its own (user/isolated.py), as training does.
        functions: by the name of their settings, those that are there already: they are called in this process.

    Raises RewardError if a reward cannot be loaded, two have one name, or one lacks an argument of its settings.
    """

    def __init__(
        self,
        settings: Sequence[RewardSettings],
        base_dir: Path | None = None,
        isolate: bool = False,
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ):
        names = [one.known_as for one in settings]
        if not names or len(set(names)) < len(names):
            fix = "give others an alias" if names else "give one"
            raise RewardError(f"rewards: got {names}, expected at least one, each with a name of its own; {fix}")
        self.weights = {name: one.weight for name, one in zip(names, settings, strict=True)}
        self._settings = dict(zip(names, settings, strict=True))
        self._functions: dict[str, RewardFunction | IsolatedReward] = {}
        for name, one in zip(names, settings, strict=True):
            if functions and one.name in functions:
                self._functions[name] = RewardFunction(one, base_dir, functions[one.name])
                continue
            kind = IsolatedReward if isolate and one.name not in BUILT_IN else RewardFunction
            self._functions[name] = kind(one, base_dir)

    def score(
        self,
        completions: Sequence[Completion],
        columns: Mapping[str, Any],
        trainer_state: Any = None,
        log_metric: Callable[[str, float], Any] | None = None,
        task: str = "",
    ) -> list[Reward]:
        """One Reward for each completion, in order.

        completions: texts (what the template opened included), or message lists for a chat.
        columns: the dataset's columns, and `prompts`, `completion_ids`, each as long as completions.
        trainer_state: for rewards that ask for it. log_metric: is given what rewards log with TRL's `log_metric`.
        task: of a run with several, whose completions these are; a reward of other tasks does not apply.
        Raises RewardError if a column is missing or of another length, or a reward broke its contract.
        """
        for name, column in columns.items():
            if len(column) != len(completions):
                raise RewardError(f"column {name!r}: got {len(column)} values, expected {len(completions)}")
        absent = Returned([None] * len(completions))
        returned = {
            name: call(completions, columns, trainer_state) if self._settings[name].scores(task) else absent
            for name, call in self._functions.items()
        }
        if log_metric:
            for name, value in (metric for one in returned.values() for metric in one.metrics):
                log_metric(name, value)
        return [self._sum(returned, i) for i in range(len(completions))]

    def forget(self) -> None:
        """Isolated rewards begin anew, without what they remember. Raises RewardError as the first start."""
        for function in self._functions.values():
            if isinstance(function, IsolatedReward):
                function.restart()

    def close(self) -> None:
        """End the processes of isolated rewards, also under a call that waits for them."""
        for function in self._functions.values():
            if isinstance(function, IsolatedReward):
                function.close()

    def _sum(self, returned: Mapping[str, Returned], i: int) -> Reward:
        results = {name: one.values[i] for name, one in returned.items()}
        parts = {name: result.value if isinstance(result, Score) else result for name, result in results.items()}
        scores = [result for result in results.values() if isinstance(result, Score)]
        failed = [score for score in scores if score.outcome in FAILURES]
        weighted = [self.weights[name] * value for name, value in parts.items() if value is not None]
        extra = {f"{name}/{key}": one.extra[key][i] for name, one in returned.items() for key in one.extra}
        return Reward(
            sum(weighted) if weighted and not failed else None, parts, next(iter(failed + scores), None), extra
        )
