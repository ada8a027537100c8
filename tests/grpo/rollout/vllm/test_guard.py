"""What stands in front of every path of a server: its token, and whose it is."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from grpo.rollout.access import LEASE, RUN_HEADER, TOKEN_VARIABLE
from grpo.rollout.vllm import guard as module
from grpo.rollout.vllm.guard import SECONDS, Guard

TOKEN = "s3cret-t0ken"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")


def call(
    app: Any,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: Any = None,
    kind: str = "http",
) -> tuple[int, Any]:
    """Status and JSON of what an ASGI application answers; of a websocket, the status in place of its opening."""
    fields = [(key.lower().encode(), value.encode()) for key, value in (headers or {}).items()]
    scope = {
        "type": kind,
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": fields,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "scheme": "http" if kind == "http" else "ws",
        "extensions": {"websocket.http.response": {}},
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.request", "body": json.dumps(body).encode() if body is not None else b""}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0].get("status", 0), json.loads(content) if content.startswith(b"{") else content


async def open_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


@pytest.mark.usefixtures("_token")
def test_without_the_token_every_method_of_every_path_is_refused_and_so_are_websockets() -> None:
    app = Guard(open_app)
    paths = ("/", "", "//health", "/health", "/health/", "/%68ealth", "/v1/../health", "/metrics", "*", LEASE, "/docs")
    wrong = ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"{TOKEN} {TOKEN}", f"{TOKEN}, Bearer {TOKEN}")
    for headers in ({}, *map(bearer, wrong), {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
        for path in paths:
            assert {call(app, path, method, headers)[0] for method in METHODS} == {401}
            assert call(app, path, headers=headers, kind="websocket")[0] == 401
        assert call(app, "/", headers=headers, kind="strange")[0] == 401
    assert call(app, "/health", headers=bearer(TOKEN))[0] == 200
    assert call(app, "/health", headers={"authorization": f"bearer {TOKEN}"})[0] == 200


@pytest.mark.usefixtures("_token")
def test_a_websocket_that_no_answer_can_be_given_to_is_closed_before_it_opens() -> None:
    sent: list[Any] = []

    async def run() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        await Guard(open_app)({"type": "websocket", "path": "/", "headers": []}, send, send)  # type: ignore[arg-type]

    asyncio.run(run())
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.usefixtures("_token")
def test_two_headers_of_which_one_has_the_token_are_refused() -> None:
    app, statuses = Guard(open_app), []
    for pair in ([b"Bearer x", b"Bearer " + TOKEN.encode()], [b"Bearer " + TOKEN.encode()] * 2):
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"authorization", value) for value in pair]}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        asyncio.run(app(scope, send, send))  # type: ignore[arg-type]
    assert statuses[::2] == [401, 401]


# -- leases ------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def take(app: Guard, run: str) -> int:
    return call(app, LEASE, "POST", body={"run": run, "holder": f"host of {run}"})[0]


def test_a_lease_is_one_runs_until_it_is_given_back_or_another_asks_for_it_after_it_ran_out(clock: list[float]) -> None:
    app = Guard(open_app)
    assert call(app, LEASE) == (200, {"holder": None, "seconds": 0.0})
    assert take(app, "a") == 200
    assert take(app, "b") == 423
    assert call(app, LEASE) == (200, {"holder": "host of a", "seconds": SECONDS})
    clock[0] += SECONDS - 1
    assert take(app, "a") == 200  # renewed
    clock[0] += SECONDS - 1
    assert take(app, "b") == 423
    clock[0] += 2
    assert take(app, "a") == 200  # too late, and nobody asked for it
    clock[0] += SECONDS + 1
    assert take(app, "b") == 200
    assert take(app, "a") == 423
    assert call(app, LEASE, "DELETE", {RUN_HEADER: "a"})[1]["holder"] == "host of b"
    assert call(app, LEASE, "DELETE")[1]["holder"] == "host of b"
    assert call(app, LEASE, "DELETE", {RUN_HEADER: "b"})[1]["holder"] is None
    assert take(app, "a") == 200


def test_a_request_that_names_a_run_is_answered_only_while_the_server_is_that_runs(clock: list[float]) -> None:
    app = Guard(open_app)

    def ask(run: str | None) -> int:
        return call(app, "/update_weights", "POST", {RUN_HEADER: run} if run else {})[0]

    assert ask("a") == 423  # a server that was started anew
    take(app, "a")
    assert [ask("a"), ask("b"), ask(None)] == [200, 423, 200]
    clock[0] += SECONDS + 1
    assert ask("a") == 200  # nobody else has it
    take(app, "b")
    assert [ask("a"), ask("b")] == [423, 200]


@pytest.mark.parametrize("body", [None, [], {"run": "a"}, "x" * 100_000])
def test_what_is_no_request_for_a_lease_takes_none(body: Any) -> None:
    app = Guard(open_app)
    assert call(app, LEASE, "POST", body=body)[0] == 400
    assert call(app, LEASE)[1]["holder"] is None


# -- the application that vLLM builds ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("_token")
def test_no_route_of_the_application_that_vllm_builds_answers_without_the_token(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    line = ["--model", "x", "--enable-scale-out", "--middleware", "grpo.rollout.vllm.guard.Guard"]
    app = build_app(make_arg_parser(FlexibleArgumentParser()).parse_args(line), ("generate", "realtime"))
    paths = {path for route in app.routes if (path := getattr(route, "path", None))} | set(app.openapi()["paths"])
    assert {"/pause", "/update_weights", "/health", "/metrics", "/docs", "/v1/load_lora_adapter"} <= paths
    assert "/inference/v1/generate" in paths
    for path in sorted(paths | {"/nothing", "/zero/lease"}):
        for headers in ({}, bearer("wrong")):
            assert {call(app, path, method, headers)[0] for method in METHODS} == {401}, path
            assert call(app, path, headers=headers, kind="websocket")[0] == 401, path
    assert call(app, "/openapi.json", headers=bearer(TOKEN))[0] == 200
    assert call(app, "/nothing", headers=bearer(TOKEN))[0] == 404
    assert TOKEN not in "".join(capfd.readouterr())
