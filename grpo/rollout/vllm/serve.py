"""`zero serve`: a server in the foreground, for runs that are given its url."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from grpo.config import ModelError, ModelSettings, RolloutSettings, ServerSettings
from grpo.policy.folder import model_source
from grpo.rollout.access import HOW, AccessError, headers, token
from grpo.rollout.engine import RolloutError
from grpo.rollout.vllm.phases import said_phases
from grpo.rollout.vllm.placement import place
from grpo.rollout.vllm.server import HOST, VLLMServer, command_line, environment, pick_port


def serve(
    model_path: str,
    port: int = 8000,
    model: ModelSettings | None = None,
    rollout: RolloutSettings | None = None,
    log_file: Path | None = None,
    host: str = HOST,
    trainer_gpus: Sequence[int] = (),
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
    context: int | None = None,
    server: ServerSettings | None = None,
) -> None:
    """Run a server for `rollout.server.urls` in the foreground until `run` cancels it; it takes weight updates.

    It takes every GPU. Without settings: the checkpoint's own dtype, and as long a context as the model takes and the
    memory holds. The log goes to the user's cache, unless `log_file` says otherwise; it begins anew with each start.
    `context`: tokens of prompt and completion, in place of the model's own or of what `rollout` asks for; 0: the
    model's own, whatever `rollout` says. `server`: in place of rollout's.
    `host`: the address to listen on; one that other machines reach needs a token (grpo/rollout/access.py).

    Raises ModelError if there is no such model, AccessError if it would be open to all, RolloutError if the server
    cannot start or ends.
    """
    from grpo.policy.diffusion_kind import check_kind
    from grpo.policy.load import load_config, own_dtype

    model_path = model_source(model_path, "MODEL")
    if model is None:
        model = ModelSettings(path=model_path)
        model = model.model_copy(update={"dtype": own_dtype(load_config(model))})
    check_kind(load_config(model), model_path, "vllm")
    host = checked(host)
    port = pick_port(port, host)
    if log_file is None:
        log_file = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zero-rl" / f"serve-{port}.log"
        log_file.unlink(missing_ok=True)
    whole_context = context == 0 or (rollout is None and context is None)
    rollout = rollout or RolloutSettings()
    if context:
        rollout = rollout.model_copy(update={"max_prompt_tokens": 0, "max_tokens": _fitting(context, model)})
    if server is not None:
        rollout = rollout.model_copy(update={"server": server})
    settings = rollout.server.model_copy(update={"port": port, "replicas": 1})
    rollout = rollout.model_copy(update={"server": settings})
    where = place(settings, trainer_gpus, alone=True)
    command = command_line(model_path, model, rollout, where, whole_context)
    started = VLLMServer(command, environment(model_path, rollout, where), settings, log_file, host=host)
    run(_serve(started, f"{model_path} in {model.dtype}", log_file))


def _fitting(context: int, model: ModelSettings) -> int:
    """Raises ModelError if the model does not take so many tokens."""
    from grpo.policy.load import max_positions

    if context > (most := max_positions(model)):
        raise ModelError(f"--context {context}: {model.path} takes {most} tokens, give at most these")
    return context


def checked(host: str) -> str:
    """The numeric address of `host`. Raises AccessError if there is none, or it is an open one without a token."""
    try:
        address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise AccessError(f"--host {host}: {error.strerror}; expected an address of this machine") from error
    if not ipaddress.ip_address(str(address).partition("%")[0]).is_loopback and not token():
        raise AccessError(
            f"--host {host} lets other machines reach the server, and whoever reaches it can change its weights, so it "
            f"needs a token: {HOW}"
        )
    return str(address)


async def _serve(server: VLLMServer, what: str, log_file: Path) -> None:
    print(f"starting vLLM for {what}; log: {log_file}", flush=True)
    try:
        on_terminal = (lambda doing: print(f"  {doing}", flush=True)) if sys.stdout.isatty() else (lambda doing: None)
        async with said_phases(log_file.parent, on_terminal, log_file.name):
            await server.start()
        context = await context_length(server.url)
        print(f"serving {what} at {server.url}, context {context:,} tokens; Ctrl-C stops it", flush=True)
        while server.alive():  # noqa: ASYNC110  # a process that ends sets no event
            await asyncio.sleep(1)
        raise RolloutError(f"the vLLM server ended.\n{server.log_tail()}")
    finally:
        await server.stop()


async def context_length(url: str) -> int:
    """Tokens of prompt and completion that the server at `url` takes."""
    async with aiohttp.ClientSession(headers=headers()) as session, session.get(f"{url}/v1/models") as answer:
        return int((await answer.json())["data"][0]["max_model_len"])
