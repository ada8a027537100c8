"""A stand-in for a vLLM server: the part of its HTTP interface that the client uses, without a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from grpo.rollout.vllm.guard import Guard
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


async def no_app(*_: Any) -> None:
    """An application that answers nothing."""


class FakeServer:
    """Answers each generate request with what `script(body, k)` returns; k counts them from 0.

    It may return an answer's dict, a status code, or seconds to wait before the usual answer. The control plane works:
    `control` holds the paths that were posted to, and `update_status` is what /update_weights answers. `at_once`: what
    it says that it decodes at once; None: it does not say. It has the lease of a server of ours.
    """

    def __init__(self, script: Callable[[dict[str, Any], int], Any] | None = None, port: int = 0) -> None:
        self._port = port
        self.bodies: list[dict[str, Any]] = []
        self.control: list[str] = []
        self.adapters: list[str] = []
        self.healthy, self.update_status = True, 200
        self.health: Callable[[web.Request], int] = lambda _: 200 if self.healthy else 503
        self.before_update: Callable[[], Awaitable[Any]] | None = None
        self.weight_info: bytes | None = None  # in place of the true answer
        self.version = "default"
        self.url = ""
        self._script = script
        self.at_once: int | None = None
        self.guard = Guard(no_app)
        self._app = web.Application(middlewares=[self._guarded])
        self._app.router.add_post("/inference/v1/generate", self._generate)
        self._app.router.add_get("/health", self._health)
        self._app.router.add_get("/weight_info", self._weight_info)
        self._app.router.add_get("/server_info", self._server_info)
        self._app.router.add_post("/{path:.*}", self._control)

    async def __aenter__(self) -> FakeServer:
        self._runner = web.AppRunner(self._app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """The server's side of token and lease (vllm/guard.py), before anything else."""
        fields = [(name.lower(), value) for name, value in request.raw_headers]
        scope = {"type": "http", "method": request.method, "path": request.path, "headers": fields}
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": await request.read()}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.guard(scope, receive, send)
        if not sent:
            return await handler(request)
        return web.Response(status=sent[0]["status"], body=sent[1]["body"])

    async def _server_info(self, _: web.Request) -> web.Response:
        if self.at_once is None:
            return web.Response(status=404)
        config = {"scheduler_config": {"max_num_seqs": self.at_once}, "parallel_config": {"data_parallel_size": 1}}
        return web.json_response({"vllm_config": config})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.health(_))

    async def _weight_info(self, _: web.Request) -> web.Response:
        if self.weight_info is not None:
            return web.Response(body=self.weight_info)
        return web.json_response({"weight_version": self.version})

    async def _control(self, request: web.Request) -> web.Response:
        self.control.append(request.path)
        body = await request.json() if request.can_read_body else {}
        if request.path == "/update_weights":
            if self.before_update is not None:
                await self.before_update()
            return web.Response(status=self.update_status, text="collective_rpc method failed: they do not fit")
        if request.path == "/finish_weight_update":
            self.version = body.get("weight_version", self.version)
        if request.path == "/v1/load_lora_adapter":
            self.adapters.append(body["lora_name"])
        if request.path == "/v1/unload_lora_adapter":
            self.adapters.remove(body["lora_name"])
        return web.json_response({})

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
        usual = {"choices": [choice(version=self.version) for _ in range(body["sampling_params"]["n"])]}
        return web.json_response(answer if isinstance(answer, dict) else usual)


