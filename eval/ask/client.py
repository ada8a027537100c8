"""Asks OpenAI-compatible servers for one completion at a time: each is stored, and asked for again, by itself.

    a prompt with token ids      /v1/completions, the ids as they are: the server adds nothing and drops nothing
    one without, of a chat       /v1/chat/completions: the server applies its own template
    one without, of a text       /v1/completions, the text

The ids are those that training would send (grpo/prompts.py), so that the same weights see the same input. A vLLM
server takes its defaults (top_k, repetition_penalty ...) from the model's generation_config.json; here they are
turned off, or a "greedy" answer would not be what the model finds most likely, nor what training samples.

Of what fails, each attempt is repeated after a growing delay. What then still fails is a `Failed` with its cause.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import aiohttp

from eval.ask.tokens import Count, find_way, prompt_of, read_json
from eval.types import Failure
from grpo.record.atomic import readable
from grpo.rollout import access
from grpo.rollout.engine import RolloutError, ServerLostError
from grpo.rollout.vllm.endpoints import Endpoints, RequestRefusedError
from grpo.rollout.vllm.supervision import Lost, unless_lost
from grpo.types import Prompt, Sampling

logger = logging.getLogger(__name__)

RETRY_DELAYS = (0.5, 2.0, 8.0, 30.0)  # seconds; of a server that somebody else may be restarting
GIVE_UP = 16  # requests in a row that got no completion, after which no other will get one
PROBE_SECONDS = 10.0
NEUTRAL = ("vllm", "sglang")  # owners, in /v1/models, of servers that take the parameters of `request`
KEY_VARIABLE = "OPENAI_API_KEY"

Restart = Callable[[ServerLostError], Awaitable[list[str]]]  # -> the new servers; RolloutError: it cannot be done


class MissingChoicesError(ValueError):
    """The server's answer holds no completion."""


class GivenUpError(RuntimeError):
    """The server began a completion and gave it up."""


class ServedError(ValueError):
    """The server does not serve the model that was asked for."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says about a model. Example: Served("HuggingFaceTB/SmolLM2-135M-Instruct", 8192, "vllm")"""

    name: str
    context: int | None  # tokens of prompt and completion, where it says so
    owner: str  # what kind of server it is, where it says so


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote. Example: Answer("so 18</think><answer>18</answer>", tokens=12, finish_reason="stop")"""

    text: str
    tokens: int | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A completion that never came. Example: Failed("timeout", "no answer within 600 s, 5 times")"""

    cause: Failure
    reason: str


class Asked(Protocol):
    """What benchmarks ask: servers, or a model in this process."""

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed: ...

    async def count(self, prompt: Prompt) -> int | None: ...


