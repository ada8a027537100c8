"""Decoding with a transformers model, token by token: the fastest way in which it computes what its own forward does.

    padded   rows of any length together, filled on the left, over a cache that finished rows leave
    equal    rows whose prompts are of one length, over a cache that all stay in: no padding enters a recurrent state
    whole    those, without a cache: the whole sequences again for each token

Not every model takes a mask, has a cache, or can drop rows from it. Which way is right is asked of the model, before
the first sample: given tokens are decoded in each way, and their log-probs compared with its forward's (noise.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from grpo.config import ModelError
from grpo.policy.load import FAILS, causal_lm, prompted
from grpo.policy.noise import measure_noise
from grpo.policy.packing.probe import probe_samples
from grpo.policy.policy import Policy
from grpo.policy.routing import Routing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Way = Literal["padded", "equal", "whole"]
# (log-probs of the next token (B, V), which of the rows they are of) -> the next token of each
Choose = Callable[[Tensor, Sequence["Growing"]], Tensor]


@dataclass(eq=False, slots=True)
class Growing:
    """One completion that grows. `stopped`: whether its last token ends it."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False
    experts: list[Tensor] = field(default_factory=list)  # (tokens, L, K) of each forward that it was in

    @property
    def done(self) -> bool:
        return self.stopped or len(self.tokens) >= self.max_tokens


class Decoder:
    """
    Args:
        eos: ids of the tokens that end a completion, (E,).
    """

    def __init__(self, model: PreTrainedModel, eos: Tensor) -> None:
        self._model, self._eos = model, eos
        self.way: Way = "padded"
        self.routing: Routing | None = None  # whose choices are kept; None: nobody asks for them

    def choose_way(self) -> None:
        """Raises ModelError if none computes what the model's forward does."""
        policy = Policy(self._model)
        samples = probe_samples(policy)
        noise = measure_noise(policy, samples)
        if noise.plain_T is not None:
            causal_lm(self._model).set_attn_implementation("eager")  # as the trainer's, see grpo/policy/forward.py
            noise = type(noise)(noise.plain_T, noise.nats, noise.dtype)
        why = ""
        for way in get_args(Way)[prompted(self._model) :]:  # peft's forward takes no positions
            self.way = way
            rows = [Growing(sample.prompt_ids, len(sample.completion_ids)) for sample in samples]
            given = {row: sample.completion_ids for row, sample in zip(rows, samples, strict=True)}

            def next_given(logp_BV: Tensor, live: Sequence[Growing], given: Any = given) -> Tensor:
                return torch.tensor([given[row][len(row.tokens)] for row in live], device=logp_BV.device)

            try:
                self.fill(rows, 1.0, next_given, stops=False)
            except FAILS as error:
                why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                continue
            found_T = torch.tensor([x for row in rows for x in row.logprobs]).to(noise.logprobs_T)
            if not (why := noise.exceeded(found_T)):
                return
            why = f"log-probs that differ from its forward's by {why}"
        raise ModelError(
            f"model.path: decoded token by token, {self._model.config.model_type} gives {why}: what "
            "is sampled would not be what is trained"
        )

    @torch.inference_mode()
    def fill(self, rows: Sequence[Growing], temperature: float, choose: Choose, stops: bool = True) -> None:
        """Decode all rows to their ends. `stops`: whether end tokens end them."""
        for some in [rows] if self.way == "padded" else _of_one_length(rows):
            decode = {"padded": self._padded, "equal": self._equal, "whole": self._whole}[self.way]
            decode(some, temperature or 1.0, choose, self._eos if stops else self._eos[:0])

    def _padded(self, rows: Sequence[Growing], temperature: float, choose: Choose, eos: Tensor) -> None:
        input_ids, mask = _left_padded([row.prompt_ids for row in rows], self._eos.device)
        position = mask.sum(1) - 1  # of the newest token of each row
        cache: Any = None
        live = list(rows)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        while True:
            out = self._model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            self._keep_experts(live, mask[:, -input_ids.shape[1] :])
            next_B = _take(out.logits, live, temperature, choose, eos)
            keep = [i for i, row in enumerate(live) if not row.done]
            if not keep:
                return
            if len(keep) < len(live):  # finished rows leave the batch
                live = [live[i] for i in keep]
                at = torch.tensor(keep, device=mask.device)
                cache.batch_select_indices(at)
                mask, position, next_B = mask[at], position[at], next_B[at]
            position = position + 1
            input_ids, position_ids = next_B[:, None], position[:, None]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)

    def _equal(self, rows: Sequence[Growing], temperature: float, choose: Choose, eos: Tensor) -> None:
        input_ids = torch.tensor([row.prompt_ids for row in rows], device=self._eos.device)
        cache: dict[str, Any] = {}
        while not all(row.done for row in rows):
            model = causal_lm(self._model) if cache else self._model  # an adapter's vectors are in the cache
            out = model(input_ids=input_ids, use_cache=True, **cache)
            name = "past_key_values" if "past_key_values" in out else "cache_params"  # Mamba's
            cache = {name: out[name]}
            live = [i for i, row in enumerate(rows) if not row.done]
            self._keep_experts(rows, torch.ones_like(input_ids))
            next_B = _take(out.logits[live], [rows[i] for i in live], temperature, choose, eos)
            input_ids = torch.zeros_like(input_ids[:, :1])  # rows that are done go on, for nobody
            input_ids[live, 0] = next_B

    def _whole(self, rows: Sequence[Growing], temperature: float, choose: Choose, eos: Tensor) -> None:
        while live := [row for row in rows if not row.done]:
            input_ids = torch.tensor([[*row.prompt_ids, *row.tokens] for row in live], device=self._eos.device)
            logits = self._model(input_ids=input_ids, use_cache=False).logits
            for row in live:
                row.experts.clear()
            self._keep_experts(live, torch.ones_like(input_ids))
            _take(logits, live, temperature, choose, eos)

    def _keep_experts(self, rows: Sequence[Growing], real_BT: Tensor) -> None:
        """Of the last forward, in which these rows had `real_BT` tokens that are no padding."""
        if self.routing is None:
            return
        chosen_BTLK = self.routing.stacked().unflatten(0, real_BT.shape)
        for row, chosen, real in zip(rows, chosen_BTLK, real_BT.bool(), strict=True):
            if not row.done:
                row.experts.append(chosen[real].cpu())


def _take(logits_BTV: Tensor, live: Sequence[Growing], temperature: float, choose: Choose, eos: Tensor) -> Tensor:
    """The next token of each row, appended to it."""
    logp_BV = torch.log_softmax(logits_BTV[:, -1].float() / temperature, dim=1)
    next_B = choose(logp_BV, live)
    chosen_B = logp_BV.gather(1, next_B[:, None]).squeeze(1)
    done_B = torch.isin(next_B, eos)
    for row, token, logp, done in zip(live, next_B.tolist(), chosen_B.tolist(), done_B.tolist(), strict=True):
        row.tokens.append(token)
        row.logprobs.append(logp)
        row.stopped = done
    return next_B


def _of_one_length(rows: Sequence[Growing]) -> list[list[Growing]]:
    found: defaultdict[int, list[Growing]] = defaultdict(list)
    for row in rows:
        found[len(row.prompt_ids)].append(row)
    return list(found.values())


def _left_padded(prompts: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