# A program in the place of vLLM's server: what the engine asks of it, with completions of one token. Once, while the
# file FAULT is there, it does what that says in the middle of the update of weights, or of a completion:
#     FOLDER/update or FOLDER/generate with kill, stop (of the whole process), or hang (this answer never comes)
STAND_IN = """
import http.server, json, os, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[1])

class Handler(http.server.BaseHTTPRequestHandler):
    version = "default"
    fail = {"kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
            "hang": lambda: time.sleep(600)}

    def do_GET(self):
        self.answer({"weight_version": Handler.version})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        name = self.path.rpartition("/")[2].partition("_")[0]
        if (fault := folder / name).exists():
            what = fault.read_text()
            fault.unlink()
            self.fail[what]()
        if name == "finish":
            Handler.version = body.get("weight_version", Handler.version)
        if name != "generate":
            return self.answer({})
        choice = {"token_ids": [52], "logprobs": {"content": [{"token_id": 52, "logprob": -0.5}]},
                  "finish_reason": "stop", "weight_versions": [{"version": Handler.version, "start": 0, "end": 1}]}
        self.answer({"choices": [choice] * body["sampling_params"]["n"]})

    def answer(self, what):
        content = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""

CLOSE = object()  # what a script returns to close the connection without an answer


class FakeOpenAI:
    """A stand-in for any OpenAI-compatible server: /v1/models, /v1/completions and /v1/chat/completions.

    Each request is answered with what `script(body, k)` returns; k counts them from 0. It may return an answer's
    dict, raw text, a status code, CLOSE, or seconds to wait before the usual answer, which is `write(body)` of the
    body alone. `answered` holds the prompts whose usual answer was written, in order.
    """

    def __init__(
        self,
        script: Callable[[dict[str, Any], int], Any] | None = None,
        write: Callable[[dict[str, Any]], str] = lambda body: "<answer>42</answer>",
        model: dict[str, Any] | None = None,
        port: int = 0,
        tokenize: str = "vllm",
    ) -> None:
        """tokenize: whose way of counting tokens it has: vllm, sglang, llama.cpp, none."""
        self._tokenizes = tokenize
        self.bodies: list[dict[str, Any]] = []
        self.answered: list[str] = []
        self.at_once = self.most_at_once = 0
        self.healthy = True
        self.url = ""
        self._script, self._write, self._port = script, write, port
        self._model = {"id": "fake", "object": "model", "owned_by": "nobody"} | (model or {})
        self._app = web.Application()
        self._app.router.add_post("/v1/completions", self._complete)
        self._app.router.add_post("/v1/chat/completions", self._complete)
        self._app.router.add_get("/v1/models", self._models)
        self._app.router.add_get("/health", self._health)
        if tokenize != "none":
            self._app.router.add_post("/tokenize", self._tokenize)
        if tokenize == "llama.cpp":
            self._app.router.add_post("/apply-template", self._apply_template)

    async def __aenter__(self) -> FakeOpenAI:
        self._runner = web.AppRunner(self._app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._model]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _tokenize(self, request: web.Request) -> web.Response:
        """Of a prompt, a word is a token; for llama.cpp, a character."""
        body = await request.json()
        if self._tokenizes == "llama.cpp":
            return web.json_response({"tokens": [*map(ord, body.get("content", ""))]})
        if self._tokenizes == "sglang" and "messages" in body:
            return web.Response(status=422, text="prompt: field required")
        return web.json_response({"count": len(asked(body).split())})

    async def _apply_template(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": f"<{asked(await request.json())}>"})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(request, body, len(self.bodies) - 1)
        finally:
            self.at_once -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any], k: int) -> web.Response:
        answer = self._script(body, k) if self._script else None
        if answer is CLOSE:
            assert request.transport is not None
            request.transport.abort()
        if isinstance(answer, int):
            return web.Response(status=answer, text="because")
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        if isinstance(answer, str):
            return web.Response(text=answer, content_type="application/json")
        if isinstance(answer, dict):
            return web.json_response(answer)
        self.answered.append(asked(body))
        return web.json_response(written(self._write(body), chat="messages" in body))


def asked(body: dict[str, Any]) -> str:
    """The text of a request's prompt."""
    return body["messages"][-1]["content"] if "messages" in body else str(body["prompt"])


def written(text: str, chat: bool = False, finish_reason: str | None = "stop") -> dict[str, Any]:
    """One completion as an OpenAI-compatible server writes it."""
    content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        "choices": [{"index": 0, "finish_reason": finish_reason, **content}],
        "usage": {"prompt_tokens": 3, "completion_tokens": len(text)},
    }


@contextmanager
def serving(server: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """Run the server in a thread, for a client that is another process or has an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        yield server
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
