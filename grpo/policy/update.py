"""The training step: one optimizer batch through the policy, without any sampling.

    pack -> for each micro-batch: log-probs (logprobs.py) -> objective (losses/) -> backward -> optimizer (optim.py)

The old policy's log-probs are those of the first update's own forward: nothing is computed for them, unless that has
dropout, which they must not have. Sums stay on the device until the end of the step, so that a GPU is never waited for
in between. Only a mask of high-entropy tokens, whose threshold is that of the whole batch, takes a forward of its own
before the first update.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.config import GRPOConfig
from grpo.losses.cross_entropy import CrossEntropy
from grpo.losses.entropy import entropy_threshold
from grpo.losses.kl import kl_penalties
from grpo.losses.objective import Objective
from grpo.losses.types import LossInputs
from grpo.policy.diffusion import MaskedPolicy
from grpo.policy.forward import ForwardProof
from grpo.policy.load import causal_lm, drops_out, training_mode
from grpo.policy.memory import keep_freed_memory
from grpo.policy.moe_balance import Balance
from grpo.policy.optim import MasterAdamW, learning_rate
from grpo.policy.packing.pack import pack, packed_micro_batches
from grpo.policy.packing.pad import pad, padded_micro_batches
from grpo.policy.packing.probe import use_packed_attention
from grpo.policy.policy import Policy
from grpo.policy.reference import Reference
from grpo.policy.shard.plan import shares
from grpo.policy.shard.ranks import ALONE, Ranks
from grpo.policy.stopwatch import Stopwatch
from grpo.types import PackedBatch, Sample

_IDLE = Sample((0,), (0,), (0.0,), 0.0)  # of weight 0: its gradient is exactly 0


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """What one optimizer batch trains on. `weights[i]` is the loss weight of each token of `samples[i]`."""

    samples: list[Sample]
    weights: list[float]


class PolicyUpdate:
    """Updates `policy` in place. With several ranks each method is called by all of them at once, with the same.

    Args:
        temperature: that the completions were sampled at; log-probs are taken at it.
        reference: the frozen model of the KL term, or the teacher; None with LoRA (the adapter is switched off) or
            without KL.
        ranks: that the policy is sharded over.
        objective: None: what `config` describes.
        proof: of the way that the policy computes; None: it has a plain head.
        balance: of a mixture of experts, where it is asked for.

    `padded` says why micro-batches are padded; None where they are packed.
    """

    def __init__(
        self,
        config: GRPOConfig,
        temperature: float,
        policy: Policy,
        optimizer: MasterAdamW,
        reference: Policy | None = None,
        ranks: Ranks = ALONE,
        objective: Objective | CrossEntropy | None = None,
        proof: ForwardProof | None = None,
        balance: Balance | None = None,
    ) -> None:
        self._config, self._temperature = config, temperature
        self._policy, self._optimizer, self._ranks = policy, optimizer, ranks
        self._balance = balance
        self.objective = objective or Objective(config)
        self._reference = Reference(policy, reference, config.kl_sync_every if config.kl_coef else 0)
        self._device = next(policy.parameters()).device
        # The leader's random numbers are those of a process alone.
        self._other = (ranks.rank,) if ranks.rank else ()
        if self._device.type == "cpu":
            keep_freed_memory()
        if proof is not None:
            self.padded = proof.padded
        else:
            self.padded = use_packed_attention(policy) if config.packing else "train.packing: false"
        if reference is not None and not isinstance(policy, MaskedPolicy):
            self.padded = self.padded or use_packed_attention(reference)

    def run(self, step: int, batch: TrainBatch) -> dict[str, float]:
        """`updates_per_batch` optimizer steps on the batch. Returns their metrics.

        Raises MemoryError if a micro-batch does not fit into the GPU's memory.
        """
        try:
            return self._run(step, batch)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"step {step} does not fit into the GPU's memory ({str(error).partition('. ')[0]}): lower "
                f"train.tokens_per_micro_batch ({self._config.tokens_per_micro_batch}), or use "
                "train.gradient_checkpointing: true"
            ) from error

    def _run(self, step: int, batch: TrainBatch) -> dict[str, float]:
        torch.manual_seed(hash((self._config.seed, step, *self._other)))  # an adapter's dropout repeats on resume
        training_mode(self._policy, self._config.dropout)
        if self._policy.routing:
            self._policy.routing.check(batch.samples)
        watch = Stopwatch(self._device)
        with watch("pack"):
            micros, n_idle = self._micro_batches(batch)
            busy = len(micros) - n_idle
        with watch("forward"):
            masks = self._policy_masks(micros, busy)
        old: list[Tensor] = []
        ref: list[Tensor | None] = []
        sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self._device))
        grad_norm = 0.0
        metrics_of_experts: dict[str, float] = {}
        for update in range(self._config.updates_per_batch):
            self._optimizer.zero_grad()
            if self._balance:
                with watch("forward"):
                    self._balance.begin(micros, self._temperature)
            for i, micro in enumerate(micros):
                with watch("forward"):
                    logprobs_T, entropy_T = self._logprobs(micro)
                    extra = self._balance.add(micro) if self._balance else None
                    if update == 0:
                        old.append(self._old_logprobs(micro, logprobs_T))
                        ref.append(self._reference_logprobs(micro) if self.objective.needs_reference else None)
                    terms = self.objective(_loss_inputs(micro, logprobs_T, old[i], entropy_T, ref[i], masks[i]))
                with watch("backward"):
                    (terms.loss if extra is None else terms.loss + extra).backward()
                for name, value in terms.stats.items() if i < busy else ():
                    sums[name] += value
            with watch("optimizer"):
                grad_norm += self._optimizer.step(learning_rate(self._config, step), self._config.max_grad_norm)
            if update == 0:
                metrics_of_experts |= self._routing_metrics()
            if self._balance:
                metrics_of_experts |= self._balance.end()
        self._policy.eval()
        self._reference.after(step)
        counted = {"tokens": sum(len(micro.target_T) for micro in micros[:busy])}
        totals = self._ranks.summed({name: total.item() for name, total in sums.items()} | counted)
        tokens, updates = int(totals.pop("tokens")), self._config.updates_per_batch
        metrics = self.objective.metrics(totals, tokens, updates)
        self.objective.observe(metrics)
        return {
            **metrics,
            **metrics_of_experts,
            "grad_norm": grad_norm / updates,
            "trained_tokens": tokens,
            **watch.seconds(),
        }

    def kl_penalties(self, samples: Sequence[Sample]) -> list[float]:
        """Of each completion, the estimate of the sampler's KL to the reference, summed over its tokens, in nats."""
        penalty_N = torch.zeros(len(samples), device=self._device)
        numbers = [float(i) for i in range(len(samples))]  # in place of weights: which completion a token is of
        micros, n_idle = self._micro_batches(TrainBatch(list(samples), numbers))
        for i, micro in enumerate(micros):
            number_T = micro.weight_T.long()
            ref_T = self._reference_logprobs(micro)
            if i < len(micros) - n_idle:
                penalty_N += kl_penalties(
                    self._config.kl_estimator, micro.sampler_logprobs_T, ref_T, number_T, len(samples)
                )
        return torch.stack(self._ranks.gathered(penalty_N.cpu())).sum(0).tolist()

    def cross_entropy(self, samples: Sequence[Sample]) -> float:
        """Mean of -log pi of their trained tokens, in nats; the weights stay as they are."""
        micros, n_idle = self._micro_batches(TrainBatch(list(samples), [1.0] * len(samples)))
        total = tokens = 0.0
        for i, micro in enumerate(micros):
            logprobs_T, _ = self._policy.measured(micro, self._temperature)
            if i < len(micros) - n_idle:
                total, tokens = total - logprobs_T.double().sum().item(), tokens + len(micro.target_T)
        sums = self._ranks.summed({"total": total, "tokens": tokens})
        return sums["total"] / max(sums["tokens"], 1)

    def measured(self, samples: Sequence[Sample], temperature: float | None = None) -> list[Tensor]:
        """Log-probs of each sample's completion, in evaluation mode; all ranks compute all of them."""
        self._policy.eval()
        split, build = self._ways(measuring=True)
        found: list[Tensor] = [torch.empty(0)] * len(samples)
        for some in split(samples, self._config.tokens_per_micro_batch):
            some = sorted(some, key=lambda i: (samples[i].prompt_ids, i))  # as they lie in a packed row
            micro = build([samples[i] for i in some], [1.0] * len(some), self._device)
            logprobs_T = self._policy.measured(micro, temperature or self._temperature)[0].cpu()
            for i, part in zip(some, logprobs_T.split([len(samples[i].completion_ids) for i in some]), strict=True):
                found[i] = part
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights, themselves: the optimizer's and a synced reference's."""
        steered = self._balance.biases if self._balance else {}
        return {**self._optimizer.tensors(), **self._reference.tensors(), **self.objective.tensors(), **steered}

    def loaded(self) -> None:
        """Call it when `tensors` have been overwritten."""
        self._optimizer.loaded()

    def _micro_batches(self, batch: TrainBatch) -> tuple[list[PackedBatch], int]:
        """This rank's, and how many of them, the last ones, are idle: computed for the other ranks' sake."""
        split, build = self._ways()
        limit, width = (
            self._config.tokens_per_micro_batch,
            causal_lm(self._policy.model).config.get_text_config().hidden_size,
        )
        chosen = shares(batch.samples, limit, split, self._ranks.size, width)[self._ranks.rank]
        micros = [
            build([batch.samples[i] for i in own], [batch.weights[i] for i in own], self._device)
            if own
            else build([_IDLE], [0.0], self._device)
            for own in chosen
        ]
        return micros, chosen.count([])

    def _ways(self, measuring: bool = False) -> tuple[Callable[..., list[list[int]]], Callable[..., PackedBatch]]:
        if isinstance(self._policy, MaskedPolicy):
            return self._policy.ways(measuring)
        return (packed_micro_batches, pack) if self.padded is None else (padded_micro_batches, pad)

    def _logprobs(self, micro: PackedBatch) -> tuple[Tensor, Tensor]:
        return self._policy(micro, self._temperature, self.objective.needs_entropy_gradient)

    def _old_logprobs(self, micro: PackedBatch, logprobs_T: Tensor) -> Tensor:
        """As they are without dropout. `logprobs_T`: of the first update's forward."""
        if not drops_out(self._policy):
            return logprobs_T.detach()
        self._policy.eval()
        old_T = self._policy.measured(micro, self._temperature)[0]
        training_mode(self._policy, self._config.dropout)
        return old_T

    def _routing_metrics(self) -> dict[str, float]:
        """routing_diff: share of the sampler's choices of experts that the trainer's routers would not have made."""
        if self._policy.routing is None:
            return {}
        different, given = torch.stack(self._ranks.gathered(self._policy.routing.difference().cpu())).sum(0).tolist()
        return {"routing_diff": different / given} if given else {}

    def _reference_logprobs(self, micro: PackedBatch) -> Tensor:
        return self._reference.logprobs(micro, self._temperature)

    def _policy_masks(self, micros: Sequence[PackedBatch], busy: int) -> list[Tensor] | list[None]:
        """Of each micro-batch, the tokens with a policy gradient; None where all have one."""
        if not (self.objective.needs_policy_mask and micros):
            return [None] * len(micros)
        entropies = [self._policy.measured(micro, self._temperature)[1] for micro in micros]
        of_all = self._ranks.gathered([entropy_T.cpu() for entropy_T in entropies[:busy]])
        entropy_T = torch.cat([entropy_T for of_one in of_all for entropy_T in of_one])
        threshold = entropy_threshold(entropy_T, self._config.entropy_top_share)
        return [entropy_T >= threshold for entropy_T in entropies]


def _loss_inputs(
    micro: PackedBatch,
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    entropy_T: Tensor,
    ref_logprobs_T: Tensor | None,
    policy_mask_T: Tensor | None,
) -> LossInputs:
    return LossInputs(
        logprobs_T=logprobs_T,
        old_logprobs_T=old_logprobs_T,
        sampler_logprobs_T=micro.sampler_logprobs_T,
        advantage_T=micro.advantage_T,
        weight_T=micro.weight_T,
        sequence_T=micro.sequence_T,
        n_sequences=micro.n_sequences,
        entropy_T=entropy_T,
        ref_logprobs_T=ref_logprobs_T,
        staleness_T=micro.staleness_T,
        policy_mask_T=policy_mask_T,
    )
