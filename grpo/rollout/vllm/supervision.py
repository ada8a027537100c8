"""Whether servers still answer, and how to stop waiting for one that does not.

A check asks for /health, and looks at the processes of a server that is ours. One alone proves nothing: a server on
slow cores may take seconds, and this process may have stood still itself. CHECKS that fail in a row do: a dead server
is noticed in a few seconds, a silent one after `rollout.server.health_timeout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import aiohttp

from grpo.rollout.access import headers
from grpo.rollout.engine import ServerLostError
from grpo.rollout.vllm.server import VLLMServer

Result = TypeVar("Result")
Lost = asyncio.Future[ServerLostError]  # done once a server is lost

CHECKS = 3
PAUSE = 2.0  # seconds between two


async def watch(url: str, seconds: float, server: VLLMServer | None = None) -> ServerLostError:
    """Ends, with the error to raise, once the server at `url` has failed CHECKS checks in a row.

    `seconds`: that they wait for an answer, all together. `server`: its processes, where they are ours.
    """
    failed, complaint = 0, ""
    while failed < CHECKS:
        await asyncio.sleep(PAUSE)
        complaint = (server.complaint() if server else "") or await _complaint(f"{url}/health", seconds / CHECKS)
        failed = failed + 1 if complaint else 0
    return ServerLostError(f"{url} {complaint}", {url})


async def answers(url: str, seconds: float) -> bool:
    """Whether the server and, through it, its engine answer one of CHECKS requests in `seconds`.

    Not while weights are being loaded: the engine does nothing else then.
    """
    for _ in range(CHECKS):
        complaints = [await _complaint(f"{url}{path}", seconds / CHECKS) for path in ("/health", "/weight_info")]
        if not any(complaints):
            return True
    return False


async def unless_lost(work: Coroutine[Any, Any, Result], *lost: Lost) -> Result:
    """The result of `work`; raises the error in which one of `lost` ends, should that come first.

    `work` ends either way.
    """
    task = asyncio.create_task(work)
    try:
        everything: set[asyncio.Future[Any]] = {task, *lost}
        await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise next(one.result() for one in lost if one.done())
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _complaint(url: str, seconds: float) -> str:
    """What is wrong with the answer, "" if nothing is."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(seconds), headers=headers()) as session,
            session.get(url) as answer,
        ):
            return f"answers {answer.status} at {answer.url.path}" if answer.status >= 500 else ""
    except TimeoutError:
        return "is silent"
    except aiohttp.ClientError as error:
        return f"does not answer: {error!r}"
