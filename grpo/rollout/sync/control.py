"""vLLM's RL control plane (vllm/entrypoints/rl/online/api_router.py) over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp

from grpo.rollout.access import NOT_YOURS, headers, refused, taken
from grpo.rollout.engine import LeaseLostError, RolloutError, ServerLostError, WeightSyncError


class ControlPlane:
    """The control plane of one server.

    async with ControlPlane("http://127.0.0.1:8000", timeout=600) as control:
        await control.post("/pause?mode=keep")

    `timeout`: seconds from now in which all of it must be done; whatever has not been answered then is stuck.
    `run`: the one that asks, where it holds the server's lease.
    """

    def __init__(self, url: str, timeout: float, run: str = "") -> None:
        self.url = url
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._headers = headers(run)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ControlPlane:
        # A connection for each request: after an answer of 500, vLLM's server closes the one it came by.
        connector = aiohttp.TCPConnector(force_close=True)
        self._http = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    async def post(self, path: str, body: dict[str, Any] | None = None, stage: str = "") -> None:
        """`stage`: what it is about, where the path does not say."""
        await self._call("POST", path, body, stage or path)

    async def update(self, message: dict[str, Any]) -> None:
        """Have every worker do what the message says, see `vllm/plugin.py`; its key is the stage."""
        await self.post("/update_weights", {"update_info": message}, f"/update_weights ({next(iter(message))})")

    async def get(self, path: str, key: str) -> Any:
        """What the JSON at `path` has under `key`."""
        answer = await self._call("GET", path, None, path)
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

    async def _call(self, method: str, path: str, body: dict[str, Any] | None, stage: str) -> bytes:
        try:
            status, answer = await self._request(method, path, body)
        except TimeoutError as error:
            raise ServerLostError(
                f"weight sync with {self.url} is stuck at {stage}: not done within {self.timeout:g} s "
                "(rollout.server.sync_timeout)",
                {self.url},
            ) from error
        except aiohttp.ClientError as error:
            raise ServerLostError(f"{self.url} went away during {stage}: {error!r}", {self.url}) from error
        text = answer.decode(errors="replace")
        if status == NOT_YOURS:
            raise LeaseLostError(taken(self.url, answer), {self.url})
        if status == 401:
            raise RolloutError(refused(self.url))
        if status == 404:
            raise WeightSyncError(
                f"{self.url} has no {path}: start it with VLLM_SERVER_DEV_MODE=1, as `zero serve MODEL` does"
            )
        if status >= 500 and not await self._healthy():  # the API still answers for an engine that has died
            raise ServerLostError(f"the engine of {self.url} died before {stage}: {text[:500]}", {self.url})
        if status >= 400:
            raise WeightSyncError(f"{self.url} refused {path} ({status}): {text[:2000]}")
        return answer

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        assert self._http is not None, "use it as a context manager"
        timeout = aiohttp.ClientTimeout(max(self.seconds_left, 0.001))  # 0 would be none
        async with self._http.request(method, f"{self.url}{path}", json=body, timeout=timeout) as answer:
            return answer.status, await answer.read()

    async def _healthy(self) -> bool:
        try:
            return (await self._request("GET", "/health", None))[0] == 200
        except (TimeoutError, aiohttp.ClientError):
            return False


def parse_version(label: str) -> int:
    """vLLM's label of the served weights as our number; "default" is what it calls weights never updated."""
    return 0 if label == "default" else int(label)
