"""The in-process engine: transformers, no server, repeatable bit for bit.

Every sequence draws from its own random stream, seeded by (request seed, index in the group), and the
batches are cut by the order of the requests, so the same requests and weights give the same completions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grpo.config import ModelSettings
from grpo.policy.load import load_model
from grpo.policy.names import checkpointed
from grpo.rollout.engine import SyncReport, WeightSyncError
from grpo.rollout.sync.digest import checksum, differences, digest, values
from grpo.rollout.sync.stream import TensorStream, WeightStream, read, total_bytes
from grpo.types import Completion, Group, RolloutRequest

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


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
        self._model_lock = asyncio.Lock()  # one batch at a time, and none while weights are copied

    async def start(self) -> None:
        self._model: PreTrainedModel = await asyncio.to_thread(load_model, self._settings, self._device)
        eos = self._model.generation_config.eos_token_id
        self._eos = torch.tensor(eos if isinstance(eos, list) else [eos], device=self._device)

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

    @torch.inference_mode()
    def _sample(self, requests: Sequence[RolloutRequest]) -> list[Group]:
        """Decode all completions of the requests together; they share one `Sampling` but for max_tokens."""
        rows = [(request, i) for request in requests for i in range(request.n)]
        streams = [torch.Generator().manual_seed(_mix(request.seed, i)) for request, i in rows]
        temperature = requests[0].sampling.temperature
        max_tokens = max(request.sampling.max_tokens for request in requests)
        # Top-p and top-k do not exist here: the recipe refuses them for training, and so does `_check`.
        _check(requests)

        input_ids, mask = self._left_padded([request.prompt.token_ids for request, _ in rows])
        position = mask.sum(1) - 1  # of the newest token of each row
        cache: DynamicCache | None = None
        live = list(range(len(rows)))  # which row each line of the batch is
        tokens: list[list[int]] = [[] for _ in rows]
        logprobs: list[list[float]] = [[] for _ in rows]
        stopped = [False] * len(rows)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(max_tokens):
            out = self._model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            logp_BV = torch.log_softmax(out.logits[:, -1].float() / (temperature or 1.0), dim=1)
            next_B = logp_BV.argmax(1) if temperature == 0 else self._draw(logp_BV, [streams[r] for r in live])
            chosen_B = logp_BV.gather(1, next_B[:, None]).squeeze(1)
            done_B = torch.isin(next_B, self._eos)
            for line, (row, token, logp, done) in enumerate(
                zip(live, next_B.tolist(), chosen_B.tolist(), done_B.tolist(), strict=True)
            ):
                tokens[row].append(token)
                logprobs[row].append(logp)
                stopped[row] = done
                done_B[line] = done or len(tokens[row]) >= rows[row][0].sampling.max_tokens
            keep = torch.nonzero(~done_B).squeeze(1)
            if not len(keep):
                break
            if len(keep) < len(live):  # finished rows leave the batch
                live = [live[i] for i in keep.tolist()]
                cache.batch_select_indices(keep)
                mask, position, next_B = mask[keep], position[keep], next_B[keep]
            position = position + 1
            input_ids, position_ids = next_B[:, None], position[:, None]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)

        completions = [
            Completion(
                token_ids=tuple(tokens[row]),
                logprobs=tuple(logprobs[row]),
                versions=(self.version,) * len(tokens[row]),
                text=str(self._tokenizer.decode(tokens[row], skip_special_tokens=True)),
                finish_reason="stop" if stopped[row] else "length",
            )
            for row in range(len(rows))
        ]
        groups, start = [], 0
        for request in requests:
            groups.append(Group(request.prompt, tuple(completions[start : start + request.n])))
            start += request.n
        return groups

    def _draw(self, logp_BV: Tensor, streams: list[torch.Generator]) -> Tensor:
        """One token a row by inverse transform: one uniform number from each row's own stream."""
        uniform_B = torch.stack([torch.rand((), generator=stream, dtype=torch.float64) for stream in streams])
        cumulative_BV = logp_BV.double().exp().cumsum(1)
        threshold_B1 = (uniform_B.to(logp_BV.device) * cumulative_BV[:, -1])[:, None]
        return torch.searchsorted(cumulative_BV, threshold_B1, right=True).squeeze(1).clamp(max=logp_BV.shape[1] - 1)

    def _left_padded(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return ids.to(self._device), mask.to(self._device)


def _mix(seed: int, index: int) -> int:
    return (seed * 1_000_003 + index) % 2**63


def _check(requests: Sequence[RolloutRequest]) -> None:
    for request in requests:
        sampling = request.sampling
        if sampling.top_p < 1 or sampling.top_k:
            raise ValueError(f"engine transformers samples without top_p and top_k, got {sampling}")
        if sampling.temperature != requests[0].sampling.temperature:
            raise ValueError("engine transformers needs one temperature for the requests of one call")
