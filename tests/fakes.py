"""A stand-in for a vLLM server: the part of its HTTP interface that the client uses, without a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from grpo.types import Prompt


def prompt(text: str = "12+30=") -> Prompt:
    return Prompt(id=f"test/{text}", text=text, token_ids=tuple(map(ord, text)), answer="42")


class CharDecoder:
    """Token ids are code points; 0 ends a sequence and is special."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool) -> str:
        return "".join(chr(i) for i in token_ids if i or not skip_special_tokens)


def choice(text: str = "42", version: str = "default", **changes: Any) -> dict[str, Any]:
    """One completion as the server writes it."""
    token_ids = [*map(ord, text), 0]
    return {
        "token_ids": token_ids,
        "logprobs": {"content": [{"token_id": i, "logprob": -0.5} for i in token_ids]},
        "finish_reason": "stop",
        "weight_versions": [{"version": version, "start": 0, "end": len(token_ids)}],
    } | changes


class FakeServer:
    """Answers each generate request with what `script(body, k)` returns; k counts them from 0.

    It may return an answer's dict, a status code, or seconds to wait before the usual answer.
    """

    def __init__(self, script: Callable[[dict[str, Any], int], Any] | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.url = ""
        self._script = script
        self._app = web.Application()
        self._app.router.add_post("/inference/v1/generate", self._generate)
        self._app.router.add_get("/health", self._health)

    async def __aenter__(self) -> FakeServer:
        self._runner = web.AppRunner(self._app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        answer = self._script(body, len(self.bodies) - 1) if self._script else None
        if isinstance(answer, int):
            return web.Response(status=answer, text="because")
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        if isinstance(answer, str):
            return web.Response(text=answer, content_type="application/json")
        usual = {"choices": [choice() for _ in range(body["sampling_params"]["n"])]}
        return web.json_response(answer if isinstance(answer, dict) else usual)
