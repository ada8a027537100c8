"""vLLM's RL control plane (vllm/entrypoints/rl/online/api_router.py) over HTTP."""

from __future__ import annotations

from typing import Any

import httpx

from grpo.rollout.engine import ServerLostError, WeightSyncError


class ControlPlane:
    """vLLM's control plane over HTTP, synchronous: call it in a thread."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        # A connection for each request: after an answer of 500, vLLM's server closes the one it came by.
        fresh = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, limits=fresh)

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def post(self, path: str, body: dict[str, Any] | None = None) -> None:
        self._call("POST", path, body)

    def get(self, path: str, key: str) -> Any:
        """What the JSON at `path` has under `key`."""
        answer = self._call("GET", path, None)
        try:
            return answer.json()[key]
        except (ValueError, KeyError, TypeError) as error:
            raise WeightSyncError(
                f"{self.url} answers {path} with {answer.content[:100]!r}, expected JSON with {key}"
            ) from error

    def weight_version(self) -> int:
        version = self.get("/weight_info", "weight_version")
        try:
            return parse_version(str(version))
        except ValueError as error:
            raise WeightSyncError(f"{self.url} serves weights {version!r}, expected a number, or default") from error

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise ServerLostError(
                f"weight sync with {self.url} is stuck at {path}: no answer within {self.timeout:g} s "
                "(rollout.server.sync_timeout)"
            ) from error
        except httpx.TransportError as error:
            raise ServerLostError(f"{self.url} went away during {path}: {error!r}") from error
        if answer.status_code == 404:
            raise WeightSyncError(
                f"{self.url} has no {path}: start it with VLLM_SERVER_DEV_MODE=1, as `zero serve MODEL` does"
            )
        if answer.is_server_error and not self._healthy():  # the API still answers for an engine that has died
            raise ServerLostError(f"the engine of {self.url} died before {path}: {answer.text[:500]}")
        if answer.is_error:
            raise WeightSyncError(f"{self.url} refused {path} ({answer.status_code}): {answer.text[:2000]}")
        return answer

    def _healthy(self) -> bool:
        try:
            return self._http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False


def parse_version(label: str) -> int:
    """vLLM's label of the served weights as our number; "default" is what it calls weights never updated."""
    return 0 if label == "default" else int(label)
