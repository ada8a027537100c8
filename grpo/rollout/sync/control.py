"""vLLM's RL control plane (vllm/entrypoints/rl/online/api_router.py) over HTTP."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from grpo.rollout.access import NOT_YOURS, headers, refused, taken
from grpo.rollout.engine import LeaseLostError, RolloutError, ServerLostError, WeightSyncError


class ControlPlane:
    """The control plane of one server.

    async with ControlPlane("http://127.0.0.1:8000", timeout=600) as control:
        await control.post("/pause?mode=keep")

    `timeout`: seconds that one answer may take. `run`: the one that asks, where it holds the server's lease.
    """

    def __init__(self, url: str, timeout: float, run: str = "") -> None:
        self.url = url
        self.timeout = timeout
        self._headers = headers(run)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ControlPlane:
        # A connection for each request: after an answer of 500, vLLM's server closes the one it came by.
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(self.timeout)
        self._http = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    async def post(self, path: str, body: dict[str, Any] | None = None) -> None:
        await self._call("POST", path, body)

    async def get(self, path: str, key: str) -> Any:
        """What the JSON at `path` has under `key`."""
        answer = await self._call("GET", path, None)
        try:
            return json.loads(answer)[key]
        except (ValueError, KeyError, TypeError) as error:
            raise WeightSyncError(
                f"{self.url} answers {path} with {answer[:100]!r}, expected JSON with {key}"
            ) from error

    async def weight_version(self) -> int:
        version = await self.get("/weight_info", "weight_version")
        try:
            return parse_version(str(version))
        except ValueError as error:
            raise WeightSyncError(f"{self.url} serves weights {version!r}, expected a number, or default") from error

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        try:
            status, answer = await self._request(method, path, body)
        except TimeoutError as error:
            raise ServerLostError(
                f"weight sync with {self.url} is stuck at {path}: no answer within {self.timeout:g} s "
                "(rollout.server.sync_timeout)"
            ) from error
        except aiohttp.ClientError as error:
            raise ServerLostError(f"{self.url} went away during {path}: {error!r}") from error
        text = answer.decode(errors="replace")
        if status == NOT_YOURS:
            raise LeaseLostError(taken(self.url, answer))
        if status == 401:
            raise RolloutError(refused(self.url))
        if status == 404:
            raise WeightSyncError(
                f"{self.url} has no {path}: start it with VLLM_SERVER_DEV_MODE=1, as `zero serve MODEL` does"
            )
        if status >= 500 and not await self._healthy():  # the API still answers for an engine that has died
            raise ServerLostError(f"the engine of {self.url} died before {path}: {text[:500]}")
        if status >= 400:
            raise WeightSyncError(f"{self.url} refused {path} ({status}): {text[:2000]}")
        return answer

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        assert self._http is not None, "use it as a context manager"
        async with self._http.request(method, f"{self.url}{path}", json=body) as answer:
            return answer.status, await answer.read()

    async def _healthy(self) -> bool:
        try:
            return (await self._request("GET", "/health", None))[0] == 200
        except (TimeoutError, aiohttp.ClientError):
            return False


def parse_version(label: str) -> int:
    """vLLM's label of the served weights as our number; "default" is what it calls weights never updated."""
    return 0 if label == "default" else int(label)
