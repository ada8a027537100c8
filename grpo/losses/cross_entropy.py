"""The loss of supervised fine-tuning: -sum_t w_t log pi(y_t), w the normaliser over the whole optimizer batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from grpo.losses.types import LossInputs, LossTerms


class CrossEntropy:
    """In place of `Objective`, see there."""

    needs_reference = needs_entropy_gradient = needs_policy_mask = skips_zero_advantage = False

    def __call__(self, inputs: LossInputs) -> LossTerms:
        loss = -(inputs.logprobs_T * inputs.weight_T).sum()
        return LossTerms(loss, {"loss": loss.detach(), "entropy": inputs.entropy_T.detach().sum()})

    def metrics(self, sums: Mapping[str, float], tokens: int, updates: int = 1) -> dict[str, float]:
        """Of the optimizer batch: the loss and the mean entropy, in nats a token."""
        return {"loss": sums.get("loss", 0.0) / updates, "entropy": sums.get("entropy", 0.0) / max(tokens * updates, 1)}

    def observe(self, metrics: Mapping[str, float]) -> None:
        pass

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}
