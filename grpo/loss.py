"""The clipped policy-gradient loss and its normalisers.

    loss = sum_t w_t * ( c_t * max(-rho_t A_t, -clip(rho_t, 1 - low, 1 + high) A_t) + beta * k3_t )

with rho_t = pi(t) / pi_old(t), c_t the truncated importance weight min(pi_old(t) / pi_sampler(t), cap)
that corrects for a sampler that computes other log-probs than the trainer (arXiv 2508.02506 calls it TIS),
and k3_t = exp(ref_t - logp_t) - (ref_t - logp_t) - 1. What the algorithms differ in is w_t:

    grpo     1 / (N * |o_i|)       each completion weighs the same      arXiv 2402.03300, eq. 3
    dr_grpo  1 / (N * max_tokens)  no length bias                       arXiv 2503.20783
    dapo     1 / sum_i |o_i|       each token weighs the same           arXiv 2503.14476

N and the sums are over the whole optimizer batch, groups without advantage included, so splitting the
batch into micro-batches leaves the gradient as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["grpo", "dr_grpo", "dapo"]


def token_weights(kind: Kind, lengths: Sequence[int], max_tokens: int) -> list[float]:
    """The weight w of each token of each completion in the optimizer batch.

    Args:
        lengths: trained tokens of every completion of the batch, 0 for one that is masked out.
        max_tokens: the longest completion allowed (dr_grpo's constant).
    """
    n = len(lengths)
    if kind == "grpo":
        return [1.0 / (n * max(length, 1)) for length in lengths]
    if kind == "dr_grpo":
        return [1.0 / (n * max_tokens)] * n
    return [1.0 / max(sum(lengths), 1)] * n


class LossTerms(NamedTuple):
    loss: Tensor  # scalar; carries the gradient
    clipped: Tensor  # scalar, no gradient: tokens whose ratio the clip holds
    kl: Tensor  # scalar, no gradient: sum of k3 over tokens (0 without a reference)


def policy_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantage_T: Tensor,
    weight_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    correction_T: Tensor | None = None,
    kl_coef: float = 0.0,
    ref_logprobs_T: Tensor | None = None,
) -> LossTerms:
    """This micro-batch's share of the loss (see the module's formula); shares add up over micro-batches.

    Args:
        logprobs_T: log-probs under the policy being trained, with gradient.
        old_logprobs_T: under the policy at the start of this batch's updates, without gradient.
        weight_T: `token_weights` of each token's completion.
        correction_T: truncated importance weights of trainer to sampler, without gradient.
    """
    ratio_T = torch.exp(logprobs_T - old_logprobs_T)
    unclipped_T = -ratio_T * advantage_T
    clipped_T = -torch.clamp(ratio_T, 1 - clip_low, 1 + clip_high) * advantage_T
    per_token_T = torch.maximum(unclipped_T, clipped_T)
    if correction_T is not None:
        per_token_T = per_token_T * correction_T
    kl = logprobs_T.new_zeros(())
    if kl_coef > 0:
        if ref_logprobs_T is None:
            raise ValueError("policy_loss: kl_coef > 0 needs ref_logprobs_T, got None")
        log_ratio_T = ref_logprobs_T - logprobs_T
        k3_T = torch.exp(log_ratio_T) - log_ratio_T - 1
        per_token_T = per_token_T + kl_coef * k3_T
        kl = k3_T.detach().sum()
    return LossTerms(
        loss=(per_token_T * weight_T).sum(),
        clipped=(clipped_T > unclipped_T).sum(),
        kl=kl,
    )


def truncated_correction(old_logprobs_T: Tensor, sampler_logprobs_T: Tensor, cap: float) -> Tensor:
    """min(pi_old / pi_sampler, cap) of each token, without gradient."""
    return torch.exp(old_logprobs_T.detach() - sampler_logprobs_T).clamp(max=cap)