class EvalClient:
    """Completions of one model, from any number of servers that serve it.

        async with EvalClient(["http://127.0.0.1:8000"], served, timeout=600) as client:
            answer = await client.complete(prompt, Sampling(max_tokens=512, temperature=0.0))

    Args:
        timeout: seconds that one attempt may take.
        restart: starts servers that have died again; None: they are not ours.
        delays: seconds before the second attempt at a request, the third and so on.
        watch: what is done once the present servers are lost, for those that are ours.
    """

    def __init__(
        self,
        urls: Sequence[str],
        served: Served,
        timeout: float,
        restart: Restart | None = None,
        delays: Sequence[float] | None = None,
        watch: Callable[[], Lost] | None = None,
    ) -> None:
        self._watch = watch
        self._lost: Lost | None = None
        self._urls, self._served, self._timeout = [base(url) for url in urls], served, timeout
        self._restart, self._delays = restart, RETRY_DELAYS if delays is None else delays
        self._stack = AsyncExitStack()
        self._endpoints: Endpoints | None = None
        self._connections = 0  # how often servers were connected to; tells whether a failure was of the present ones
        self._unanswered = 0  # requests in a row
        self._counting: dict[bool, Count | None] = {}  # of a chat's prompts, and of texts
        self._server_lock = asyncio.Lock()  # held while servers are probed or restarted

    async def __aenter__(self) -> EvalClient:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Answer | Failed:
        """One completion, or why there is none.

        Raises ServerLostError if no server is left to ask, or GIVE_UP requests in a row got no completion;
        RolloutError if the servers do not let us in, or serve no such model.
        """
        path, body = request(prompt, sampling, self._served)
        while True:
            async with self._server_lock:
                endpoints, connection, lost = self._endpoints, self._connections, self._lost
            assert endpoints is not None, "use it as a context manager"
            try:
                asking = endpoints.post(path, body, read=read_chat if "messages" in body else read_completion)
                answer = await (asking if lost is None else unless_lost(asking, lost))
            except RequestRefusedError as error:
                return Failed("refused", str(error)[:500])
            except (ServerLostError, TimeoutError, GivenUpError, ValueError) as error:
                failed = self._failed(error)
                if isinstance(error, ServerLostError | TimeoutError) and await self._recover(failed, connection):
                    continue
                self._count(failed)
                return failed
            self._unanswered = 0
            return answer

    async def count(self, prompt: Prompt) -> int | None:
        """Tokens of a prompt as the server would read it; None where it does not say. Raises RolloutError if lost."""
        assert self._endpoints is not None, "use it as a context manager"
        endpoints, chat = self._endpoints, "messages" in prompt_of(prompt)
        async with self._server_lock:
            if chat not in self._counting:
                self._counting[chat] = await find_way(partial(_post_once, self._urls[0]), self._served.name, prompt)
        if (way := self._counting[chat]) is None:
            return None
        try:
            return await way(partial(endpoints.post, read=read_json), self._served.name, prompt)
        except (ServerLostError, TimeoutError) as error:
            raise ServerLostError(f"the server was lost while it counted the prompts' tokens: {error}") from error
        except (RequestRefusedError, RolloutError):  # such as a prompt that is longer than it takes
            return None

    def _failed(self, error: Exception) -> Failed:
        if isinstance(error, TimeoutError):
            return Failed("timeout", f"no answer within {self._timeout:g} s, {len(self._delays) + 1} times")
        if isinstance(error, ValueError):
            return Failed("missing" if isinstance(error, MissingChoicesError) else "malformed", str(error)[:500])
        return Failed("server", str(error)[:500])

    def _count(self, failed: Failed) -> None:
        self._unanswered += 1
        if self._unanswered >= GIVE_UP:
            raise ServerLostError(f"{self._unanswered} requests in a row got no completion. The last: {failed.reason}")

    async def _recover(self, failed: Failed, connection: int) -> bool:
        """Whether to ask again; False if the servers are well, so that the request itself may be at fault."""
        async with self._server_lock:
            if connection != self._connections:
                return True  # other servers in the meantime
            stands_still = self._lost is not None and self._lost.done()  # its API may answer all the same
            well = [not stands_still and one for one in await asyncio.gather(*map(alive, self._urls))]
            if all(well):
                return False
            if any(well):
                logger.warning("going on without a server that is lost: %s", failed.reason)
                self._urls = [url for url, is_well in zip(self._urls, well, strict=True) if is_well]
            elif self._restart is not None:
                self._urls = await self._restart(ServerLostError(failed.reason))
            else:
                raise ServerLostError(failed.reason)
            await self._connect()
            return True

    async def _connect(self) -> None:
        """Called with the lock held. Requests to the servers before go on: some of those may be well."""
        transient = (ServerLostError, TimeoutError, GivenUpError, ValueError)
        hint = "; expected an OpenAI-compatible server, and a model that it serves"
        endpoints = Endpoints(self._urls, self._timeout, self._delays, transient, hint, headers())
        self._endpoints = await self._stack.enter_async_context(endpoints)
        self._connections += 1
        self._lost = self._watch() if self._watch is not None else None


