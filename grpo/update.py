"""The training step: one optimizer batch through the policy, without any sampling.

pack -> for each micro-batch: log-probs (model.py) -> loss (loss.py) -> backward -> optimizer (optim.py)
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grpo.config import GRPOConfig
from grpo.loss import policy_loss, truncated_correction
from grpo.model import completion_logprobs
from grpo.optim import MasterAdamW, learning_rate
from grpo.pack import micro_batches, pack
from grpo.types import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AT_START = ("logprob_diff", "kl_sampler", "entropy")  # measured before the first update


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """What one optimizer batch trains on. `weights[i]` is the loss weight of each token of `samples[i]`."""

    samples: list[Sample]
    weights: list[float]


class PolicyUpdate:
    """Updates `model` in place.

    Args:
        temperature: that the completions were sampled at; log-probs are taken at it.
        reference: the frozen model of the KL term; None with LoRA (the adapter is switched off) or without KL.
    """

    def __init__(
        self,
        config: GRPOConfig,
        temperature: float,
        model: PreTrainedModel,
        optimizer: MasterAdamW,
        reference: PreTrainedModel | None = None,
    ) -> None:
        self._config, self._temperature = config, temperature
        self._model, self._optimizer, self._reference = model, optimizer, reference
        self._device = next(model.parameters()).device

    def run(self, step: int, batch: TrainBatch) -> dict[str, float]:
        """`updates_per_batch` optimizer steps on the batch. Returns their metrics."""
        torch.manual_seed(hash((self._config.seed, step)))  # dropout repeats on resume
        self._model.train()
        packed = [
            pack([batch.samples[i] for i in rows], [batch.weights[i] for i in rows], self._device)
            for rows in micro_batches([s.length for s in batch.samples], self._config.tokens_per_micro_batch)
        ]
        old: list[Tensor] = []
        ref: list[Tensor | None] = []
        sums: defaultdict[str, float] = defaultdict(float)
        for update in range(self._config.updates_per_batch):
            self._optimizer.zero_grad()
            for i, micro in enumerate(packed):
                logprobs_T, entropy_T = completion_logprobs(self._model, micro, self._temperature)
                if update == 0:
                    old.append(logprobs_T.detach())
                    ref.append(self._reference_logprobs(micro))
                    difference_T = old[i] - micro.sampler_logprobs_T
                    sums["logprob_diff"] += difference_T.abs().sum().item()
                    sums["kl_sampler"] += (difference_T.exp() - difference_T - 1).sum().item()
                    sums["entropy"] += entropy_T.sum().item()
                terms = policy_loss(
                    logprobs_T,
                    old[i],
                    micro.advantage_T,
                    micro.weight_T,
                    clip_low=self._config.clip_low,
                    clip_high=self._config.clip_high,
                    correction_T=self._correction(old[i], micro.sampler_logprobs_T),
                    kl_coef=self._config.kl_coef,
                    ref_logprobs_T=ref[i],
                )
                terms.loss.backward()
                sums["loss"] += terms.loss.item()
                sums["clipped"] += terms.clipped.item()
                sums["kl"] += terms.kl.item()
                sums["tokens"] += len(micro.target_T)
            sums["grad_norm"] += self._optimizer.step(learning_rate(self._config, step), self._config.max_grad_norm)
        self._model.eval()
        updates = self._config.updates_per_batch
        per_token = {key: sums[key] / max(sums["tokens"], 1) for key in ("clipped", "kl")}
        # Measured in the first update only, on trained tokens; without any there is nothing to report.
        at_start = {key: sums[key] * updates / sums["tokens"] for key in _AT_START if sums["tokens"]}
        return {
            "loss": sums["loss"] / updates,
            "grad_norm": sums["grad_norm"] / updates,
            "trained_tokens": sums["tokens"] / updates,
            **per_token,
            **at_start,
        }

    def _correction(self, old_T: Tensor, sampler_T: Tensor) -> Tensor | None:
        if self._config.correction == "none":
            return None
        return truncated_correction(old_T, sampler_T, self._config.correction_cap)

    @torch.no_grad()
    def _reference_logprobs(self, micro: Any) -> Tensor | None:
        if not self._config.kl_coef:
            return None
        reference: nn.Module = self._model if self._reference is None else self._reference
        without_adapter = self._model.disable_adapter() if self._reference is None else nullcontext()  # type: ignore[operator]
        with without_adapter:
            return completion_logprobs(reference, micro, self._temperature)[0]
