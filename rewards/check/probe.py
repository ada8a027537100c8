"""Measure a reward in a process of its own: one completion at a time, and all at once in ways that must not matter.

Always ends: a call is killed at its timeout, a second call that is lost ends the measuring, and so does `seconds`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.check.corpus import Item
from rewards.check.findings import Finding, Trial, finding
from rewards.registry import RewardSettings
from rewards.types import RewardError, TrainerState
from rewards.user.function import Returned
from rewards.user.isolated import IsolatedReward

LOST = 2  # calls that hang or kill the process, after which no more is tried
SECONDS_TOGETHER = 2.0  # that the completions of a batch may need
_STATE = TrainerState(global_step=0, max_steps=100, epoch=0.0)


@dataclass(frozen=True, slots=True)
class Call:
    """What came of one call. Example: Call([1.0, None]), or Call(problem="hangs", message="took more than 20 s")"""

    values: Sequence[float | None] = ()
    problem: str | None = None
    message: str = ""


class Probe:
    """A reward in its own process. `close` it. Raises RewardError if the reward cannot be loaded."""

    def __init__(self, settings: RewardSettings, base_dir: Path | None = None):
        self._start = lambda: IsolatedReward(settings, base_dir, quiet=True)
        self._reward = self._start()
        self._answered = self._warm = False
        self._lost = 0

    @property
    def stopped(self) -> bool:
        """Whether calls were lost so often, or from the first on, that no more is tried."""
        return self._lost >= (LOST if self._answered else 1)

    def alone(self, items: Iterable[Item], seconds: float) -> list[Trial]:
        """Each completion in a call of its own; fewer of them if the calls that are answered take over `seconds`.

        Raises RewardError if the function needs a column that the items do not have.
        """
        trials: list[Trial] = []
        for item in items:
            if self.stopped or seconds < 0:
                break
            start = time.monotonic()
            trials.append(self._try(item))
            seconds -= time.monotonic() - start if self._warm else 0
        return trials

    def together(self, trials: Sequence[Trial]) -> list[Finding]:
        """Whether values change when the same completions are scored in one call: again, elsewhere, in reverse."""
        batch = _batch(trials)
        items = [trial.item for trial in batch]
        if len(batch) < 2 or self.stopped:
            return []
        values = []
        for order, restart in ((1, False), (1, False), (-1, False), (1, True)):
            if restart:
                self._reward.close()
                self._reward = self._start()
            call = self._call(items[::order])
            if call.problem:
                return [Finding(call.problem, f"in a batch of {len(items)}: {call.message}", len(items))]
            values.append(call.values[::order])
        return _changes(batch, *values)

    def close(self) -> None:
        self._reward.close()

    def _try(self, item: Item) -> Trial:
        warm, start = self._warm, time.perf_counter()
        call = self._call([item])
        seconds = time.perf_counter() - start if warm and self._warm else None
        return Trial(item, None if call.problem else call.values[0], seconds, call.problem, call.message)

    def _call(self, items: Sequence[Item]) -> Call:
        columns = {name: [item.columns[name] for item in items] for name in items[0].columns}
        try:
            reply = self._reward.ask([item.completion for item in items], columns, _STATE)
        except RewardError as error:
            if error.problem is None:
                raise
            self._answered = self._warm = True
            return Call(problem=error.problem, message=str(error))
        self._answered |= isinstance(reply, Returned)
        self._warm = isinstance(reply, Returned)
        if isinstance(reply, Returned):
            return Call([_value(value) for value in reply.values])
        self._lost += 1
        return Call(problem="hangs" if reply.outcome == "timeout" else "dies", message=reply.reason)


def _value(value: Any) -> float | None:
    return value.value if hasattr(value, "outcome") else value  # a Score, or a number


def _batch(trials: Iterable[Trial]) -> list[Trial]:
    """Those that have a value, as many as can be scored in SECONDS_TOGETHER."""
    batch, total = [], 0.0
    for trial in trials:
        if trial.problem is None and trial.seconds is not None:
            total += trial.seconds
            if total > SECONDS_TOGETHER:
                break
            batch.append(trial)
    return batch


Values = Sequence[float | None]


def _changes(
    batch: Sequence[Trial], first: Values, again: Values, backwards: Values, elsewhere: Values
) -> list[Finding]:
    """Noise if the same call gave other values, else the influence of neighbours."""
    alone = [trial.value for trial in batch]
    for name, one, other, when in (
        ("not-deterministic", first, again, "when the same batch is scored again"),
        ("not-deterministic", first, elsewhere, "when the same batch is scored in another process"),
        ("batch-dependent", first, backwards, "when the batch is in reverse order"),
        ("batch-dependent", first, alone, "when each completion is scored alone"),
    ):
        if changed := [trial for trial, a, b in zip(batch, one, other, strict=True) if not _same(a, b)]:
            return [finding(name, f"{len(changed)} of {len(batch)} values change {when}", changed)]
    return []


def _same(one: float | None, other: float | None) -> bool:
    """Up to the rounding of a model's batches."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
