"""Which problem comes next.

    shuffled    epoch after epoch, each in a random order of its own
    adaptive    problems whose pass rate is near the target (0.5: the most contrast within a group) come more often:
                MoPPS, "Can Prompt Difficulty be Online Predicted ..." (arXiv 2507.04632)

    levels      problems of each subject at the level of difficulty where the policy stands, moved by its pass rates

Each problem x has a Beta belief about its pass rate, which starts at Beta(1, 1). A group with s passes and f failures
turns it into

    a_x <- decay a_x + (1 - decay) 1 + s        b_x <- decay b_x + (1 - decay) 1 + f

because what was seen of an older policy counts less. Position k of the run looks at the next `candidates` problems of
the shuffled epochs, draws p_x ~ Beta(a_x, b_x) for each (Thompson sampling: what is not known well is tried again),
and takes the one with the smallest |p_x - target|. No completion is sampled only to find out how hard a problem is.

Departure from the paper, which takes the best B of one random set for a batch of B: each position has a set of its
own, all disjoint within an epoch. So a problem is a candidate once every n / candidates positions, and a refill in the
middle of a step needs no other rule. A reward that is no verdict counts as its value, cut to 0..1.

With `levels`, each subject (a column; rows without one are of one subject) stands at one level (a column, too), the
lowest at first. A position's subject is drawn by the number of its problems, and the level's problems come in shuffled
epochs. The pass rates of the last `window` groups at that level decide: a mean of `raise_at` or more moves the subject
up, one of `lower_at` or less moves it down, and the window begins anew. reasoning-gym (arXiv 2505.24760) moves its
curricula in this way, and its levels are these.

Degenerate cases: one level is `shuffled` within each subject, one candidate is `shuffled`; without anything recorded,
the choice of `adaptive` is random.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from grpo.config import CurriculumSettings
from rewards import Reward

PRIOR = 1.0  # both parameters of a belief that nothing is known about: uniform


class PromptOrder(Protocol):
    """Which of n problems is asked at each position of a run.

    Deterministic in the seed, the position and what was recorded before the call: to repeat on resume, call `record`
    in the order of the steps (not of arrival), and `at` for a step's positions once, at the same point between them.
    """

    def at(self, position: int) -> int:
        """The index, 0..n-1, of the problem at `position`, which counts from 0 over the whole run."""
        ...

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        """Take note of what a group of problem `index` was rewarded with."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that was recorded, as JSON takes it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]:
        """What a step's metrics say about it."""
        ...


def prompt_order(
    settings: CurriculumSettings, problems: Sequence[Mapping[str, Any]], per_step: int, seed: int | str
) -> PromptOrder:
    """The order that `train.curriculum` asks for, of problems given as their columns, `per_step` of which make a step.

    A small set gets fewer candidates, so that those of one step are different problems.
    Raises ValueError if the order needs columns that the problems lack.
    """
    n = len(problems)
    if settings.order == "levels":
        return LevelsOrder(problems, seed, settings.window, settings.raise_at, settings.lower_at)
    if settings.order == "shuffled":
        return ShuffledEpochs(n, seed)
    candidates = max(1, min(settings.candidates, n // per_step))
    return AdaptiveOrder(n, seed, candidates, settings.target, settings.decay)


class ShuffledEpochs:
    """A `PromptOrder` that has nothing to remember."""

    def __init__(self, n: int, seed: int | str) -> None:
        self._n, self._seed = n, seed
        self._epoch, self._order = -1, list[int]()

    def at(self, position: int) -> int:
        epoch, place = divmod(position, self._n)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._n))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
        return self._order[place]

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def metrics(self) -> dict[str, float]:
        return {}


