"""`zero serve RECIPE --host`, a real server: nothing without its token, one run at a time. One server start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from grpo.rollout.access import TOKEN_VARIABLE
from tests import forked

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
ZERO = [sys.executable, "-c", "from recipes.command.main import main; main()"]
TOKEN = "a-token-that-no-log-may-hold"
SMALL = ["rollout.group_size=8", "rollout.prompts_per_step=8", "eval.problems=20", "train.eval_every=0"]
BESIDE_OPENAPI = (
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/oauth2-redirect",
    "/metrics",
    "/zero/lease",
    "/",
    "//health",
)


def environment(token: str | None = TOKEN, **more: str) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE}
    return env | {"PYTHONPATH": str(ROOT), **more} | ({TOKEN_VARIABLE: token} if token else {})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its url, as this machine reaches it, and its log."""
    cache = tmp_path_factory.mktemp("cache")
    line = [*ZERO, "serve", "tiny_arithmetic_cpu", "--host", "0.0.0.0", "--port", "0"]
    env = environment(XDG_CACHE_HOME=str(cache))
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert next(process.stdout).startswith("loading ")
        said = [next(process.stdout), next(process.stdout, "it ended")]
        tree = psutil.Process(process.pid).children(recursive=True)
        assert " at http://" in said[1], said
        yield said[1].partition(" at ")[2].partition(",")[0], Path(said[0].rpartition("log: ")[2].strip())
        process.terminate()
        assert TOKEN not in "".join([*said, process.stdout.read()])
    assert psutil.wait_procs(tree, timeout=120)[1] == []


def status(url: str, method: str = "GET", token: str | None = None, headers: dict[str, str] | None = None) -> int:
    fields = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
    data = b"{}" if method in ("POST", "PUT", "PATCH") else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **fields}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=240) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def read(url: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=240) as answer:
        return json.load(answer)


def test_every_path_of_the_served_port_is_refused_without_the_token_and_with_a_wrong_one(served) -> None:
    url, log = served
    routes = read(f"{url}/openapi.json")["paths"]
    assert {"/pause", "/update_weights", "/finish_weight_update", "/weight_info", "/inference/v1/generate"} <= set(
        routes
    )
    paths = {re.sub(r"\{.*?\}", "x", path) for path in (*routes, *BESIDE_OPENAPI)}
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eA==",
    }
    for path in sorted(paths):
        for token in (None, TOKEN + "x"):
            for method in ("GET", "POST", "OPTIONS", "HEAD", "DELETE"):
                assert status(f"{url}{path}", method, token) == 401, (method, path)
            assert status(f"{url}{path}", "GET", token, upgrade) == 401, path
    for path in ("/health", "/metrics", "/docs", "/weight_info", "/v1/models"):
        assert status(f"{url}{path}", "GET", TOKEN) == 200, path
    shown = json.dumps(read(f"{url}/server_info?config_format=json"))
    assert "weight_transfer_config" in shown
    assert TOKEN not in shown
    assert TOKEN not in log.read_text()
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it ended
            assert TOKEN not in " ".join(process.cmdline())


def test_a_second_run_on_the_server_of_a_first_is_refused_and_the_first_ends_well(served, tmp_path: Path) -> None:
    url, _ = served
    overrides = [part for one in [*SMALL, f"rollout.server.urls=[{url}]"] for part in ("--set", one)]

    def line(folder: str, *more: str) -> list[str]:
        return [*ZERO, "run", "tiny_arithmetic_cpu", *overrides, "--output", str(tmp_path / folder), *more]

    closed = forked.run(line("no-token"), env=environment(None))
    assert closed.returncode == 2, closed.stderr
    assert f"demands a token (401); set {TOKEN_VARIABLE}" in closed.stderr

    log = (tmp_path / "log").open("w+")
    with forked.Popen(line("first", "--set", "train.steps=2000"), env=environment(), stdout=log, stderr=log) as first:
        metrics = tmp_path / "first" / "metrics.jsonl"
        run_log, deadline = tmp_path / "first" / "logs" / "run.log", time.monotonic() + 300
        while not (run_log.exists() and "step 2" in run_log.read_text()):
            assert first.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        second = forked.run(line("second"), env=environment())
        assert first.poll() is None, "it ended before the second run was refused"
        assert second.returncode == 2, second.stderr
        assert re.search(rf"belongs to another run \(.*, process {first.pid}, {tmp_path}/first\)", second.stderr)
        steps = len(metrics.read_text().splitlines())
        while len(metrics.read_text().splitlines()) < steps + 3:  # it goes on
            assert first.poll() is None, Path(log.name).read_text()
            time.sleep(0.2)
        first.terminate()
        assert first.wait(300) == 143, Path(log.name).read_text()
    log.close()
    lines = [json.loads(text) for text in metrics.read_text().splitlines()]
    assert [one["step"] for one in lines] == list(range(1, len(lines) + 1))
    assert all(one["failed"] == 0 and one["logprob_diff"] < 1e-4 for one in lines if one["trained_tokens"])
    # The step that a stop ends may be recorded before its weights are sent.
    assert int(read(f"{url}/weight_info")["weight_version"]) in (len(lines) - 1, len(lines))
    assert read(f"{url}/zero/lease")["holder"] is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_an_evaluation_of_it_sends_the_token(served, tmp_path: Path) -> None:
    url, _ = served
    asked = ["--benchmark", "arithmetic", "--limit", "2", "--max-tokens", "40"]
    asked += ["--template", "{question}=<think>", "--instruction", ""]  # the recipe's, which fits its context
    line = [*ZERO, "eval", "--model", "tiny", "--base-url", url, *asked, "--output", str(tmp_path / "e")]
    done = forked.run(line, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    refused = forked.run([*line[:-1], str(tmp_path / "f")], env=environment("wrong"))
    assert refused.returncode != 0
    assert TOKEN_VARIABLE in refused.stderr
