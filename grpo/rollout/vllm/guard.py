"""Stands in front of every path of a vLLM server (--middleware): its token, and its lease.

The token is demanded of every request of every kind, whatever its path and method: health, metrics, documentation and
preflights too, and of websockets before they open. Without a token in the environment all are let in, which is why
such a server listens on 127.0.0.1 only (serve.py).

A lease says whose the server is. One run holds it, and others are refused with its holder's name:

    POST /zero/lease {"run", "holder"}   take or renew it: 200, or 423 with {"holder", "seconds"}
    GET /zero/lease                      {"holder", "seconds"}
    DELETE /zero/lease                   give it back; `Zero-Run` names the run

It ends SECONDS after it was last renewed, when another run asks for it: the holder keeps it until then. A request that
names a run (`Zero-Run`), which every request of a run does, is answered only while that run holds the lease. So a run
that has lost it, or whose server was started anew, hears so at its next request, and never samples from the weights of
another one. A request that names none, an evaluation's, is let through.

Loaded in vLLM's API process: imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from grpo.rollout.access import LEASE, NOT_YOURS, RUN_HEADER, token

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECONDS = 60.0
MOST_BYTES = 65536  # of a request about the lease


@dataclass(frozen=True, slots=True)
class Lease:
    """Whose the server is, and since when it was not renewed (seconds of time.monotonic)."""

    run: str
    holder: str
    renewed: float

    def seconds(self) -> float:
        """That it still lasts; 0 if another run may have it."""
        return max(0.0, self.renewed + SECONDS - time.monotonic())


class Guard:
    """ASGI middleware, one for each app."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._token = _digest(token().encode()) if token() else None
        self._lease: Lease | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif not self._let_in(scope):
            await _answer(scope, send, 401, {"error": "this server demands its token"})
        elif scope["type"] == "http" and scope["path"] == LEASE:
            await self._answer_lease(scope, receive, send)
        elif not self._belongs_to(_header(scope, RUN_HEADER)):
            await _answer(scope, send, NOT_YOURS, self._whose())
        else:
            await self._app(scope, receive, send)

    def _let_in(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        scheme, _, given = (_header(scope, "Authorization") or b"").partition(b" ")
        # Digests, of one length: how long the comparison takes says nothing about the token.
        return hmac.compare_digest(_digest(given.strip()), self._token) and scheme.lower() == b"bearer"

    def _belongs_to(self, run: bytes | None) -> bool:
        return run is None or (self._lease is not None and self._lease.run.encode() == run)

    def _whose(self) -> dict[str, Any]:
        lease = self._lease
        return {"holder": lease.holder if lease else None, "seconds": round(lease.seconds(), 1) if lease else 0.0}

    async def _answer_lease(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 200
        if scope["method"] == "POST":
            status = self._take(await _body(receive))
        elif scope["method"] == "DELETE":
            if _header(scope, RUN_HEADER) is not None and self._belongs_to(_header(scope, RUN_HEADER)):
                self._lease = None
        elif scope["method"] not in ("GET", "HEAD"):
            status = 405
        await _answer(scope, send, status, self._whose())

    def _take(self, body: bytes) -> int:
        """The status to answer with."""
        try:
            asked = json.loads(body)
            wanted = Lease(str(asked["run"]), str(asked["holder"]), time.monotonic())
        except (ValueError, KeyError, TypeError):
            return 400
        if self._lease and self._lease.run != wanted.run and self._lease.seconds():
            return NOT_YOURS
        self._lease = wanted
        return 200


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _header(scope: Scope, name: str) -> bytes | None:
    """Its value; None if there is none. Two of one name are as good as a wrong one."""
    found = [value for key, value in scope["headers"] if key == name.lower().encode()]
    return b" ".join(found) if found else None


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= MOST_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return body


async def _answer(scope: Scope, send: Send, status: int, content: dict[str, Any]) -> None:
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    body = json.dumps(content).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        fields.append((b"www-authenticate", b"Bearer"))
    await send({"type": f"{kind}.start", "status": status, "headers": fields})
    await send({"type": f"{kind}.body", "body": body})
