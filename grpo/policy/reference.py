"""The policy that a KL is measured against.

adapter off   with an adapter: the model without it, for nothing
fixed         the model that the run started from, a second copy of it
synced        that copy, overwritten with the policy after every `sync_every` steps: GRPO's outer iteration
              (DeepSeekMath, arXiv 2402.03300, algorithm 1), TR-DPO's hard update (arXiv 2404.09656)
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.policy.policy import Policy
from grpo.types import PackedBatch


class Reference:
    """
    Args:
        trained: the policy, adapted by peft if `frozen` is None.
        frozen: the second copy. `sync` overwrites it.
        sync_every: 0 is never.
    """

    def __init__(self, trained: Policy, frozen: Policy | None = None, sync_every: int = 0) -> None:
        if sync_every and frozen is None:
            raise ValueError("a reference that is synced needs a copy of the model, got none")
        self._trained, self._frozen, self._sync_every = trained, frozen, sync_every

    def logprobs(self, batch: PackedBatch, temperature: float) -> Tensor:
        """Of the micro-batch's trained tokens, in evaluation mode, without gradient; shape (T,)."""
        if self._frozen is not None:
            return self._frozen.eval().measured(batch, temperature)[0]
        training = [module for module in self._trained.modules() if module.training]
        self._trained.eval()
        with self._trained.model.disable_adapter():  # type: ignore[operator]  # peft's method, typed as a module
            logprobs_T = self._trained.measured(batch, temperature)[0]
        for module in training:
            module.training = True
        return logprobs_T

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Call it with each finished step."""
        if self._frozen is None or not self._sync_every or step % self._sync_every:
            return
        for tensors in (Policy.parameters, Policy.buffers):  # a bias of experts is a buffer
            for kept, trained in zip(tensors(self._frozen), tensors(self._trained), strict=True):
                kept.copy_(trained)

    def tensors(self) -> dict[str, Tensor]:
        """Its own, themselves. None of a reference that the start of the run makes again."""
        if self._frozen is None or not self._sync_every:
            return {}
        return {f"reference.{name}": tensor.detach() for name, tensor in self._frozen.named_parameters()}
