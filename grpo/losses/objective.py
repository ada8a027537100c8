"""The whole loss of a training step, as GRPOConfig describes it.

    loss = sum_t w_t (c_t m_t policy_t + kl_coef kl_t - entropy_coef H_t)

policy_t is the loss that `train.loss` names (registry.py), c_t the off-policy weight (correction.py), m_t 1 for the
tokens that may have a policy gradient (entropy.py), kl_t and H_t the KL term and the entropy (kl.py, entropy.py), and
w_t the normaliser (normaliser.py), counted over the whole optimizer batch: shares of micro-batches add up. With
train.advantage: teacher, A_t = log p_teacher - log pi_old of each sampled token: the gradient of the reverse KL to the
teacher, of one token at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from grpo.config import GRPOConfig
from grpo.losses.correction import Correction, corrected, correction_metrics, correction_stats
from grpo.losses.entropy import EntropyCoefficient
from grpo.losses.kl import kl_estimate, kl_term
from grpo.losses.registry import policy_loss_of
from grpo.losses.types import LossInputs, LossTerms
from grpo.names import NORMALISERS


class Objective:
    """Call it with each micro-batch, and `observe` the metrics of each optimizer batch.

    distils                  advantages are a teacher's, which ref_logprobs_T are of then
    needs_reference          inputs need ref_logprobs_T
    needs_entropy_gradient   inputs need an entropy_T that carries a gradient
    needs_policy_mask        inputs need policy_mask_T, by `entropy_threshold` at `config.entropy_top_share`
    skips_zero_advantage     completions without advantage have no gradient: leaving them out is exact
    """

    def __init__(self, config: GRPOConfig) -> None:
        self._config = config
        self._policy_loss = policy_loss_of(config)
        self._mismatch = Correction(config.correction, config.correction_cap, config.correction_floor)
        self._staleness = Correction(
            config.stale_correction or config.correction,
            config.correction_cap if config.stale_cap is None else config.stale_cap,
            config.correction_floor if config.stale_floor is None else config.stale_floor,
        )
        self.entropy = EntropyCoefficient(
            config.entropy_coef, config.entropy_target, config.entropy_coef_step, config.entropy_coef_max
        )
        self.distils = config.advantage_kind == "teacher"
        self._has_kl = config.kl_coef > 0 and config.kl_place == "loss"
        self.needs_reference = self._has_kl or self.distils
        self.needs_entropy_gradient = config.entropy_coef > 0 or config.entropy_target is not None
        self.needs_policy_mask = config.entropy_top_share < 1
        own_loss = config.loss not in NORMALISERS  # it may have a gradient without advantage
        self.skips_zero_advantage = not (self.needs_reference or self.needs_entropy_gradient or own_loss)

    def __call__(self, inputs: LossInputs) -> LossTerms:
        if self.distils:
            assert inputs.ref_logprobs_T is not None
            inputs = replace(inputs, advantage_T=inputs.ref_logprobs_T - inputs.old_logprobs_T)
        correction = corrected(inputs, self._mismatch, self._staleness)
        policy = self._policy_loss(replace(inputs, old_logprobs_T=correction.old_logprobs_T))
        loss_T = policy.loss_T * correction.weight_T
        if inputs.policy_mask_T is not None:
            loss_T = loss_T * inputs.policy_mask_T
        if self._has_kl:
            kl_T = kl_term(inputs, self._config.kl_estimator, self._config.kl_corrected)
            loss_T = loss_T + self._config.kl_coef * kl_T
        if self.entropy.value:
            loss_T = loss_T - self.entropy.value * inputs.entropy_T
        loss = (loss_T * inputs.weight_T).sum()
        stats = {"loss": loss.detach(), "clipped": policy.clipped_T.sum(), "entropy": inputs.entropy_T.detach().sum()}
        return LossTerms(loss, stats | correction_stats(inputs, correction) | self._kl_stats(inputs))

    def _kl_stats(self, inputs: LossInputs) -> dict[str, Tensor]:
        if inputs.ref_logprobs_T is None:
            return {}
        kl_T = kl_estimate(self._config.kl_estimator, inputs.logprobs_T.detach(), inputs.ref_logprobs_T)
        return {"kl": kl_T.sum()}

    def metrics(self, sums: Mapping[str, float], tokens: int, updates: int = 1) -> dict[str, float]:
        """Metrics of the optimizer batch from the stats of its micro-batches, summed over all updates.

        Args:
            tokens: trained tokens of the batch. 0: there are only loss, clipped and kl, all 0.
        """
        metrics = {"loss": sums.get("loss", 0.0) / updates}
        tokens *= updates
        metrics |= {name: sums.get(name, 0.0) / max(tokens, 1) for name in ("clipped", "kl")}
        if not tokens:
            return metrics
        if self.needs_entropy_gradient:
            metrics["entropy_coef"] = self.entropy.value
        return metrics | {"entropy": sums["entropy"] / tokens} | correction_metrics(sums, tokens)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Steers the entropy coefficient by the metrics of the optimizer batch that was just trained."""
        if "entropy" in metrics:
            self.entropy.observe(metrics["entropy"])

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, itself."""
        return {"entropy": self.entropy.state}


def policy_loss(inputs: LossInputs, config: GRPOConfig | None = None) -> LossTerms:
    """A micro-batch's share of the loss that `config` (default: plain GRPO) describes. See the module's formula."""
    return Objective(config or GRPOConfig())(inputs)
