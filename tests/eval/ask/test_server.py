"""Our own server of an evaluation, with a small program in vLLM's place."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from eval.ask.client import Answer, EvalClient, Failed, Served
from eval.ask.server import OwnServer
from grpo.config import ServerSettings
from grpo.rollout.engine import RolloutError, ServerLostError
from grpo.rollout.vllm.server import VLLMServer, healthy
from grpo.types import Prompt, Sampling

pytestmark = pytest.mark.slow

MAX_RESTARTS = ServerSettings().max_restarts

HEALTHY = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

print("here I am", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


# The first completion stops the whole process (SIGSTOP); a later start answers.
WRITES = """
import http.server, json, os, pathlib, signal, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({})

    def do_POST(self):
        first = pathlib.Path(sys.argv[1], "first")
        if not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)  # threads stop one after the other: this one would answer first
        self.answer({"choices": [{"text": "4", "finish_reason": "stop"}]})

    def answer(self, what):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(what).encode())

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""


def stand_in(folder: Path) -> VLLMServer:
    return VLLMServer([sys.executable, "-c", HEALTHY], os.environ, ServerSettings(), folder / "server.log")


def kill(server: VLLMServer) -> None:
    assert server._process is not None
    for process in psutil.Process(server._process.pid).children(recursive=True):
        process.kill()
        process.wait()


def test_a_server_that_stands_still_is_started_again_long_before_a_request_would_time_out(tmp_path: Path) -> None:
    async def run() -> tuple[Answer | Failed, int]:
        server = VLLMServer(
            [sys.executable, "-c", WRITES, str(tmp_path)], os.environ, ServerSettings(), tmp_path / "log"
        )
        async with OwnServer(server, health_timeout=9) as own:  # of a busy machine, too
            served = Served("fake", None, "")
            async with EvalClient([own.url], served, 600, own.restart, (), own.watch) as client:
                return await client.complete(Prompt("p", "p", (1,), "2"), Sampling(max_tokens=4)), server.restarts

    started = time.monotonic()
    answer, restarts = asyncio.run(run())
    assert isinstance(answer, Answer)
    assert restarts == 1
    assert time.monotonic() - started < 300  # half of what a request may take


def test_a_server_that_died_is_started_again_until_it_has_died_too_often(tmp_path: Path) -> None:
    async def run() -> list[str]:
        server, notes = stand_in(tmp_path), list[str]()
        async with OwnServer(server, notes.append) as own:
            for n in range(1, MAX_RESTARTS + 1):
                kill(server)
                (url,) = await own.restart(ServerLostError("it is gone"))
                assert url == own.url
                assert await healthy(url)
                assert server.restarts == n
            with pytest.raises(RolloutError, match=r"(?s)died 4 times .*is 3\)\. it is gone\nLog: .*here I am"):
                await own.restart(ServerLostError("it is gone"))
        assert not server.alive()
        assert not await healthy(own.url)
        return notes

    notes = asyncio.run(run())
    assert notes == ["the vLLM server died and was started again: it is gone"] * MAX_RESTARTS
