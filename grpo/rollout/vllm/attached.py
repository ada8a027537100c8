"""Whether what listens at `rollout.server.urls` can be sampled from, asked before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from grpo.config import ModelSettings, RolloutSettings
from grpo.rollout.sync.control import parse_version
from grpo.rollout.vllm.client import GENERATE

SECONDS = 30.0  # that one answer may take; the first /server_info looks at the whole machine
START = "start it with `zero serve MODEL`, or correct rollout.server.urls"


class AttachedError(ValueError):
    """A server cannot be used. One message: what is there, what was expected, what to do."""


def check_attached(rollout: RolloutSettings, model: ModelSettings, length: int, backend: str | None) -> None:
    """Ask every server of `rollout.server.urls` what it is.

    Args:
        length: tokens of the longest sequence that it will be asked for.
        backend: of the weight transfer that it must take part in; None: it is sent no weights.

    Raises AttachedError on the first that is no vLLM server for this recipe.
    """
    for url in rollout.server.urls:
        with httpx.Client(base_url=url.rstrip("/"), timeout=SECONDS, trust_env=False) as http:
            _check_model(_Server(url, http), model.path, length)
            if backend is not None:
                _check_control(_Server(url, http), model, backend)


class _Server:
    """Reads what a server says, and says what is wrong with it."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url, self._http = url, http

    def ask(self, path: str) -> httpx.Response:
        try:
            return self._http.get(path)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AttachedError(f"{self.url} does not answer as a vLLM server ({error!r}); {START}") from error

    def read(self, path: str, *keys: str | int) -> Any:
        """What lies at `keys` in the JSON that it answers."""
        answer = self.ask(path)
        try:
            answer.raise_for_status()
            found = answer.json()
            for key in keys:
                found = found[key]
            return found
        except (httpx.HTTPStatusError, ValueError, KeyError, IndexError, TypeError) as error:
            raise AttachedError(
                f"{self.url} answers {path} with {answer.status_code} {answer.content[:100]!r}, expected "
                f"{'.'.join(map(str, keys))} in JSON, as a vLLM server has it; {START}"
            ) from error


def _check_model(server: _Server, path: str, length: int) -> None:
    name = str(server.read("/v1/models", "data", 0, "id"))
    model = server.read("/v1/models", "data", 0)
    root = str(model.get("root") or name)
    if not {name, root, Path(name).name, Path(root).name} & {path, str(Path(path).resolve()), Path(path).name}:
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
    if server.ask(GENERATE).status_code == httpx.codes.NOT_FOUND:  # a path that takes POST answers GET otherwise
        raise AttachedError(
            f"{server.url} has no {GENERATE}, which takes and gives tokens; start it with `zero serve {path}`, or "
            "`vllm serve` and --enable-scale-out"
        )


def _check_control(server: _Server, model: ModelSettings, backend: str) -> None:
    """That it takes our weights, and gives log-probs of the distribution that it samples from."""
    if server.ask("/weight_info").status_code == httpx.codes.NOT_FOUND:
        raise AttachedError(
            f"{server.url} has no control plane that takes weights (/weight_info); start it with "
            f"`zero serve {model.path}`, or with VLLM_SERVER_DEV_MODE=1"
        )
    version = server.read("/weight_info", "weight_version")
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
        found = str(server.read("/server_info?config_format=json", "vllm_config", *keys)).removeprefix("torch.")
        if found != expected:
            raise AttachedError(
                f"{server.url} runs with {what} {found}, expected {expected}; start it with `zero serve {model.path}`"
            )
