"""The queue of groups: no group too old, none lost, none trained twice, the engine never without work it may have."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from grpo.config import RolloutSettings
from grpo.rollout.engine import RolloutError
from grpo.rollout.scheduler import Scheduler, ScoredGroup, StepRollouts, fits
from grpo.types import Group, RolloutRequest
from rewards import Reward
from tests.virtual_time import SleepingEngine, numbered_prompts, run


class InOrder:
    """A `PromptOrder` in which a prompt's number is its position; keeps what was recorded."""

    def __init__(self) -> None:
        self.recorded: list[int] = []

    def at(self, position: int) -> int:
        return position

    def record(self, index: int, rewards: Sequence[Reward]) -> None:
        self.recorded.append(index)

    def state_dict(self) -> dict[str, Any]:
        return {"recorded": self.recorded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.recorded = list(state["recorded"])


def score(_: int, group: Group) -> ScoredGroup:
    return ScoredGroup(group, tuple(Reward(1.0) for _ in group.completions))


def make(
    engine: SleepingEngine,
    last_step: int,
    contrast: Callable[[ScoredGroup], bool] = lambda _: True,
    score: Callable[[int, Group], ScoredGroup] = score,
    **settings: int,
) -> Scheduler:
    rollout = RolloutSettings(**{"prompts_per_step": 4, "group_size": 2, **settings})
    return Scheduler(engine, numbered_prompts(1000), InOrder(), rollout, score, 0, last_step, contrast)


def numbers(groups: Sequence[ScoredGroup]) -> list[int]:
    return [int(scored.group.prompt.id) for scored in groups]


async def drive(
    scheduler: Scheduler, engine: SleepingEngine, steps: Sequence[int], seconds: Callable[[int], float]
) -> list[StepRollouts]:
    """What the trainer does: collect, train for `seconds(step)`, serve the new weights, ask for more."""
    taken = []
    for step in steps:
        taken.append(await scheduler.collect(step))
        await asyncio.sleep(seconds(step))
        engine.version = step
        scheduler.ask()
    return taken


def heavy_tailed(seed: int) -> Callable[[int], float]:
    """Most take about a second, some a hundred."""
    return lambda number: random.Random(f"{seed}/{number}").paretovariate(1.0)


# -- the bound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("seed", range(12))
def test_no_group_is_older_than_the_bound_none_is_lost_and_none_is_trained_twice(staleness, seed):
    draw = random.Random(f"{staleness}/{seed}")
    per_step, last = draw.randint(1, 5), 30

    async def whole_run() -> list[StepRollouts]:
        engine = SleepingEngine(heavy_tailed(seed), slots=draw.choice([1, 3, 10**6]))
        scheduler = make(engine, last, prompts_per_step=per_step, max_staleness=staleness)
        taken = await drive(scheduler, engine, range(1, last + 1), lambda _: draw.expovariate(0.3))
        assert engine.in_flight == 0
        assert len(engine.asked) == last * per_step  # not one more than is trained
        return taken

    taken = run(whole_run())
    for step, rollouts in enumerate(taken, 1):
        oldest = min(v for s in rollouts.groups for c in s.group.completions for v in c.versions)
        assert step - 1 - oldest <= staleness
    assert sorted(n for rollouts in taken for n in numbers(rollouts.groups)) == list(range(last * per_step))


def test_without_staleness_a_step_is_its_own_prompts_in_order_sampled_by_the_weights_it_trains():
    async def whole_run() -> list[StepRollouts]:
        engine = SleepingEngine(heavy_tailed(1))
        return await drive(make(engine, 5), engine, range(1, 6), lambda _: 3.0)

    for step, rollouts in enumerate(run(whole_run()), 1):
        assert numbers(rollouts.groups) == [4 * step - 4, 4 * step - 3, 4 * step - 2, 4 * step - 1]
        assert {v for s in rollouts.groups for c in s.group.completions for v in c.versions} == {step - 1}


def test_seeds_are_a_function_of_the_position_alone():
    async def asked(seconds: float, staleness: int) -> dict[str, int]:
        engine = SleepingEngine(lambda _: seconds)
        await drive(make(engine, 4, max_staleness=staleness), engine, range(1, 5), lambda _: 1.0)
        return {request.prompt.id: request.seed for request in engine.asked}

    one, other = run(asked(1.0, 0)), run(asked(7.0, 2))
    assert one == other
    assert len(set(one.values())) == 16


def test_deadlines_fit_exactly_if_some_assignment_of_groups_to_steps_keeps_them():
    draw = random.Random(0)
    verdicts = Counter()
    for _ in range(300):
        step, per_step = 5, draw.randint(1, 2)
        deadlines = [draw.randint(5, 7) for _ in range(draw.randint(0, 5))]
        room = draw.randint(0, per_step)
        places = {5: room, 6: per_step, 7: per_step}
        possible = any(
            all(chosen <= deadline for chosen, deadline in zip(choice, deadlines, strict=True))
            and all(choice.count(at) <= places[at] for at in places)
            for choice in itertools.product(places, repeat=len(deadlines))
        )
        assert fits(Counter(deadlines), step, room, per_step) == possible, (deadlines, room, per_step)
        verdicts[possible] += 1
    assert min(verdicts.values()) > 50


# -- overlap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_while_a_step_trains_as_many_groups_are_in_flight_as_the_bound_allows(staleness):
    last, seen = 20, []

    async def whole_run() -> None:
        engine = SleepingEngine(lambda _: 10.0, slots=4)  # the engine is the bottleneck: a step's groups in 10 s

        def training(step: int) -> float:
            seen.append((len(engine.asked), engine.in_flight))
            return 5.0

        await drive(make(engine, last, max_staleness=staleness), engine, range(1, last + 1), training)

    run(whole_run())
    # In step s the weights are s-1: (s + staleness) steps of 4 groups may have been asked for, and s steps' have come.
    allowed = [min(step + staleness, last) for step in range(1, last + 1)]
    assert seen == [(4 * steps, 4 * (steps - step)) for step, steps in enumerate(allowed, 1)]


@pytest.mark.parametrize(("sampling", "training"), [(10.0, 8.0), (8.0, 10.0), (10.0, 10.0), (10.0, 1.0)])
def test_with_a_bound_of_one_steps_take_the_longer_of_sampling_and_training_and_without_one_the_sum(sampling, training):
    async def seconds(staleness: int) -> float:
        engine = SleepingEngine(lambda _: sampling, slots=4)  # a step's groups at once: `sampling` seconds a step
        scheduler = make(engine, 20, max_staleness=staleness)
        await drive(scheduler, engine, range(1, 21), lambda _: training)
        return asyncio.get_running_loop().time()

    assert run(seconds(0)) == pytest.approx(20 * (sampling + training))
    # The first step has nothing to overlap its sampling with, the last one nothing its training.
    assert run(seconds(1)) == pytest.approx(20 * max(sampling, training) + min(sampling, training))


def test_a_long_completion_holds_up_no_step_before_its_bound_and_then_the_step_waits_for_it():
    async def waits(staleness: int) -> tuple[list[float], list[list[int]]]:
        engine = SleepingEngine(lambda number: 25.0 if number == 0 else 1.0)
        scheduler = make(engine, 5, max_staleness=staleness)
        taken = await drive(scheduler, engine, range(1, 6), lambda _: 10.0)
        return [round(one.seconds_wait, 6) for one in taken], [numbers(one.groups) for one in taken]

    # Training starts at 1, 11, 21 and, after 25, with the long one, which may wait for step 3 but no longer.
    seconds, trained = run(waits(2))
    assert seconds == [1, 0, 4, 0, 0]
    assert [0 in one for one in trained] == [False, False, True, False, False]
    # With a bound of 1 step 2, which could start at 11, has to wait until 25.
    seconds, trained = run(waits(1))
    assert seconds == [1, 14, 0, 0, 0]
    assert [0 in one for one in trained] == [False, True, False, False, False]


def test_groups_are_scored_one_at_a_time_in_a_thread_while_others_are_being_sampled():
    all_came, scoring, most = threading.Event(), [0], [0]

    class Engine(SleepingEngine):
        async def _one(self, index: int, request: RolloutRequest) -> tuple[int, Group]:
            answer = await super()._one(index, request)
            if self.in_flight == 0:
                all_came.set()
            return answer

    def slow_score(step: int, group: Group) -> ScoredGroup:
        scoring[0] += 1
        most[0] = max(most[0], scoring[0])
        assert all_came.wait(5), "sampling stood still while the first group was being scored"
        scoring[0] -= 1
        return score(step, group)

    async def whole_run() -> StepRollouts:
        return await make(Engine(lambda number: 0.01 * number), 1, score=slow_score).collect(1)

    assert len(asyncio.run(whole_run()).groups) == 4
    assert most == [1]


def test_a_steps_wait_ends_when_its_last_group_is_sampled_however_long_others_are_being_scored():
    async def whole_run() -> tuple[StepRollouts, float]:
        engine = SleepingEngine(lambda number: [1.0, 2.0, 3.0, 4.0][number])
        rollouts = await make(engine, 1).collect(1)
        return rollouts, asyncio.get_running_loop().time()

    rollouts, whole = run(whole_run(), thread_seconds=5.0)
    # Sampled until 4; scored one after the other from 1 on, for 4 x 5 s.
    assert (rollouts.seconds_wait, rollouts.seconds_reward, whole) == pytest.approx((4.0, 17.0, 21.0))


def test_what_goes_wrong_in_a_reward_ends_the_step_that_waits_for_it():
    async def whole_run() -> None:
        engine = SleepingEngine(lambda _: 1.0)
        await make(engine, 3, score=lambda step, group: 1 / 0).collect(1)

    with pytest.raises(ZeroDivisionError):
        run(whole_run())


# -- kill and resume -------------------------------------------------------------------------------


@pytest.mark.parametrize(("staleness", "refill"), [(0, 0), (2, 0), (0, 2), (2, 2)])
@pytest.mark.parametrize("seed", range(8))
def test_a_run_killed_at_any_moment_and_resumed_loses_no_prompt_and_trains_none_twice(staleness, refill, seed):
    last, killed_after = 12, 1 + seed
    settings = {"max_staleness": staleness, "refill": refill}

    def contrast(scored: ScoredGroup) -> bool:
        return random.Random(f"flat/{scored.group.prompt.id}").random() < 0.7

    async def until_killed() -> tuple[list[StepRollouts], str]:
        engine = SleepingEngine(heavy_tailed(seed), slots=5)
        scheduler = make(engine, last, contrast, **settings)
        taken = await drive(scheduler, engine, range(1, killed_after + 1), lambda _: 3.0)
        await asyncio.sleep(random.Random(seed).uniform(0, 5))  # some have come, some are in flight
        kept = json.dumps(scheduler.state_dict())
        await scheduler.cancel()
        return taken, kept

    async def resumed(kept: str) -> list[StepRollouts]:
        engine = SleepingEngine(heavy_tailed(seed + 100), slots=5, version=killed_after)
        scheduler = make(engine, last, contrast, **settings)
        scheduler.resume(killed_after, json.loads(kept))
        return await drive(scheduler, engine, range(killed_after + 1, last + 1), lambda _: 3.0)

    before, kept = run(until_killed())
    taken = before + run(resumed(kept))
    reported = [n for one in taken for n in numbers(one.groups) + numbers(one.dropped)]
    assert sorted(reported) == list(range(len(reported)))  # every prompt from the first on, each once
    assert [len(one.groups) for one in taken] == [4] * last


def test_a_checkpoint_that_kept_no_positions_goes_on_with_the_next_steps_own():
    async def whole_run() -> list[int]:
        engine = SleepingEngine(lambda _: 1.0, version=3)
        scheduler = make(engine, 4)
        scheduler.resume(3, None)
        return numbers((await scheduler.collect(4)).groups)

    assert run(whole_run()) == [12, 13, 14, 15]


# -- refill ----------------------------------------------------------------------------------------


def flat_unless(good: Callable[[int], bool]) -> Callable[[ScoredGroup], bool]:
    return lambda scored: good(int(scored.group.prompt.id))


def test_a_refill_replaces_groups_without_contrast_until_the_step_is_full():
    async def whole_run() -> list[StepRollouts]:
        engine = SleepingEngine(lambda _: 1.0)
        scheduler = make(engine, 2, flat_unless(lambda n: n % 2 == 1), refill=2)
        taken = await drive(scheduler, engine, (1, 2), lambda _: 1.0)
        assert scheduler._order.recorded == [1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14]  # dropped ones too
        return taken

    first, second = run(whole_run())
    assert (numbers(first.groups), numbers(first.dropped)) == ([1, 3, 5, 7], [0, 2, 4, 6])
    assert (numbers(second.groups), numbers(second.dropped)) == ([9, 11, 13, 15], [8, 10, 12, 14])


def test_a_dropped_group_is_replaced_at_once_and_not_when_the_others_are_there():
    async def whole_run() -> float:
        engine = SleepingEngine(lambda number: 1.0 if number in (0, 4) else 10.0)  # 0 is dropped, 4 replaces it
        await make(engine, 1, flat_unless(lambda n: n > 0), refill=1).collect(1)
        return asyncio.get_running_loop().time()

    assert run(whole_run()) == pytest.approx(10.0)


def test_beyond_its_bound_a_step_is_filled_with_the_earliest_groups_without_contrast():
    async def whole_run() -> StepRollouts:
        engine = SleepingEngine(lambda number: 10.0 - number)  # the earliest come last
        return await make(engine, 1, flat_unless(lambda n: n == 5), refill=1).collect(1)

    rollouts = run(whole_run())
    assert numbers(rollouts.groups) == [0, 1, 2, 5]
    assert numbers(rollouts.dropped) == [3, 4, 6, 7]  # 4 + 1 x 4 groups were sampled, no more


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_step_of_nothing_but_groups_without_contrast_stops_with_what_to_change(staleness):
    async def whole_run() -> None:
        engine = SleepingEngine(lambda _: 1.0)
        await make(engine, 3, lambda _: False, refill=2, max_staleness=staleness).collect(1)

    message = (
        r"step 1: none of \d+ groups has contrast.*rollout\.refill: 2 allows no more than 8 .*group_size.*refill: 0"
    )
    with pytest.raises(RolloutError, match=message):
        run(whole_run())


def test_without_refill_groups_without_contrast_are_trained_like_the_others():
    async def whole_run() -> StepRollouts:
        engine = SleepingEngine(lambda _: 1.0)
        return await make(engine, 1, lambda _: False).collect(1)

    rollouts = run(whole_run())
    assert (numbers(rollouts.groups), rollouts.dropped) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("seed", range(6))
def test_refill_and_staleness_together_keep_the_bound_and_account_for_every_group(seed):
    async def whole_run() -> tuple[list[StepRollouts], int]:
        engine = SleepingEngine(heavy_tailed(seed), slots=6)
        good = {n for n in range(1000) if random.Random(f"{seed}/{n}").random() < 0.5}
        scheduler = make(engine, 20, flat_unless(good.__contains__), refill=1, max_staleness=2)
        taken = await drive(scheduler, engine, range(1, 21), lambda _: 2.0)
        return taken, len(engine.asked)

    taken, asked = run(whole_run())
    reported = [n for one in taken for n in numbers(one.groups) + numbers(one.dropped)]
    assert sorted(reported) == list(range(asked))
    for step, rollouts in enumerate(taken, 1):
        assert all(step - 1 - min(c.versions) <= 2 for s in rollouts.groups for c in s.group.completions)
        assert len(rollouts.dropped) <= 4
