"""Our own server of an evaluation, with a small program in vLLM's place."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from eval.server import OwnServer
from grpo.config import ServerSettings
from grpo.rollout.engine import RolloutError, ServerLostError
from grpo.rollout.server import VLLMServer, healthy

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


def stand_in(folder: Path) -> VLLMServer:
    return VLLMServer([sys.executable, "-c", HEALTHY], os.environ, ServerSettings(), folder / "server.log")


def kill(server: VLLMServer) -> None:
    assert server._process is not None
    for process in psutil.Process(server._process.pid).children(recursive=True):
        process.kill()
        process.wait()


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
