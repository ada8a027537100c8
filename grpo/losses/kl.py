"""Estimates of KL(pi || ref) from the tokens that pi sampled, Schulman's "Approximating KL divergence" (2020).

    r = log pi(t) - log ref(t)
    k1 = r                  unbiased, may be negative; its gradient is 0 on average
    k2 = r^2 / 2            biased value; its gradient is that of KL(pi || ref) on policy
    k3 = exp(-r) - 1 + r    unbiased and never negative; its gradient is that of KL(ref || pi)   GRPO, arXiv 2402.03300

In the loss, `corrected` multiplies the estimate by rho_t = pi(t) / pi_old(t), gradient included, which makes value
and gradient those of KL(pi || ref) whatever the estimator (DeepSeek-V3.2, arXiv 2512.02556; TRL's
use_bias_correction_kl). Departure from TRL: with gspo its rho is the completion's, ours always the token's.

In the reward (PPO's way, arXiv 2203.02155): the completion's reward loses coef * sum_t k(t) before advantages,
with pi the sampler. Degenerate: pi = ref gives 0 for each of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.losses.sequences import sequence_sum
from grpo.losses.types import LossInputs
from grpo.names import KLEstimator


def kl_estimate(estimator: KLEstimator, logprobs_T: Tensor, ref_logprobs_T: Tensor) -> Tensor:
    """One estimate a token, shape (T,), in nats."""
    log_ratio_T = logprobs_T - ref_logprobs_T
    if estimator == "k1":
        return log_ratio_T
    if estimator == "k2":
        return log_ratio_T.square() / 2
    return torch.expm1(-log_ratio_T) + log_ratio_T


def kl_term(inputs: LossInputs, estimator: KLEstimator, corrected: bool) -> Tensor:
    """The KL term of the loss by token, shape (T,), before its coefficient."""
    if inputs.ref_logprobs_T is None:
        raise ValueError("kl_term: a KL in the loss needs inputs.ref_logprobs_T, got None")
    kl_T = kl_estimate(estimator, inputs.logprobs_T, inputs.ref_logprobs_T)
    if corrected:
        kl_T = kl_T * torch.exp(inputs.logprobs_T - inputs.old_logprobs_T)
    return kl_T


def kl_penalties(
    estimator: KLEstimator, logprobs_T: Tensor, ref_logprobs_T: Tensor, sequence_T: Tensor, n_sequences: int
) -> Tensor:
    """Each completion's estimate, summed over its tokens, shape (n_sequences,): times kl_coef, off its reward.

    Args:
        logprobs_T: of the policy that sampled, at the sampling temperature as `ref_logprobs_T` is.
    """
    return sequence_sum(kl_estimate(estimator, logprobs_T, ref_logprobs_T), sequence_T, n_sequences)
