"""The model that `zero eval` evaluates: served by a vLLM of ours, or by whoever listens at --base-url."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.ask.client import Asked, EvalClient, Served, ServedError, find_served
from eval.ask.run import Work
from eval.ask.server import RETRY_DELAYS, OwnServer
from grpo.config import ModelError, ModelSettings, RolloutSettings, ServerSettings
from grpo.diffusion import DiffusionSettings
from grpo.policy.folder import is_folder, model_source
from grpo.rollout.vllm.phases import said_phases
from grpo.types import Prompt
from recipes.errors import InputError, run_async
from recipes.schema.load import resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo.rollout.vllm.server import VLLMServer

ATTACHED_REQUESTS = 64  # at once, of a server that we know nothing about
CPU_SEQUENCES, GPU_SEQUENCES = 64, 256  # that an engine of our own server decodes at once
TIMEOUT = 600.0  # seconds that a request may take, and one more for each token that it asks for


class EvalError(InputError):
    """An evaluation that cannot be run as asked. One message: what is wrong, what was expected, what to do."""


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model that a server of ours is to serve."""

    name: str  # in the results
    settings: ModelSettings
    tokenizer: PreTrainedTokenizerBase
    masked: DiffusionSettings | None = None  # of a masked diffusion model, which is sampled in this process


@dataclass(frozen=True, slots=True)
class AttachedModel:
    """A model that somebody else's servers serve. Without a tokenizer, they apply their own chat template."""

    name: str
    urls: tuple[str, ...]
    served: Served
    tokenizer: PreTrainedTokenizerBase | None


def own_model(name: str, dtype: str | None) -> OwnModel:
    """The model of that folder or hub id, or the built-in `tiny`; `dtype` None is the checkpoint's own.

    Raises EvalError if there is none, or it is no language model that writes.
    """
    from grpo.policy.diffusion_kind import is_masked
    from grpo.policy.load import own_dtype

    path = resolve_model(name)
    config = _config(name, path)
    dtype = dtype or own_dtype(config)
    settings = ModelSettings.model_validate({"path": path, "dtype": dtype})
    masked = DiffusionSettings() if is_masked(config) else None
    return OwnModel(name, settings, _tokenizer(name, path), masked)


def attached_model(name: str | None, urls: Sequence[str]) -> AttachedModel:
    """The model that the servers at `urls` call `name`, or their only one, where `name` is a folder or None.

    Raises RolloutError if a server does not answer, EvalError if it does not serve the model.
    """
    folder = resolve_model(name) if name else None
    tokenizer = _tokenizer(str(name), folder) if folder and is_folder(folder) else None
    try:
        found = [run_async(find_served(url, None if tokenizer else name)) for url in urls]
    except ServedError as error:
        raise EvalError(f"--base-url {error}") from error
    if len(served_names := sorted({served.name for served in found})) > 1:
        raise EvalError(f"--base-url: the servers serve different models, {', '.join(served_names)}; ask one at a time")
    served = min(found, key=lambda one: one.context or float("inf"))
    return AttachedModel(name or served.name, tuple(urls), served, tokenizer)


def refuse_uncounted(model: AttachedModel, works: Sequence[Work]) -> None:
    """Raises EvalError where a server has a limit, but nobody counts what the prompts take of it."""
    prompts = [prompt for work in works for prompt in work.prompts if not prompt.token_ids][:1]
    if not prompts or model.served.context is None or run_async(_count(model, prompts[0])) is not None:
        return
    raise EvalError(
        f"--base-url {model.urls[0]}: the server takes {model.served.context} tokens of prompt and completion, and "
        "counts no prompts (/tokenize), so that what they leave for a completion is not known; give --model FOLDER, "
        "the folder of the model that it serves, whose tokenizer counts them"
    )


async def _count(model: AttachedModel, prompt: Prompt) -> int | None:
    async with EvalClient(model.urls, model.served, TIMEOUT) as client:
        return await client.count(prompt)


def _config(name: str, path: str) -> Any:
    from grpo.policy.load import load_config

    model_source(path, "--model")
    try:
        config = load_config(ModelSettings(path=path))
    except ModelError as error:
        raise _no_model(name, error.__cause__ or error) from error
    if not _writes(config):
        raise EvalError(
            f"--model {name} is {', '.join(config.architectures or [])} ({config.model_type}), not a causal or masked "
            "language model; expected one that writes text, such as LlamaForCausalLM"
        )
    return config


