"""Posting JSON to several servers: spread by load, tried again, every failure a class of its own.

Training's client (`client.py`) and evaluation's (`eval/ask/client.py`) both ask through this.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import aiohttp

from grpo.rollout.access import NOT_YOURS, refused, taken
from grpo.rollout.engine import LeaseLostError, RolloutError, ServerLostError

Answer = TypeVar("Answer")
AVOID_SECONDS = 30.0
BUSY = 429  # the server asks for patience: as transient as an error of its own


class RequestRefusedError(RuntimeError):
    """The server will not serve this request; asking again would not help."""


class Endpoints:
    """Servers that answer alike. Each request goes to the one with the fewest completions in flight.

    One that just failed is avoided while others answer, for AVOID_SECONDS. A request fails when all of them fail it.

        async with Endpoints(["http://127.0.0.1:8000"], timeout=600, delays=(0.2, 1.0)) as endpoints:
            answer = await endpoints.post("/v1/completions", {"prompt": ...})

    Args:
        timeout: seconds that one attempt may take.
        delays: seconds before the second round of attempts at all servers, the third and so on.
        transient: the errors after which a request is tried again.
        hint: what to do about a server that has no such endpoint; ends that error's sentence.
        headers: sent with every request.
    """

    def __init__(
        self,
        urls: Sequence[str],
        timeout: float,
        delays: Sequence[float],
        transient: tuple[type[Exception], ...] = (ServerLostError,),
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._in_flight: Counter[str] = Counter()  # completions that each was asked for
        self._failed_at = dict.fromkeys(self._urls, -math.inf)
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._delays, self._transient = tuple(delays), transient
        self._avoided: tuple[type[Exception], ...] = (*transient, TimeoutError)  # the errors that say: not this server
        self._hint, self._headers = hint, headers
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Endpoints:
        # No limit on connections: how many sequences run at once is the server's to decide.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(
        self, path: str, body: Mapping[str, object], n: int = 1, read: Callable[[bytes], Answer] = json.loads
    ) -> Answer:
        """What `read` makes of the answer of the first attempt that gets one; transient errors are tried again.

        `n`: completions that are asked for. Raises the last attempt's error: TimeoutError, ServerLostError,
        RequestRefusedError, RolloutError if the endpoint is closed, and whatever `read` raises.
        """
        for delay in (*self._delays, None):
            tried: set[str] = set()
            while untried := [url for url in self._urls if url not in tried]:
                url = min(untried, key=self._reluctance)
                tried.add(url)
                try:
                    return await self._attempt(url, path, body, n, read)
                except self._transient:
                    if delay is None and tried.issuperset(self._urls):
                        raise
            await asyncio.sleep(delay or 0.0)
        raise AssertionError("the last attempt returns or raises")

    def _reluctance(self, url: str) -> tuple[bool, int]:
        return time.monotonic() - self._failed_at[url] < AVOID_SECONDS, self._in_flight[url]

    async def _attempt(
        self, url: str, path: str, body: Mapping[str, object], n: int, read: Callable[[bytes], Answer]
    ) -> Answer:
        self._in_flight[url] += n
        try:
            answer = read(await self._answer(url, path, body))
        except self._avoided:
            self._failed_at[url] = time.monotonic()
            raise
        finally:
            self._in_flight[url] -= n
        self._failed_at[url] = -math.inf
        return answer

    async def _answer(self, url: str, path: str, body: Mapping[str, object]) -> bytes:
        assert self._session is not None, "use it as a context manager"
        try:
            async with self._session.post(f"{url}{path}", json=body) as answer:
                if answer.status >= 500 or answer.status == BUSY:
                    raise ServerLostError(f"{url} answered {answer.status}: {(await answer.text())[:500]}")
                if answer.status == NOT_YOURS:
                    raise LeaseLostError(taken(url, await answer.read()))
                if answer.status in (401, 403, 404):
                    raise RolloutError(
                        f"{url} has no open {path} ({answer.status}){self._hint}. It said: {await answer.text()}"
                        + (f". {refused(url)}" if answer.status == 401 else "")
                    )
                if answer.status != 200:
                    raise RequestRefusedError(f"{url} refused a request ({answer.status}): {await answer.text()}")
                return await answer.read()
        except aiohttp.ClientError as error:
            if isinstance(error, TimeoutError):
                raise
            raise ServerLostError(f"{url} does not answer: {error!r}") from error
