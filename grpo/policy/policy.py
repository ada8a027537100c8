"""The policy as a module: its forward is the whole computation, so that it can be sharded as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from grpo.policy.load import causal_lm, completion_logprobs
from grpo.policy.logprobs import PLAIN, Head
from grpo.policy.packing.pad import pad
from grpo.policy.routing import Routing
from grpo.types import PackedBatch, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")


class Policy(nn.Module):
    """A transformers model, or peft's around one.

    `dtype`: in which it computes. `dtypes`: of parameters and buffers as they were loaded; shards are wider.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.dtype = causal_lm(model).dtype
        self.head: Head | None = PLAIN  # how it makes logits, see head.py; None: its own forward does
        self.routing: Routing | None = None  # of a mixture of experts, where its choices matter
        self.dtypes = {name: one.dtype for name, one in [*self.named_parameters(), *self.named_buffers()]}

    def forward(
        self,
        batch: PackedBatch,
        temperature: float,
        entropy_gradient: bool = False,
        compute: Callable[[nn.Module], Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(log-probs with gradient, entropies) of the micro-batch's trained tokens, each of shape (T,).

        `compute`: what is asked of the model in their place; it has whole weights here alone, where it is sharded.
        """
        if self.routing is not None:  # up to the backward: layers may be recomputed there
            self.routing.given = batch.experts_NLK
        if compute is not None:
            return compute(self.model)
        return completion_logprobs(self.model, batch, temperature, entropy_gradient, self.head)

    def measured(self, batch: PackedBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """As the forward, without gradient."""
        return self._without_gradient(batch, temperature)

    def own_logprobs(self, batch: PackedBatch, temperature: float) -> Tensor:
        """Of the trained tokens, by the model's own logits; without gradient, shape (T,)."""
        own = partial(completion_logprobs, batch=batch, temperature=temperature, head=None)
        return self._without_gradient(batch, temperature, compute=own)[0]

    def batch(self, samples: Sequence[Sample], weights: Sequence[float], device: torch.device | str) -> PackedBatch:
        """One micro-batch of them, the plain way."""
        return pad(samples, weights, device)

    def asked(self, compute: Callable[[nn.Module], T], batch: PackedBatch) -> T:
        """What `compute` says of the model, whose weights are whole while it does."""
        return self._without_gradient(batch, 1.0, compute=compute)

    def _without_gradient(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            result = self(*args, **kwargs)
        if isinstance(self, FSDPModule):
            self.reshard()  # else the root's weights stay gathered, and would be used again after an update
        return result
