"""Asks a running vLLM server for groups of completions.

One request a group, tokens in and tokens out: /inference/v1/generate answers with token ids, the sampled
tokens' log-probs and the weight version of each (vllm/entrypoints/scale_out/token_in_token_out/protocol.py).
"""

from __future__ import annotations

import base64
import io
import logging
from collections import Counter
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from grpo.rollout.access import headers
from grpo.rollout.engine import RolloutError
from grpo.rollout.sync.adapter import Adapter
from grpo.rollout.sync.control import parse_version
from grpo.rollout.vllm.endpoints import Endpoints, RequestRefusedError
from grpo.types import Completion, Group, Prompt, RolloutRequest, Sampling

logger = logging.getLogger(__name__)

RETRY_DELAYS = (0.2, 1.0)  # seconds before the second and the third attempt
NO_LOGPROB = -9999.0  # vLLM's word for "not a number"
GENERATE = "/inference/v1/generate"


class Decoder(Protocol):
    """The part of a transformers tokenizer that is needed here."""

    def decode(self, token_ids: Any, skip_special_tokens: bool) -> Any: ...


class RolloutClient:
    """Asks one server.

        async with RolloutClient("http://127.0.0.1:8000", tokenizer, timeout=600) as client:
            group = await client.group(request)

    `timeout`: seconds that one attempt at a group may take. `run`: the one that asks, where it holds a lease.
    """

    def __init__(self, url: str, tokenizer: Decoder, timeout: float, run: str = "") -> None:
        hint = "; start it with `zero serve MODEL`, or `vllm serve` and --enable-scale-out"
        self._endpoints = Endpoints([url], timeout, RETRY_DELAYS, hint=hint, headers=headers(run))
        self._tokenizer = tokenizer

    async def __aenter__(self) -> RolloutClient:
        await self._endpoints.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endpoints.__aexit__()

    async def group(self, request: RolloutRequest, adapter: Adapter | None = None) -> Group:
        """The completions of one prompt, by one request; what did not come is counted by cause in `failures`.

        Causes: timeout, refused (the server rejects the request), aborted, malformed, missing.
        Raises ServerLostError if the server does not answer, its engine is dead, or it belongs to another run;
        RolloutError if the endpoint is closed.
        """
        if request.sampling.temperature == 0 and request.n != 1:
            raise ValueError(f"greedy sampling gives one completion, got n={request.n}; use n=1 or a temperature > 0")
        body: dict[str, Any] = {
            "token_ids": list(request.prompt.token_ids),
            "sampling_params": sampling_params(request.sampling, request.n),
        }
        if adapter is not None:
            body["model"] = adapter.name
        try:
            answer: Any = await self._endpoints.post(GENERATE, body, request.n)
            completions, failures = read_answer(answer, request, self._tokenizer, adapter)
        except TimeoutError:
            completions, failures = [], Counter(timeout=request.n)
        except RequestRefusedError as error:
            logger.warning("%s", error)
            completions, failures = [], Counter(refused=request.n)
        except ValueError:  # not JSON
            completions, failures = [], Counter(malformed=request.n)
        return Group(request.prompt, tuple(completions), dict(failures))


def sampling_params(sampling: Sampling, n: int) -> dict[str, Any]:
    """vLLM's sampling parameters. Never a seed: with one, vLLM's CPU engine dies when a prefill is split."""
    return {
        "n": n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "logprobs": 0,  # of the sampled token alone
        "detokenize": False,
    }


def read_answer(
    answer: Any, request: RolloutRequest, tokenizer: Decoder, adapter: Adapter | None = None
) -> tuple[list[Completion], Counter[str]]:
    """The completions of a server's answer, and how many of those asked for are unusable, by cause.

    Raises RolloutError if the request asks for experts, and the server does not return them.
    """
    n = request.n
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list):
        return [], Counter(malformed=n)
    completions: list[Completion] = []
    failures: Counter[str] = Counter()
    for choice in choices[:n]:
        try:
            completion = read_choice(choice, tokenizer, adapter)
            if completion is not None and request.experts:
                completion = replace(completion, experts=read_experts(choice, request.prompt, completion))
        except (KeyError, TypeError, ValueError, IndexError):  # the server's JSON is not what it should be
            failures["malformed"] += 1
            continue
        if completion is None:
            failures["aborted"] += 1
        else:
            completions.append(completion)
    if len(choices) < n:
        failures["missing"] += n - len(choices)
    return completions, failures


def read_choice(choice: dict[str, Any], tokenizer: Decoder, adapter: Adapter | None = None) -> Completion | None:
    """One choice as a Completion, None if the server gave it up. Raises ValueError and its kin if malformed.

    The version of a token is that of the server's weights, or of the adapter, if the request named one.
    """
    reason = choice["finish_reason"]
    if reason in ("abort", "error"):
        return None
    if reason not in ("stop", "length"):
        raise ValueError(f"unknown finish_reason {reason!r}")
    token_ids = tuple(choice["token_ids"])
    content = choice["logprobs"]["content"]
    logprobs = tuple(float(entry["logprob"]) for entry in content)
    if not token_ids or [entry["token_id"] for entry in content] != list(token_ids):
        raise ValueError("log-probs and tokens do not belong together")
    if not all(NO_LOGPROB < logprob <= 1e-3 for logprob in logprobs):  # also refuses NaN; bf16 noise is allowed
        raise ValueError("a log-prob is not one")
    versions: list[int] = []
    for span in choice["weight_versions"]:
        if span["start"] != len(versions):
            raise ValueError(f"weight versions leave a gap at token {len(versions)}")
        versions += [parse_version(span["version"])] * (span["end"] - span["start"])
    if adapter is not None:
        versions = [adapter.version] * len(versions)
    return Completion(
        token_ids=token_ids,
        logprobs=logprobs,
        versions=tuple(versions),
        text=str(tokenizer.decode(token_ids, skip_special_tokens=True)),
        finish_reason=reason,
    )


def read_experts(choice: dict[str, Any], prompt: Prompt, completion: Completion) -> np.ndarray:
    """(tokens of prompt and completion but the last, L, K): a NumPy file in base64, as vLLM's protocol.py has it.

    Raises RolloutError if there are none, ValueError and its kin if malformed.
    """
    if choice.get("routed_experts") is None:
        raise RolloutError(
            "rollout.routing_replay: the server does not say which experts it used; start it with vLLM's "
            "--enable-return-routed-experts (on a GPU), use rollout.engine: transformers, or leave it out"
        )
    data = io.BytesIO(base64.b64decode(choice["routed_experts"], validate=True))
    found = np.lib.format.read_array(data, allow_pickle=False)
    expected = len(prompt.token_ids) + len(completion.token_ids) - 1
    if found.ndim != 3 or len(found) != expected or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"experts of {found.shape}, {found.dtype}; expected {expected} tokens, layers, experts")
    return found
