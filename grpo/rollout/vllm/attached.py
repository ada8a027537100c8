"""Whether what listens at `rollout.server.urls` can be sampled from, asked before a model is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.access import LEASE, headers, refused
from grpo.rollout.sync.control import parse_version
from grpo.rollout.vllm.client import GENERATE

CONFIG = "/server_info?config_format=json"
SECONDS = 30.0  # that one answer may take; the first /server_info looks at the whole machine
START = "start it with `zero serve MODEL`, or correct rollout.server.urls"


class AttachedError(ValueError):
    """A server cannot be used. One message: what is there, what was expected, what to do."""


async def check_attached(rollout: RolloutSettings, model: ModelSettings, length: int, backend: str | None) -> None:
    """Ask every server of `rollout.server.urls` what it is.

    Args:
        length: tokens of the longest sequence that it will be asked for.
        backend: of the weight transfer that it must take part in; None: it is sent no weights.

    Raises AttachedError on the first that is no vLLM server for this recipe.
    """
    async with _session() as http:
        for url in rollout.server.urls:
            await _check_model(_Server(url, http), model.path, length)
            if backend is not None:
                await _check_control(_Server(url, http), model, backend)
                await _check_adapters(_Server(url, http), model, rollout)


@dataclass(frozen=True, slots=True)
class Size:
    """What a server decodes at once: `sequences` on each of its data-parallel replicas."""

    sequences: int
    replicas: int


async def size_of(url: str) -> Size | None:
    """The size of the server at `url`; None if it does not say."""
    async with _session() as http:
        try:
            config = await _Server(url, http).read(CONFIG, "vllm_config")
            return Size(
                int(config["scheduler_config"]["max_num_seqs"]), int(config["parallel_config"]["data_parallel_size"])
            )
        except (AttachedError, KeyError, TypeError, ValueError):
            return None


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS), headers=headers())


class _Server:
    """Reads what a server says, and says what is wrong with it."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self._http = url, http

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Status and body of its answer."""
        try:
            async with self._http.get(f"{self.url.rstrip('/')}{path}") as answer:
                status, content = answer.status, await answer.read()
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:  # ValueError: no url
            raise AttachedError(f"{self.url} does not answer as a vLLM server ({error!r}); {START}") from error
        if status == 401:
            raise AttachedError(refused(self.url))
        return status, content

    async def has(self, path: str) -> bool:
        return (await self.ask(path))[0] != 404  # a path that takes POST answers GET with another error

    async def read(self, path: str, *keys: str | int) -> Any:
        """What lies at `keys` in the JSON that it answers."""
        status, answer = await self.ask(path)
        try:
            found = json.loads(answer) if status == 200 else {}
            for key in keys:
                found = found[key]
            return found
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise AttachedError(
                f"{self.url} answers {path} with {status} {answer[:100]!r}, expected "
                f"{'.'.join(map(str, keys))} in JSON, as a vLLM server has it; {START}"
            ) from error


def _names_of(path: str) -> set[str]:
    """What a server may call the model at `path`: as the recipe names it, in full, or by the folder alone."""
    return {path, str(Path(path).resolve()), Path(path).name}


async def _check_model(server: _Server, path: str, length: int) -> None:
    name = str(await server.read("/v1/models", "data", 0, "id"))
    model = await server.read("/v1/models", "data", 0)
    root = str(model.get("root") or name)
    if not {name, root, Path(name).name, Path(root).name} & _names_of(path):
        raise AttachedError(
            f"{server.url} serves {name}{f', which is {root}' if root != name else ''}; expected the recipe's model, "
            f"{path}: start it with `zero serve {path}`, or set model.path to what it serves"
        )
    longest = model.get("max_model_len")
    if isinstance(longest, int) and longest < length:
        raise AttachedError(
            f"{server.url} takes sequences of {longest} tokens, expected {length} (rollout.max_prompt_tokens + "
            "rollout.max_tokens); reduce these, or start it for longer ones"
        )
    if not await server.has(GENERATE):
        raise AttachedError(
            f"{server.url} has no {GENERATE}, which takes and gives tokens; start it with `zero serve {path}`, or "
            "`vllm serve` and --enable-scale-out"
        )


async def _check_control(server: _Server, model: ModelSettings, backend: str) -> None:
    """That it takes our weights, and gives log-probs of the distribution that it samples from."""
    if not await server.has("/weight_info"):
        raise AttachedError(
            f"{server.url} has no control plane that takes weights (/weight_info); start it with "
            f"`zero serve {model.path}`, or with VLLM_SERVER_DEV_MODE=1"
        )
    if not await server.has(LEASE):
        raise AttachedError(
            f"{server.url} has no {LEASE}, which says whose run it belongs to; start it with "
            f"`zero serve {model.path}`, or with --middleware grpo.rollout.vllm.guard.Guard"
        )
    version = await server.read("/weight_info", "weight_version")
    try:
        parse_version(str(version))
    except ValueError as error:
        raise AttachedError(
            f"{server.url} serves weights {version!r}, expected a number, or default: something else updates it; "
            f"start one for this run with `zero serve {model.path}`"
        ) from error
    for what, keys, expected in (
        ("--weight-transfer-config backend", ("weight_transfer_config", "backend"), backend),
        ("--logprobs-mode", ("model_config", "logprobs_mode"), "processed_logprobs"),
        ("--dtype", ("model_config", "dtype"), model.dtype),
    ):
        found = str(await server.read(CONFIG, "vllm_config", *keys)).removeprefix("torch.")
        if found != expected:
            raise AttachedError(
                f"{server.url} runs with {what} {found}, expected {expected}; start it with `zero serve {model.path}`"
            )


async def _check_adapters(server: _Server, model: ModelSettings, rollout: RolloutSettings) -> None:
    """That it serves as many adapters, of such a rank, as the run sends; none where weights come merged."""
    config = (await server.read(CONFIG, "vllm_config")).get("lora_config")
    if model.lora is None or model.lora.sync != "adapter":
        if config is not None:
            raise AttachedError(
                f"{server.url} was started for adapters (--enable-lora), and this run sends whole weights; start it "
                "with `zero serve` and this recipe, or set model.lora.sync: adapter"
            )
        return
    wanted = {"max_loras": rollout.adapters_served, "max_lora_rank": model.lora.r}
    found = {key: int(config.get(key) or 0) for key in wanted} if isinstance(config, dict) else {}
    if any(found.get(key, 0) < least for key, least in wanted.items()):
        raise AttachedError(
            f"{server.url} was started with {found or 'no adapters'}, expected at least {wanted} for "
            "model.lora.sync: adapter; start it with `zero serve` and this recipe, or use sync: merged"
        )
