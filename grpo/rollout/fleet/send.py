"""Weights to several servers: the one place where they are sent from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from grpo.rollout.engine import ServerLostError
from grpo.rollout.fleet.member import Member
from grpo.rollout.sync.control import ControlPlane
from grpo.rollout.vllm.supervision import unless_lost

Update = Callable[[Member, ControlPlane], Coroutine[None, None, None]]


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
        async with asyncio.timeout(seconds):  # a collective whose other side has died never returns
            async with ControlPlane(member.url, seconds, member.run) as control:
                await unless_lost(update(member, control), member.lost)
    except TimeoutError as error:
        raise ServerLostError(
            f"sending weights to {member.url} is stuck: not done within {seconds:g} s (rollout.server.sync_timeout)"
        ) from error
