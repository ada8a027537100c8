"""The in-process engine: transformers, no server, repeatable bit for bit.

Every sequence draws from its own random stream, seeded by (request seed, index in the group), and the
batches are cut by the order of the requests, so the same requests and weights give the same completions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grpo.config import ModelSettings
from grpo.policy.adapters import add_adapter
from grpo.policy.load import causal_lm, load_model
from grpo.policy.names import checkpointed
from grpo.policy.routing import Routing, find_routers
from grpo.rollout.decode import Decoder, Growing
from grpo.rollout.engine import SyncReport, WeightSyncError
from grpo.rollout.sync.digest import checksum, differences, digest, values
from grpo.rollout.sync.stream import TensorStream, WeightStream, read, total_bytes
from grpo.types import Completion, Group, RolloutRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformersEngine:
    """Implements `RolloutEngine` with a copy of the model in this process."""

    name = "transformers"
    concurrent = False
    restarts = 0  # nothing to restart; the server engine counts its own

    def __init__(
        self,
        model: ModelSettings,
        tokenizer: PreTrainedTokenizerBase,
        max_sequences: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.version = 0
        self._settings, self._device = model, device
        self._tokenizer = tokenizer
        self._max_sequences = max_sequences
        self._routing: Routing | None = None  # once somebody has asked for the experts
        self._model_lock = asyncio.Lock()  # one batch at a time, and none while weights are copied

    async def start(self) -> None:
        self._model = await asyncio.to_thread(self._loaded)
        self._decoder = Decoder(self._model, end_tokens(causal_lm(self._model), self._tokenizer).to(self._device))
        await asyncio.to_thread(self._decoder.choose_way)

    def _loaded(self) -> PreTrainedModel:
        model = load_model(self._settings, self._device)
        return add_adapter(model, self._settings) if self._settings.prompted else model

    async def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        per_batch = max(1, self._max_sequences // max(r.n for r in requests)) if requests else 1
        for start in range(0, len(requests), per_batch):
            batch = requests[start : start + per_batch]
            async with self._model_lock:
                groups = await asyncio.to_thread(self._sample, batch)
            for index, group in enumerate(groups, start):
                yield index, group

    async def ask_each(self, requests: Sequence[RolloutRequest]) -> dict[str, list[Group]]:
        found = {index: group async for index, group in self.generate(requests)}
        return {"in process": [found[i] for i in range(len(requests))]}

    async def update_weights(self, stream: WeightStream, version: int) -> SyncReport:
        started = time.monotonic()
        async with self._model_lock:
            return await asyncio.to_thread(self._load, stream, version, started)

    async def close(self) -> None:
        self._model = None  # type: ignore[assignment]  # of no more use: its memory is given back

    @torch.no_grad()
    def _load(self, stream: WeightStream, version: int, started: float) -> SyncReport:
        served = {name: getattr(module, own) for name, module, own in checkpointed(self._model)}
        stream = getattr(stream, "unconverted", stream)  # as this model has them, not as checkpoints do
        specs = stream.specs
        if differ := {str(spec) for spec in specs} ^ {str(spec) for spec in TensorStream(served).specs}:
            raise WeightSyncError(f"the weights are not this model's; of one of both alone: {sorted(differ)[:5]} ...")
        sent, found = [], []
        with closing(read(stream)) as tensors:
            for spec, tensor in tensors:
                sent.append(digest(tensor))
                found.append(digest(served[spec.name].copy_(tensor)))
        if wrong := differences(specs, values(sent), values(found)):
            raise WeightSyncError(f"version {version}: {wrong}")
        self.version = version
        seconds = time.monotonic() - started
        return SyncReport(version, seconds, seconds, total_bytes(specs), checksum(specs, values(found)))

    def _sample(self, requests: Sequence[RolloutRequest]) -> list[Group]:
        """Decode all completions of the requests together; they share one `Sampling` but for max_tokens."""
        _check(requests)  # top-p and top-k do not exist here: the recipe refuses them for training, and so does this
        temperature = requests[0].sampling.temperature
        streams: dict[Growing, torch.Generator] = {}
        for request in requests:
            for i in range(request.n):
                row = Growing(request.prompt.token_ids, request.sampling.max_tokens)
                streams[row] = torch.Generator().manual_seed(mixed(request.seed, i))

        def choose(logp_BV: Tensor, live: Sequence[Growing]) -> Tensor:
            return logp_BV.argmax(1) if temperature == 0 else self._draw(logp_BV, [streams[row] for row in live])

        if requests[0].experts and self._routing is None:
            self._routing = Routing(self._model, find_routers(self._model))
        self._decoder.routing = self._routing if requests[0].experts else None
        self._decoder.fill(list(streams), temperature, choose)
        completions = [
            Completion(
                token_ids=tuple(row.tokens),
                logprobs=tuple(row.logprobs),
                versions=(self.version,) * len(row.tokens),
                text=str(self._tokenizer.decode(row.tokens, skip_special_tokens=True)),
                finish_reason="stop" if row.stopped else "length",
                experts=torch.cat(row.experts).numpy() if row.experts else None,
            )
            for row in streams
        ]
        return grouped(requests, completions)

    def _draw(self, logp_BV: Tensor, streams: list[torch.Generator]) -> Tensor:
        """One token a row, by one uniform number from each row's own stream."""
        uniform_B = torch.stack([torch.rand((), generator=stream, dtype=torch.float64) for stream in streams])
        return inverse_transform(logp_BV, uniform_B)


def inverse_transform(logp_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token of each row whose share of the distribution holds the row's uniform number, (B,)."""
    cumulative_BV = logp_BV.double().exp().cumsum(1)
    threshold_B1 = (uniform_B.to(logp_BV.device) * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, threshold_B1, right=True).squeeze(1).clamp(max=logp_BV.shape[1] - 1)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Of the generation's settings, as a server takes them; else the tokenizer's."""
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)  # masked models may have none
    eos = tokenizer.eos_token_id if eos is None else eos
    found = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return torch.tensor(found, dtype=torch.long)


def mixed(seed: int, index: int) -> int:
    return (seed * 1_000_003 + index) % 2**63


def _check(requests: Sequence[RolloutRequest]) -> None:
    for request in requests:
        sampling = request.sampling
        if sampling.top_p < 1 or sampling.top_k:
            raise ValueError(f"engine transformers samples without top_p and top_k, got {sampling}")
        if sampling.temperature != requests[0].sampling.temperature:
            raise ValueError("engine transformers needs one temperature for the requests of one call")


def grouped(requests: Sequence[RolloutRequest], completions: Sequence[Completion]) -> list[Group]:
    """`completions` in the order of the requests, `n` of each."""
    left = iter(completions)
    return [Group(request.prompt, tuple(islice(left, request.n))) for request in requests]
