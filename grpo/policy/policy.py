"""The policy as a module: its forward is the whole computation, so that it can be sharded as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from grpo.policy.load import causal_lm, completion_logprobs
from grpo.types import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Policy(nn.Module):
    """A transformers model, or peft's around one.

    `dtype`: in which it computes. `dtypes`: of parameters and buffers as they were loaded; shards are wider.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.dtype = causal_lm(model).dtype
        self.dtypes = {name: one.dtype for name, one in [*self.named_parameters(), *self.named_buffers()]}

    def forward(self, batch: PackedBatch, temperature: float, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """(log-probs with gradient, entropies) of the micro-batch's trained tokens, each of shape (T,)."""
        return completion_logprobs(self.model, batch, temperature, entropy_gradient)

    def measured(self, batch: PackedBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """As the forward, without gradient."""
        with torch.no_grad():
            result = self(batch, temperature)
        if isinstance(self, FSDPModule):
            self.reshard()  # else the root's weights stay gathered, and would be used again after an update
        return result
