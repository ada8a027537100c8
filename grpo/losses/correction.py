"""Off-policy correction: tokens were not drawn from the policy that the loss starts from.

Three policies: pi is trained; pi_old is the trainer's at the start of the batch's updates; pi_s sampled, on the server.
u_t = pi_old(t) / pi_s(t) differs from 1 for two causes, which are kept apart by token and have a setting each:

    mismatch   the server computes other log-probs from the same weights     tokens of the current weights
    staleness  the server sampled with older weights (mismatch comes on top)  tokens of older weights

What is done about each:

    none               weight 1
    truncate           min(u_t, cap)                           TIS, Yao et al. 2025
    mask               u_t if floor <= u_t <= cap, else 0      IcePop, arXiv 2510.18855 (floor 0.5, cap 5)
    decoupled          u_t if u_t <= cap, else 0               AReaL, arXiv 2505.24298, with its code's cap
    sequence_truncate  min(g_i, cap)                           g_i = exp(mean_t log u_t), the geometric mean of the
    sequence_mask      g_i if floor <= g_i <= cap, else 0      completion's tokens of that cause
    coupled            weight 1, and pi_s in place of pi_old   PPO as written: the loss's own ratio and clip see u_t
                       in the loss

All but `coupled` are decoupled in AReaL's sense: the loss clips around pi_old, the weight stands outside.
Truncation has `floor` as a lower bound too (0: none). TRL's sequence modes take the product of u_t, whose spread
grows with length; ours the geometric mean, as its authors advise: the same for completions of one token.

Degenerate: pi_s = pi_old gives weight 1 for every kind. Nothing here carries a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from grpo.losses.kl import kl_estimate
from grpo.losses.sequences import sequence_mean
from grpo.losses.types import LossInputs
from grpo.names import CorrectionKind


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done about one cause."""

    kind: CorrectionKind
    cap: float = 2.0
    floor: float = 0.0


class Corrected(NamedTuple):
    weight_T: Tensor  # of the policy loss
    cut_T: Tensor  # bool: tokens whose weight was bounded or set to 0
    old_logprobs_T: Tensor  # what the loss's ratio is taken to


def corrected(inputs: LossInputs, mismatch: Correction, staleness: Correction) -> Corrected:
    """`mismatch` for the tokens of the current weights, `staleness` for those of older ones."""
    current = _corrected(inputs, mismatch)
    if inputs.staleness_T is None:
        return current
    old = _corrected(inputs, staleness)
    stale_T = inputs.staleness_T > 0
    return Corrected(*(torch.where(stale_T, a, b) for a, b in zip(old, current, strict=True)))


@torch.no_grad()
def _corrected(inputs: LossInputs, correction: Correction) -> Corrected:
    log_ratio_T = inputs.old_logprobs_T - inputs.sampler_logprobs_T
    kind, cap, floor = correction.kind, correction.cap, correction.floor
    if kind in ("none", "coupled"):
        proximal_T = inputs.old_logprobs_T if kind == "none" else inputs.sampler_logprobs_T
        return Corrected(torch.ones_like(log_ratio_T), torch.zeros_like(log_ratio_T, dtype=torch.bool), proximal_T)
    if kind.startswith("sequence"):
        log_ratio_T = _completion_means(inputs, log_ratio_T)
    ratio_T = torch.exp(log_ratio_T)
    floor = 0.0 if kind == "decoupled" else floor
    cut_T = (ratio_T < floor) | (ratio_T > cap)
    weight_T = ratio_T.clamp(floor, cap) if kind.endswith("truncate") else ratio_T.masked_fill(cut_T, 0.0)
    return Corrected(weight_T, cut_T, inputs.old_logprobs_T)


def _completion_means(inputs: LossInputs, log_ratio_T: Tensor) -> Tensor:
    """Of each token, the mean over the tokens of its completion that have the same cause."""
    sequence_T, n = inputs.sequence_T, inputs.n_sequences
    if inputs.staleness_T is not None:
        sequence_T, n = sequence_T + n * (inputs.staleness_T > 0), 2 * n
    return sequence_mean(log_ratio_T, sequence_T, n)[sequence_T]


@torch.no_grad()
def correction_stats(inputs: LossInputs, result: Corrected) -> dict[str, Tensor]:
    """Sums over the micro-batch's tokens, for `correction_metrics`."""
    difference_T = inputs.old_logprobs_T - inputs.sampler_logprobs_T
    kl_T = kl_estimate("k3", inputs.sampler_logprobs_T, inputs.old_logprobs_T)
    stats = {
        "logprob_diff": difference_T.abs().sum(),
        "kl_sampler": kl_T.sum(),
        "weight": result.weight_T.sum(),
        "weight_squared": result.weight_T.square().sum(),
        "corrected": result.cut_T.sum(),
    }
    if inputs.staleness_T is not None:
        stale_T = inputs.staleness_T > 0
        stats |= {
            "stale": stale_T.sum(),
            "kl_sampler_stale": torch.where(stale_T, kl_T, 0.0).sum(),
            "corrected_stale": (result.cut_T & stale_T).sum(),
        }
    return stats


def correction_metrics(sums: Mapping[str, float], tokens: float) -> dict[str, float]:
    """Metrics of an optimizer batch of `tokens` tokens from the sums of `correction_stats`.

    logprob_diff    mean |pi_old - pi_s| log-prob, nats
    kl_sampler      k3 estimate of KL(pi_s || pi_old), nats a token
    ess             effective sample size (sum w)^2 / (n sum w^2) of the weights, as a share of the tokens
    corrected       share of tokens whose weight was bounded or set to 0
    stale           share of tokens that older weights sampled
    kl_sampler_fresh, kl_sampler_stale, corrected_fresh, corrected_stale    of the tokens of either cause
    """
    metrics = {name: sums[name] / tokens for name in ("logprob_diff", "kl_sampler", "corrected")}
    metrics["ess"] = sums["weight"] ** 2 / (tokens * sums["weight_squared"]) if sums["weight_squared"] else 0.0
    stale = sums.get("stale", 0.0)
    if "stale" in sums:
        metrics["stale"] = stale / tokens
    for name in ("kl_sampler", "corrected") if stale else ():
        metrics[f"{name}_stale"] = sums[f"{name}_stale"] / stale
        if tokens > stale:
            metrics[f"{name}_fresh"] = (sums[name] - sums[f"{name}_stale"]) / (tokens - stale)
    return metrics
