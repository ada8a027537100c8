"""The training step: one optimizer batch through the policy, without any sampling.

    pack -> for each micro-batch: log-probs (model.py) -> loss (loss.py) -> backward -> optimizer (optim.py)

The old policy's log-probs are those of the first update's own forward: nothing is computed for them. Sums stay on
the device until the end of the step, so that a GPU is never waited for in between.
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
from grpo.memory import keep_freed_memory
from grpo.model import completion_logprobs
from grpo.optim import MasterAdamW, learning_rate
from grpo.pack import pack, packed_micro_batches
from grpo.packing_probe import use_packed_attention
from grpo.pad import pad, padded_micro_batches
from grpo.stopwatch import Stopwatch
from grpo.types import PackedBatch, Sample

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

    `padded` says why micro-batches are padded; None where they are packed.
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
        if self._device.type == "cpu":
            keep_freed_memory()
        self.padded = use_packed_attention(model) if config.packing else "train.packing: false"
        if reference is not None and self.padded is None:
            self.padded = use_packed_attention(reference)

    def run(self, step: int, batch: TrainBatch) -> dict[str, float]:
        """`updates_per_batch` optimizer steps on the batch. Returns their metrics."""
        torch.manual_seed(hash((self._config.seed, step)))  # dropout repeats on resume
        self._model.train()
        watch = Stopwatch(self._device)
        with watch("pack"):
            micros = self._micro_batches(batch)
        old: list[Tensor] = []
        ref: list[Tensor | None] = []
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self._device))
        grad_norm = 0.0
        for update in range(self._config.updates_per_batch):
            self._optimizer.zero_grad()
            for i, micro in enumerate(micros):
                with watch("forward"):
                    logprobs_T, entropy_T = completion_logprobs(self._model, micro, self._temperature)
                    if update == 0:
                        old.append(logprobs_T.detach())
                        ref.append(self._reference_logprobs(micro))
                        difference_T = old[i] - micro.sampler_logprobs_T
                        sums["logprob_diff"] += difference_T.abs().sum()
                        sums["kl_sampler"] += (difference_T.exp() - difference_T - 1).sum()
                        sums["entropy"] += entropy_T.sum()
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
                with watch("backward"):
                    terms.loss.backward()
                sums["loss"] += terms.loss.detach()
                sums["clipped"] += terms.clipped
                sums["kl"] += terms.kl
            with watch("optimizer"):
                grad_norm += self._optimizer.step(learning_rate(self._config, step), self._config.max_grad_norm)
        self._model.eval()
        tokens = sum(len(micro.target_T) for micro in micros)
        updates = self._config.updates_per_batch
        per_token = {key: sums[key].item() / max(tokens * updates, 1) for key in ("clipped", "kl")}
        # Measured in the first update only, on trained tokens; without any there is nothing to report.
        at_start = {key: sums[key].item() / tokens for key in _AT_START if tokens}
        return {
            "loss": sums["loss"].item() / updates,
            "grad_norm": grad_norm / updates,
            "trained_tokens": tokens,
            **per_token,
            **at_start,
            **watch.seconds(),
        }

    def _micro_batches(self, batch: TrainBatch) -> list[PackedBatch]:
        split, build = (packed_micro_batches, pack) if self.padded is None else (padded_micro_batches, pad)
        return [
            build([batch.samples[i] for i in chosen], [batch.weights[i] for i in chosen], self._device)
            for chosen in split(batch.samples, self._config.tokens_per_micro_batch)
        ]

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
