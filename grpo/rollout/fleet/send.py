"""Weights to several servers: the one place where they are sent from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack

from grpo.rollout.engine import ServerLostError
from grpo.rollout.fleet.member import Member
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.vllm.supervision import unless_lost

Update = Callable[[Member, ControlPlane], Coroutine[None, None, None]]
UpdateOfAll = Callable[[Sequence[ControlPlane]], Coroutine[None, None, None]]


async def send_together(
    members: Sequence[Member], update: UpdateOfAll, seconds: float
) -> dict[Member, ServerLostError]:
    """One update of all these servers; returns those that were lost over it, and why. The others got it.

    When some are lost, the others are in the middle of it: they get it anew. `seconds`: that each try may take; the
    update keeps to them. Raises WeightSyncError if one refuses.
    """
    lost: dict[Member, ServerLostError] = {}
    left = list(members)
    while left:
        try:
            await _send_together(left, update, seconds)
            break
        except ServerLostError as error:
            gone = [one for one in left if one.url in error.urls or (one.lost is not None and one.lost.done())] or left
            lost |= dict.fromkeys(gone, error)
            left = [member for member in left if member not in gone]
    return lost


async def _send_together(members: Sequence[Member], update: UpdateOfAll, seconds: float) -> None:
    watched = [member.lost for member in members if member.lost is not None]
    async with AsyncExitStack() as stack:
        planes = [ControlPlane(member.url, seconds, member.run) for member in members]
        controls = [await stack.enter_async_context(plane) for plane in planes]
        await unless_lost(update(controls), *watched)


async def send(members: Sequence[Member], update: Update, seconds: float) -> dict[Member, ServerLostError]:
    """Update every one of these servers, all at once; returns those that were lost over it, and why.

    `seconds` that it may take (rollout.server.sync_timeout). Raises WeightSyncError if one refuses.
    """
    outcomes = await asyncio.gather(*(_send(one, update, seconds) for one in members), return_exceptions=True)
    lost: dict[Member, ServerLostError] = {}
    for member, outcome in zip(members, outcomes, strict=True):
        if isinstance(outcome, ServerLostError):
            lost[member] = outcome
        elif outcome is not None:
            raise outcome
    return lost


async def _send(member: Member, update: Update, seconds: float) -> None:
    assert member.lost is not None, "connect it first"
    try:
        async with asyncio.timeout(seconds), ControlPlane(member.url, seconds, member.run) as control:
            await unless_lost(update(member, control), member.lost)
    except TimeoutError as error:
        raise ServerLostError(
            f"loading the adapter at {member.url} is stuck: not done within {seconds:g} s (rollout.server.sync_timeout)"
        ) from error