def _writes(config: Any) -> bool:
    """By what the checkpoint was saved as: transformers would load a bare BertModel as a language model, too."""
    from grpo.policy.diffusion_kind import CAUSAL, is_masked

    if config.is_encoder_decoder:
        return False
    named = config.architectures or []
    return not named or is_masked(config) or any(re.search(CAUSAL, one) for one in named)


def _tokenizer(name: str, path: str) -> PreTrainedTokenizerBase:
    from grpo.policy.load import load_tokenizer

    try:
        return load_tokenizer(ModelSettings(path=path))
    except ModelError as error:
        raise _no_model(name, error.__cause__ or error) from error


def _no_model(name: str, error: BaseException) -> EvalError:
    reason = str(error).strip().partition("\n")[0]
    return EvalError(f"--model {name} cannot be loaded: {reason}. Without a connection to the hub, give a local folder")


class Connection(NamedTuple):
    client: Asked
    in_flight: int  # requests to keep in flight
    context: int | None  # tokens that the model takes


@asynccontextmanager
async def connect(
    model: OwnModel | AttachedModel,
    works: Sequence[Work],
    folder: Path,
    concurrency: int | None,
    seconds: float | None,
    note: Callable[[str], None],
) -> AsyncIterator[Connection]:
    """A client of the servers that are there, or of one of our own, which runs for as long as the context does.

    `seconds` that one attempt at a request may take. Raises RolloutError if our server does not start; its log is
    `folder`/logs/server.log.
    """
    timeout = seconds or TIMEOUT + max(work.benchmark.protocol.max_tokens for work in works)
    if isinstance(model, AttachedModel):
        async with EvalClient(model.urls, model.served, timeout) as client:
            yield Connection(client, concurrency or ATTACHED_REQUESTS * len(model.urls), model.served.context)
        return
    if model.masked is not None:
        async with _in_process(model, works, concurrency, note) as connection:
            yield connection
        return
    log = folder / "logs" / "server.log"
    server, sequences = await asyncio.to_thread(own_server, model.settings, works, log, concurrency)
    note(f"starting vLLM for {model.name}; log: {log}")
    async with AsyncExitStack() as stack:
        async with said_phases(log.parent, lambda doing: note(f"  {doing}"), log.name):
            own = await stack.enter_async_context(OwnServer(server, note))
        served = await find_served(own.url)
        async with EvalClient([own.url], served, timeout, own.restart, RETRY_DELAYS, own.watch) as client:
            # A few more than run at once: whichever ends is followed without a pause.
            yield Connection(client, concurrency or sequences + sequences // 4 + 1, served.context)


@asynccontextmanager
async def _in_process(
    model: OwnModel, works: Sequence[Work], concurrency: int | None, note: Callable[[str], None]
) -> AsyncIterator[Connection]:
    """Of a masked diffusion model, on the first GPU where there is one."""
    import torch

    from eval.ask.in_process_diffusion import EngineClient
    from grpo.policy.load import max_positions
    from grpo.rollout.diffusion import DiffusionEngine

    assert model.masked is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sequences = concurrency or (GPU_SEQUENCES if device == "cuda" else CPU_SEQUENCES)
    note(f"{model.name} is a masked model: sampled in this process, {sequences} completions at once")
    engine = DiffusionEngine(model.settings, model.tokenizer, sequences, model.masked, device)
    async with EngineClient(engine, sequences) as client:
        yield Connection(client, 2 * sequences, max_positions(model.settings))


def own_server(
    settings: ModelSettings, works: Sequence[Work], log: Path, concurrency: int | None
) -> tuple[VLLMServer, int]:
    """The server, not started, and how many sequences it runs at once. It takes every GPU."""
    import torch

    from grpo.policy.load import max_positions
    from grpo.rollout.vllm.server import build

    gpus = list(range(torch.cuda.device_count()))
    asked = sum(len(work.prompts) * work.benchmark.protocol.samples for work in works)
    sequences = max(1, min(concurrency or (GPU_SEQUENCES if gpus else CPU_SEQUENCES), asked))
    lengths = [len(prompt.token_ids) for work in works for prompt in work.prompts]
    rollout = RolloutSettings(
        group_size=1,
        max_tokens=max(work.benchmark.protocol.max_tokens for work in works),
        max_prompt_tokens=max((length for length in lengths if length < max_positions(settings)), default=1),
        max_sequences=sequences,
        server=ServerSettings(gpus=gpus),
    )
    return build(settings.path, settings, rollout, log), sequences * max(1, len(gpus))