def request(prompt: Prompt, sampling: Sampling, served: Served) -> tuple[str, dict[str, Any]]:
    """The path and the body that ask for one completion. Never a seed: vLLM's CPU engine dies of one (FACTS)."""
    body: dict[str, Any] = {
        "model": served.name,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if served.owner in NEUTRAL:
        body |= {"top_k": sampling.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
    asked = prompt_of(prompt)
    return "/v1/chat/completions" if "messages" in asked else "/v1/completions", body | asked


def read_completion(content: bytes) -> Answer:
    """The answer of /v1/completions. Raises MissingChoicesError, GivenUpError, or ValueError if it is not one."""
    return _read(content, lambda choice: choice["text"])


def read_chat(content: bytes) -> Answer:
    """The answer of /v1/chat/completions; a message without content is an empty answer. Raises as above."""
    return _read(content, lambda choice: choice["message"]["content"] or "")


def _read(content: bytes, text_of: Callable[[Any], Any]) -> Answer:
    try:
        answer = json.loads(content)
        if answer["choices"] == []:
            raise MissingChoicesError("the answer has no choices")
        choice = answer["choices"][0]
        text, finish_reason = text_of(choice), choice.get("finish_reason")
        tokens = (answer.get("usage") or {}).get("completion_tokens")
    except (KeyError, TypeError, IndexError, AttributeError, json.JSONDecodeError) as error:
        shown = content[:200].decode(errors="replace")
        raise ValueError(f"not an answer of an OpenAI-compatible server ({error!r}): {shown}") from error
    if not isinstance(text, str):
        raise ValueError(f"the completion's text is {text!r}, expected a string")
    if finish_reason in ("abort", "error"):
        raise GivenUpError(f"the server gave the completion up (finish_reason {finish_reason!r})")
    return Answer(readable(text), tokens if isinstance(tokens, int) else None, finish_reason)


def base(url: str) -> str:
    """The address without the /v1 that OpenAI's own clients are given."""
    return url.rstrip("/").removesuffix("/v1")


def headers() -> dict[str, str]:
    """With the token of a server of ours, if there is one, else with the key of anybody's."""
    key = os.environ.get(KEY_VARIABLE)
    return access.headers() or ({"Authorization": f"Bearer {key}"} if key else {})


async def alive(url: str) -> bool:
    """Whether the server answers; vLLM's /health is 503 when its engine is dead, other servers may not have one."""
    try:
        async with _probe() as session, session.get(f"{url}/health") as answer:
            return answer.status < 500
    except (aiohttp.ClientError, TimeoutError):
        return False


async def find_served(url: str, name: str | None = None) -> Served:
    """What the server at `url` says about the model `name`, or about the only one that it serves.

    Raises RolloutError if it does not answer; ServedError if it does not serve `name`, or `name` is needed.
    """
    models = await _models(base(url))
    if models is None:  # a server without a list
        if name is None:
            raise ServedError(f"{url} does not say which models it serves; name one with --model")
        return Served(name, None, "")
    names = list(models)
    if name is None and len(names) != 1:
        raise ServedError(f"{url} serves {len(names)} models; name one with --model: {', '.join(names[:10])}")
    if name is not None and name not in models:
        raise ServedError(f"{url} does not serve {name!r}; it serves {', '.join(names[:10]) or 'nothing'}")
    model = models[name or names[0]]
    context = model.get("max_model_len")
    return Served(name or names[0], context if isinstance(context, int) else None, str(model.get("owned_by", "")))


async def _models(url: str) -> dict[str, dict[str, Any]] | None:
    """Name -> what /v1/models says about it; None where there is no such list."""
    try:
        async with _probe() as session, session.get(f"{url}/v1/models") as answer:
            if answer.status in (401, 403):
                raise RolloutError(
                    f"{url} does not let us in ({answer.status}); it takes the key in {KEY_VARIABLE}, "
                    f"or, if `zero serve` started it, the token in {access.TOKEN_VARIABLE}"
                )
            if answer.status >= 500:
                raise RolloutError(f"{url} answered {answer.status}: {(await answer.text())[:500]}")
            listed = json.loads(await answer.read())["data"] if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise RolloutError(f"{url} does not answer ({error!r}); start the server, or correct --base-url") from error
    except (ValueError, KeyError, TypeError):
        return None
    return {str(model["id"]): model for model in listed} if listed is not None else None


async def _post_once(url: str, path: str, body: Mapping[str, object]) -> Any:
    """The answer's JSON; None for whatever else happens: it is asked to find out what the server can do."""
    try:
        async with _probe() as session, session.post(f"{url}{path}", json=body) as answer:
            return read_json(await answer.read()) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None


def _probe() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PROBE_SECONDS), headers=headers())
