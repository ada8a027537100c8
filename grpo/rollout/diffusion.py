"""The in-process engine of masked diffusion language models: completions by unmasking, with the order recorded.

    a canvas of max_tokens masks stands behind the prompt
    for each block of block_length positions, from left to right:
        while the block has masks: one pass of the model; write tokens_per_pass of its positions
        end where the block holds an end token

As LLaDA samples (arXiv 2502.09992): the whole canvas is seen from the start, blocks are of the order alone
("semi-autoregressive"), and what stands behind the first end token is filling, which its text leaves out. With

    order: random      which positions are written is drawn before the policy is asked, by the sequence's own stream;
                       each token is drawn from its distribution in that pass: the likelihood of the sample is exact
    order: confidence  a token is drawn for every mask of the block, and those are written whose probability (at
                       temperature 1) is highest: LLaDA's low-confidence remasking

Departures: blocks behind the one that holds an end token are not written at all, which changes no text and is a
function of the sample alone, so that its likelihood stays exact; the mask token is never drawn. Block diffusion (arXiv
2503.09573) hides the blocks to come: that takes models trained so, and a canvas of masks is what LLaDA is trained on.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grpo.config import ModelSettings
from grpo.diffusion import DiffusionSettings
from grpo.policy.diffusion import MaskedPolicy, masked_logits
from grpo.policy.diffusion_kind import mask_token
from grpo.policy.diffusion_proof import prove_masked
from grpo.policy.load import causal_lm, load_config
from grpo.rollout.local import TransformersEngine, end_tokens, grouped, inverse_transform, mixed
from grpo.types import Completion, Group, RolloutRequest, Sampling, Unmasking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(eq=False, slots=True)
class Canvas:
    """One completion that is being written. Of each position: its token, its log-prob, its pass; None: not yet."""

    prompt_ids: tuple[int, ...]
    size: int
    stream: torch.Generator
    tokens: dict[int, int] = field(default_factory=dict)
    logprobs: dict[int, float] = field(default_factory=dict)
    passes: dict[int, int] = field(default_factory=dict)

    def write(self, now: int, position: int, token: int, logprob: float) -> None:
        self.tokens[position], self.logprobs[position], self.passes[position] = token, logprob, now

    def shown(self, mask_id: int) -> list[int]:
        return [*self.prompt_ids, *(self.tokens.get(position, mask_id) for position in range(self.size))]


class DiffusionEngine(TransformersEngine):
    """Implements `RolloutEngine` with a copy of the masked model in this process."""

    name = "diffusion"

    def __init__(
        self,
        model: ModelSettings,
        tokenizer: PreTrainedTokenizerBase,
        max_sequences: int,
        diffusion: DiffusionSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(model, tokenizer, max_sequences, device)
        self._diffusion = diffusion

    async def start(self) -> None:
        self._model = await asyncio.to_thread(self._loaded)
        self._mask_id = mask_token(load_config(self._settings), self._tokenizer, self._diffusion)
        policy = MaskedPolicy(self._model, self._mask_id, self._diffusion, sys.maxsize)
        await asyncio.to_thread(prove_masked, policy)
        self._all_logits = policy.head is None
        self._ends = set(end_tokens(causal_lm(self._model), self._tokenizer).tolist())

    def _sample(self, requests: Sequence[RolloutRequest]) -> list[Group]:
        """Those of one length are written together; they share one temperature."""
        sampling = requests[0].sampling
        if any(replace(one.sampling, max_tokens=0) != replace(sampling, max_tokens=0) for one in requests):
            raise ValueError("engine diffusion needs one temperature, top_p and top_k for the requests of one call")
        canvases = [
            Canvas(request.prompt.token_ids, request.sampling.max_tokens, torch.Generator().manual_seed(seed))
            for request in requests
            for seed in (mixed(request.seed, i) for i in range(request.n))
        ]
        alike: defaultdict[tuple[int, int], list[Canvas]] = defaultdict(list)
        for canvas in canvases:
            alike[len(canvas.prompt_ids), canvas.size].append(canvas)
        for some in alike.values():
            self._fill(some, sampling)
        return grouped(requests, [self._completion(canvas) for canvas in canvases])

    @torch.inference_mode()
    def _fill(self, canvases: list[Canvas], sampling: Sampling) -> None:
        """Write all of them, which are of one length, to their ends."""
        size = canvases[0].size
        length = gcd(self._diffusion.block_length or size, size)  # the proof asks for lengths of its own
        at_once = self._diffusion.tokens_per_pass
        passes = -(-length // at_once)
        for block in range(size // length):
            start = block * length
            orders = [
                (torch.randperm(length, generator=canvas.stream) + start).tolist()
                if self._diffusion.order == "random"
                else list(range(start, start + length))
                for canvas in canvases
            ]
            for number in range(passes):
                now = block * passes + number
                if self._diffusion.order == "random":
                    places = [order[number * at_once : (number + 1) * at_once] for order in orders]
                else:
                    places = [
                        [i for i in order if i not in one.tokens] for one, order in zip(canvases, orders, strict=True)
                    ]
                self._pass(canvases, places, now, sampling)
            canvases = [
                one for one in canvases if not any(one.tokens[i] in self._ends for i in range(start, start + length))
            ]
            if not canvases:
                return

    def _pass(self, canvases: Sequence[Canvas], places: Sequence[Sequence[int]], now: int, sampling: Sampling) -> None:
        """One pass of the model over all canvases. `places`: of each, the positions that a token is drawn for."""
        ids_RL = torch.tensor([canvas.shown(self._mask_id) for canvas in canvases], device=self._device)
        width, before = ids_RL.shape[1], len(canvases[0].prompt_ids)
        at = [row * width + before + place for row, own in enumerate(places) for place in own]
        at_T = torch.tensor(at, device=self._device)
        logits_TV = masked_logits(self._model, ids_RL, at_T, self._mask_id, self._all_logits)
        logp_TV = torch.log_softmax(_truncated(logits_TV / (sampling.temperature or 1.0), sampling), dim=1)
        token_T = self._drawn(logp_TV, canvases, places, sampling.temperature)
        chosen_T = logp_TV.gather(1, token_T[:, None]).squeeze(1)
        sure_T = torch.log_softmax(logits_TV, dim=1).gather(1, token_T[:, None]).squeeze(1)
        start = 0
        for canvas, own in zip(canvases, places, strict=True):
            part = slice(start, start + len(own))
            start = part.stop
            found = list(zip(own, token_T[part].tolist(), chosen_T[part].tolist(), sure_T[part].tolist(), strict=True))
            if self._diffusion.order == "confidence":
                found = sorted(found, key=lambda one: (-one[3], one[0]))[: self._diffusion.tokens_per_pass]
            for place, token, logprob, _ in found:
                canvas.write(now, place, token, logprob)

    def _drawn(
        self, logp_TV: Tensor, canvases: Sequence[Canvas], places: Sequence[Sequence[int]], temperature: float
    ) -> Tensor:
        if temperature == 0:
            return logp_TV.argmax(1)
        uniform = [
            torch.rand(len(own), generator=canvas.stream, dtype=torch.float64)
            for canvas, own in zip(canvases, places, strict=True)
        ]
        return inverse_transform(logp_TV, torch.cat(uniform))

    def _completion(self, canvas: Canvas) -> Completion:
        tokens = [canvas.tokens[i] for i in range(len(canvas.tokens))]
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        return Completion(
            token_ids=tuple(tokens),
            logprobs=tuple(canvas.logprobs[i] for i in range(len(tokens))),
            versions=(self.version,) * len(tokens),
            text=str(self._tokenizer.decode(tokens[:end], skip_special_tokens=True)),
            finish_reason="length" if end is None else "stop",
            unmasking=Unmasking(tuple(canvas.passes[i] for i in range(len(tokens))), canvas.size),
        )


def _truncated(logits_TV: Tensor, sampling: Sampling) -> Tensor:
    """Without the tokens that top_k and top_p leave out: in evaluation alone, training has neither."""
    if sampling.top_k:
        least_T1 = logits_TV.topk(min(sampling.top_k, logits_TV.shape[1])).values[:, -1:]
        logits_TV = logits_TV.masked_fill(logits_TV < least_T1, -torch.inf)
    if sampling.top_p < 1:
        sorted_TV, order_TV = torch.softmax(logits_TV, dim=1).sort(dim=1, descending=True)
        beyond_TV = sorted_TV.cumsum(1) - sorted_TV >= sampling.top_p  # the likeliest token always stays
        logits_TV = logits_TV.masked_fill(beyond_TV.gather(1, order_TV.argsort(1)), -torch.inf)
    return logits_TV
