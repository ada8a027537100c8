"""Call one reward function as TRL does: by name, with the columns that it takes.

    batch     f(completions, answer, **columns) -> [1.0, 0.0, None]     a list, an array or a tensor
    single    f(completion, answer) -> 1.0                              its first parameter is `completion`
    factory   f(max_len) -> a batch or single reward                    takes nothing that the model wrote

Each may be `async def`; the calls of a single one are awaited together.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rewards.chat import declared_form, in_form
from rewards.graded import Completion, Graded, text_of
from rewards.registry import BUILT_IN, RewardSettings, load_reward
from rewards.types import FAILURES, RewardError, Score
from rewards.user.loading import Purpose, user_code

_WRITTEN = ("completions", "completion", "completion_ids")  # a reward takes one of these, or any
_CALLED = Purpose("reward", partial(RewardError, problem="raises"))
_FIX = "return a list with one number, or None for 'does not apply', for each completion"
_FIX_ONE = "return a number, or None for 'does not apply'"


@dataclass(frozen=True, slots=True)
class Returned:
    """What a reward function gave for some completions.

    Example: Returned(values=[1.0, None], extra={"gold_parsed": ["42", "7"]}, metrics=[("parsed", 0.5)])
    """

    values: Sequence[float | Score | None]  # one a completion, in order
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # column -> one a completion, by log_extra
    metrics: Sequence[tuple[str, float]] = ()  # by log_metric


class RewardFunction:
    """A reward function with its arguments, ready to be called.

    Raises RewardError if it cannot be loaded, or has no such argument.
    """

    def __init__(
        self, settings: RewardSettings, base_dir: Path | None = None, function: Callable[..., Any] | None = None
    ):
        """function: that the settings name, where it is there already."""
        self.spec, self._args, self._renamed = settings.name, settings.args, settings.columns
        self._function = function or load_reward(settings.name, base_dir)
        self._read_signature()
        if not self._takes_any and not self._takes(*_WRITTEN):  # it makes the reward, as TRL's get_... do
            doing = "making the reward from its args, for it takes no `completions`"
            with user_code(self.spec, self._function, doing, _CALLED):
                self._function, self._args = self._function(**self._args), {}
            self._read_signature()
        unknown = set(self._args) - set(self._named)
        if unknown and (not self._takes_any or settings.name in BUILT_IN):
            raise RewardError(f"reward {self.spec!r}: no argument {', '.join(sorted(unknown))}; has {self._named}")
        self._single = self._named[:1] == ["completion"]
        written = self._parameters.get("completion" if self._single else "completions")
        self._form = settings.completions or declared_form(written)

    def __call__(
        self, completions: Sequence[Completion], columns: Mapping[str, Any], trainer_state: Any = None
    ) -> Returned:
        """Score completions. Raises RewardError if a column is missing or the function broke its contract."""
        log = _Log()
        rows = {**self._with_renamed(columns), "completions": in_form(completions, self._form, "assistant")}
        if "prompts" in columns:
            rows["prompts"] = in_form(columns["prompts"], self._form, "user")
        fixed = {"trainer_state": trainer_state, "log_metric": log.metric}
        calls = self._calls_of_each(rows, fixed) if self._single else [{**fixed, "log_extra": log.extra, **rows}]
        chosen = [self._chosen(offered) for offered in calls]
        with user_code(self.spec, self._function, self._doing(completions), _CALLED):
            if isinstance(self._function, Graded):
                return Returned(self._function.scores(**chosen[0]))
            results = _awaited([self._function(**arguments) for arguments in chosen])
        values = self._numbers(results if self._single else results[0], completions)
        return Returned(values, log.columns(self.spec, len(completions)), log.metrics)

    def _calls_of_each(self, rows: Mapping[str, Any], fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What is offered for each completion: its own text and the row's own values."""
        singular = {"completions": "completion", "prompts": "prompt"}
        columns = {singular.get(name, name): values for name, values in rows.items()}
        return [{**fixed, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)]

    def _with_renamed(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := set(self._renamed.values()) - set(columns):
            has = sorted(columns)
            raise RewardError(
                f"reward {self.spec!r}: columns: no column {', '.join(sorted(unknown))}; the data has {has}"
            )
        return {**columns, **{name: columns[source] for name, source in self._renamed.items()}}

    def _chosen(self, offered: Mapping[str, Any]) -> dict[str, Any]:
        """Of what is offered, with the settings' arguments on top, what the function takes."""
        offered = {**offered, **self._args}
        for name in self._named:
            if name not in offered and self._parameters[name].default is inspect.Parameter.empty:
                has = sorted(set(offered) - {"trainer_state", "log_extra", "log_metric", *_WRITTEN[:2], *self._args})
                raise RewardError(
                    f"reward {self.spec!r} needs the column {name!r}; the data has {has} "
                    f"(columns: {name}=NAME gives it another)"
                )
        return dict(offered) if self._takes_any else {name: offered[name] for name in self._named if name in offered}

    def _takes(self, *names: str) -> bool:
        return any(name in self._named for name in names)

    def _read_signature(self) -> None:
        if not callable(self._function):
            raise RewardError(f"reward {self.spec!r}: got {self._function!r}, expected a function")
        parameters = inspect.signature(self._function).parameters
        self._takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self._parameters = {name: one for name, one in parameters.items() if one.kind in by_name}
        self._named = list(self._parameters)

    def _doing(self, completions: Sequence[Completion]) -> str:
        """For errors: the form is what goes wrong when a chat's reward meets a base model, or the reverse."""
        texts = self._form == "text" or (self._form is None and isinstance(next(iter(completions), ""), str))
        given, other, others = ("texts", "messages", "message lists") if texts else ("message lists", "text", "texts")
        return f"scoring {len(completions)} completions as {given} (completions: {other} makes them {others})"

    def _numbers(self, values: Any, completions: Sequence[Completion]) -> list[float | Score | None]:
        values = _plain(values)
        if not isinstance(values, list | tuple):
            got = f"{type(values).__name__} {str(values)[:60]!r}"
            raise RewardError(f"reward {self.spec!r} returned {got}: {_FIX}", "wrong-type")
        if len(values) != len(completions):
            got = f"got {len(values)} values, expected {len(completions)}"
            raise RewardError(f"reward {self.spec!r}: {got}: {_FIX}", "wrong-length")
        return [self._number(_plain(value), text) for value, text in zip(values, completions, strict=True)]

    def _number(self, value: Any, completion: Completion) -> float | Score | None:
        """A Score only of what could not be scored: it is a failure, and no 0."""
        if isinstance(value, Score) and value.outcome in FAILURES:
            return value
        number = isinstance(value, numbers.Real)
        if value is None or (number and math.isfinite(value)):
            return None if value is None else float(value)
        problem = "is not finite" if number else f"is of type {type(value).__name__}"
        fix = _FIX_ONE if self._single else _FIX
        raise RewardError(
            f"reward {self.spec!r} gave {value!r}, which {problem}, to {text_of(completion)[:80]!r}: {fix}",
            "not-finite" if number else "wrong-type",
        )


class _Log:
    """Takes what a reward logs, as TRL's trainer does."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float]] = []
        self._columns: defaultdict[str, list[Any]] = defaultdict(list)

    def extra(self, column: str, values: Sequence[Any]) -> None:
        self._columns[column].extend(values)

    def metric(self, name: str, value: float) -> None:
        self.metrics.append((name, float(value)))

    def columns(self, spec: str, n: int) -> dict[str, list[Any]]:
        for column, values in self._columns.items():
            if len(values) != n:
                raise RewardError(f"reward {spec!r}: log_extra({column!r}) got {len(values)} values, expected {n}")
        return {column: [_plain(value) for value in values] for column, values in self._columns.items()}


def _plain(value: Any) -> Any:
    """Numbers and lists out of numpy's and torch's, which are not imported here."""
    return value.tolist() if hasattr(value, "tolist") else value


def _awaited(results: list[Any]) -> list[Any]:
    """The results, those of `async def` functions awaited together; the caller may be inside an event loop."""
    if not any(inspect.isawaitable(result) for result in results):
        return results
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_gather(results))
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _gather(results)).result()


async def _gather(results: list[Any]) -> list[Any]:
    async def wait(result: Any) -> Any:
        return await result if inspect.isawaitable(result) else result

    return await asyncio.gather(*map(wait, results))
