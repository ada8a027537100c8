"""What may listen at `rollout.server.urls`: everything but a vLLM server for the recipe is named in one message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from grpo.config import LoraSettings, ModelSettings, RolloutSettings, ServerSettings
from grpo.rollout.vllm.attached import AttachedError, check_attached
from recipes.command.main import main
from tests.fakes import serving

MODEL = ModelSettings(path="some/model")
LENGTH = 768


class Scripted:
    """Answers a GET of each path with the bytes, or the status, that `answers` has for it."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        self._app = web.Application()
        self._app.router.add_get("/{path:.*}", self._answer)

    async def __aenter__(self) -> Scripted:
        self._runner = web.AppRunner(self._app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        answer = self._answers.get(request.path, 404)
        if isinstance(answer, int):
            return web.Response(status=answer, text="because")
        return web.Response(body=answer if isinstance(answer, bytes) else json.dumps(answer).encode())


def vllm(**changes: Any) -> dict[str, Any]:
    """What a server for MODEL answers, as vLLM 0.32 does; `changes` of single facts."""
    said = {
        "id": "some/model",
        "root": "some/model",
        "length": LENGTH,
        "version": "default",
        "backend": "zero",
        "logprobs": "processed_logprobs",
        "dtype": "torch.bfloat16",
        "lora": None,
    } | changes
    config = {
        "model_config": {"logprobs_mode": said["logprobs"], "dtype": said["dtype"]},
        "weight_transfer_config": {"backend": said["backend"]},
        "lora_config": said["lora"],
    }
    return {
        "/v1/models": {"data": [{"id": said["id"], "root": said["root"], "max_model_len": said["length"]}]},
        "/inference/v1/generate": 405,
        "/zero/lease": {"holder": None, "seconds": 0.0},
        "/weight_info": {"weight_version": said["version"]},
        "/server_info": {"vllm_config": config},
    }


def without(path: str) -> dict[str, Any]:
    return {key: value for key, value in vllm().items() if key != path}


def check(answers: dict[str, Any], backend: str | None = "zero", model: ModelSettings = MODEL, **settings: Any) -> None:
    with serving(Scripted(answers)) as server:  # type: ignore[type-var]
        rollout = RolloutSettings(server=ServerSettings(urls=[server.url]), **settings)
        asyncio.run(check_attached(rollout, model, LENGTH, backend))


@pytest.mark.parametrize("changes", [{}, {"version": "7"}, {"id": "m", "root": "/srv/model"}, {"id": "model"}])
def test_a_server_for_the_recipe_is_taken(changes: dict[str, str]) -> None:
    check(vllm(**changes))


def test_a_server_for_adapters_is_taken_by_a_run_that_sends_adapters_and_by_no_other() -> None:
    lora = ModelSettings(path="some/model", lora=LoraSettings(r=16, sync="adapter"))
    fits = {"max_loras": 3, "max_lora_rank": 16}
    check(vllm(lora=fits), model=lora, max_staleness=1)
    for found in (None, fits | {"max_loras": 2}, fits | {"max_lora_rank": 8}):
        with pytest.raises(AttachedError, match=r"expected at least .*'max_loras': 3, 'max_lora_rank': 16"):
            check(vllm(lora=found), model=lora, max_staleness=1)
    with pytest.raises(AttachedError, match=r"was started for adapters .*and this run sends whole weights"):
        check(vllm(lora=fits))


def test_a_server_that_only_samples_needs_no_control_plane() -> None:
    answers = vllm()
    del answers["/weight_info"], answers["/server_info"]
    check(answers, backend=None)
    with pytest.raises(AttachedError, match=r"no control plane that takes weights .*VLLM_SERVER_DEV_MODE=1"):
        check(answers)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({}, r"answers /v1/models with 404 b'because', expected data\.0\.id in JSON"),
        ({"/v1/models": b"\xff\xfe\x00"}, r"answers /v1/models with 200 b'\\xff\\xfe\\x00', expected"),
        ({"/v1/models": b"<html><body>Welcome to nginx"}, r"with 200 b'<html>.*expected data\.0\.id in JSON"),
        ({"/v1/models": [1, 2]}, "expected data.0.id in JSON"),
        ({"/v1/models": {"data": []}}, "expected data.0.id in JSON"),
        ({"/v1/models": {"data": ["name"]}}, "expected data.0.id in JSON"),
        ({"/v1/models": 401}, r"demands a token \(401\); set ZERO_SERVER_TOKEN to the one that the server was"),
        (
            without("/zero/lease"),
            "has no /zero/lease, which says whose run it belongs to; start it with `zero serve some",
        ),
        (vllm(id="other/thing", root="other/thing"), "serves other/thing; expected the recipe's model, some/model"),
        (vllm(id="name", root="/srv/thing"), "serves name, which is /srv/thing; expected the recipe's model"),
        (vllm(length=500), r"takes sequences of 500 tokens, expected 768"),
        (vllm() | {"/inference/v1/generate": 404}, "has no /inference/v1/generate.*--enable-scale-out"),
        (vllm() | {"/weight_info": b"\xff"}, "expected weight_version in JSON"),
        (vllm(version="v-one"), "serves weights 'v-one', expected a number, or default"),
        (
            vllm() | {"/server_info": {"vllm_config": "model='x'"}},
            "expected vllm_config.weight_transfer_config.backend",
        ),
        (vllm(backend="nccl"), "backend nccl, expected zero"),
        (vllm(logprobs="raw_logprobs"), "--logprobs-mode raw_logprobs, expected processed_logprobs"),
        (vllm(dtype="torch.float32"), "--dtype float32, expected bfloat16"),
    ],
)
def test_whatever_else_answers_is_named_with_what_was_expected(answers: dict[str, Any], message: str) -> None:
    with pytest.raises(AttachedError, match=message):
        check(answers)


@contextmanager
def no_http() -> Iterator[str]:
    """A server that answers bytes of another protocol."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x15\x03\x01\x00\x02\x02\x16 SSH-2.0\r\n")
        writer.close()

    class Listener:
        async def __aenter__(self) -> Listener:
            self._server = await asyncio.start_server(answer, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
            return self

        async def __aexit__(self, *_: object) -> None:
            self._server.close()

    with serving(Listener()) as listener:  # type: ignore[type-var]
        yield listener.url


def command(url: str, *arguments: str) -> str:
    """What `zero` says of a recipe with that url; the model is never loaded, and no folder is made."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("grpo.parts.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
        options = ["--set", f"rollout.server.urls=[{url}]"]
        result = CliRunner().invoke(main, [arguments[0], "tiny_arithmetic_cpu", *options, *arguments[1:]])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


def test_run_and_filter_refuse_it_with_exit_code_2_before_a_model_is_loaded(tmp_path: Path) -> None:
    run = ("run", "--output", str(tmp_path / "out"))
    sift = ("filter", "--output", str(tmp_path / "out.jsonl"))
    with no_http() as url:
        for arguments in (run, sift):
            assert f"error: {url} does not answer as a vLLM server" in command(url, *arguments)
    assert "error: http://127.0.0.1:9 does not answer as a vLLM server" in command("http://127.0.0.1:9", *run)
    assert "got '127.0.0.1:8000', expected an address such as http://127.0.0.1:8000" in command("127.0.0.1:8000", *run)
    with serving(Scripted(vllm(id="other", root="other"))) as server:  # type: ignore[type-var]
        assert "serves other; expected the recipe's model" in command(server.url, *sift)
    assert list(tmp_path.iterdir()) == []