class AdaptiveOrder:
    """A `PromptOrder` that prefers problems with a pass rate near `target`, see above."""

    def __init__(self, n: int, seed: int | str, candidates: int = 16, target: float = 0.5, decay: float = 0.5) -> None:
        self._epochs, self._seed = ShuffledEpochs(n, seed), seed
        self._candidates, self._target, self._decay = candidates, target, decay
        self._beliefs: dict[int, tuple[float, float]] = {}  # of the problems that were seen

    def at(self, position: int) -> int:
        first = position * self._candidates
        indices = [self._epochs.at(k) for k in range(first, first + self._candidates)]
        stream = random.Random(f"{self._seed}/adaptive/{position}")
        distances = [abs(stream.betavariate(*self._belief(index)) - self._target) for index in indices]
        return indices[distances.index(min(distances))]

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        """Completions that could not be scored say nothing; a group of none but these leaves the belief as it is."""
        passes = _passes(rewards)
        if passes:
            passed, kept = sum(passes), (1 - self._decay) * PRIOR
            a, b = self._belief(index)
            self._beliefs[index] = (self._decay * a + kept + passed, self._decay * b + kept + len(passes) - passed)

    def state_dict(self) -> dict[str, Any]:
        return {"beliefs": [[index, *belief] for index, belief in self._beliefs.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._beliefs = {index: (a, b) for index, a, b in state["beliefs"]}

    def metrics(self) -> dict[str, float]:
        return {}

    def _belief(self, index: int) -> tuple[float, float]:
        return self._beliefs.get(index, (PRIOR, PRIOR))


@dataclass(slots=True)
class _Subject:
    """Where one subject stands."""

    levels: list[int]  # that it has problems of, the easiest first
    place: int = 0  # in `levels`
    window: list[float] = field(default_factory=list)  # pass rates of the latest groups at this level
    drawn: dict[str, int] = field(default_factory=dict)  # level: how many positions have had it

    @property
    def level(self) -> int:
        return self.levels[self.place]


class LevelsOrder:
    """A `PromptOrder` that keeps each subject at the level which its pass rates ask for, see above."""

    def __init__(
        self,
        problems: Sequence[Mapping[str, Any]],
        seed: int | str,
        window: int = 16,
        raise_at: float = 0.75,
        lower_at: float = 0.1,
    ) -> None:
        """Raises ValueError if a problem has no level."""
        self._seed, self._length, self._raise_at, self._lower_at = seed, window, raise_at, lower_at
        self._of = [(str(columns.get("subject") or ""), _level(columns)) for columns in problems]
        pools: dict[tuple[str, int], list[int]] = {}
        for index, of in enumerate(self._of):
            pools.setdefault(of, []).append(index)
        self._pools = {of: (pool, ShuffledEpochs(len(pool), f"{seed}/{of[0]}/{of[1]}")) for of, pool in pools.items()}
        self._sizes = Counter(subject for subject, _ in self._of)
        self._subjects = {
            name: _Subject(sorted(level for subject, level in pools if subject == name)) for name in self._sizes
        }

    def at(self, position: int) -> int:
        stream = random.Random(f"{self._seed}/levels/{position}")
        name = stream.choices(list(self._sizes), list(self._sizes.values()))[0]
        subject = self._subjects[name]
        pool, epochs = self._pools[name, subject.level]
        drawn = subject.drawn.get(str(subject.level), 0)
        subject.drawn[str(subject.level)] = drawn + 1
        return pool[epochs.at(drawn)]

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        """A group of a level that its subject has left, or that could not be scored, says nothing."""
        name, level = self._of[index]
        subject, passes = self._subjects[name], _passes(rewards)
        if not passes or level != subject.level:
            return
        subject.window = [*subject.window, sum(passes) / len(passes)][-self._length :]
        if len(subject.window) < self._length:
            return
        rate = sum(subject.window) / self._length
        move = 1 if rate >= self._raise_at else -1 if rate <= self._lower_at else 0
        if move and 0 <= subject.place + move < len(subject.levels):
            subject.place += move
            subject.window = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "subjects": {
                name: {"level": one.level, "window": one.window, "drawn": dict(one.drawn)}
                for name, one in self._subjects.items()
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, one in state["subjects"].items():
            subject = self._subjects[name]
            subject.place = subject.levels.index(one["level"])
            subject.window, subject.drawn = list(one["window"]), dict(one["drawn"])

    def metrics(self) -> dict[str, float]:
        """The level at which each subject stands."""
        return {f"level/{name}" if name else "level": float(one.level) for name, one in self._subjects.items()}


def _level(columns: Mapping[str, Any]) -> int:
    """Of 3, "3" and "Level 3"."""
    digits = re.search(r"\d+", str(columns.get("level")))
    if digits is None:
        raise ValueError(
            f"order: levels needs a column level with a number in every row, got {columns.get('level')!r}; generated "
            "tasks have one with task.config.levels: [0, 1, 2]"
        )
    return int(digits[0])


def _passes(rewards: Sequence[Reward]) -> list[float]:
    """How far each completion passed, 0..1, of those that were scored."""
    values = [reward.value if reward.score is None else reward.score.value for reward in rewards]
    return [min(max(value, 0.0), 1.0) for value in values if value is not None]
