"""GSPO: ratio and clip of whole completions.

    gspo        s_i   = exp(mean_t log(pi(t) / pi_old(t)))            one ratio for the completion
    gspo_token  s_i,t = sg[s_i] pi(t) / sg[pi(t)]                     its value, with each token's own gradient
    loss_t = max(-s A_t, -clip(s, 1 - low, 1 + high) A_t)

arXiv 2507.18071 (sg: no gradient). Each token carries its completion's value; the sequence
normaliser then gives the paper's mean over completions. Published clips: low 3e-4, high 4e-4.

Degenerate: with one advantage in a completion both have the same value and gradient, as the paper shows;
completions of one token give the clipped loss of clipped.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from grpo.losses.clipped import clipped
from grpo.losses.sequences import sequence_mean
from grpo.losses.types import LossInputs, TokenLoss


def gspo(inputs: LossInputs, *, clip_low: float, clip_high: float) -> TokenLoss:
    """`clipped_T`: tokens of the completions whose ratio the clip holds."""
    log_ratio_T = inputs.logprobs_T - inputs.old_logprobs_T
    log_ratio_S = sequence_mean(log_ratio_T, inputs.sequence_T, inputs.n_sequences)
    return _clip(inputs, log_ratio_S[inputs.sequence_T], clip_low, clip_high)


def gspo_token(inputs: LossInputs, *, clip_low: float, clip_high: float) -> TokenLoss:
    """As `gspo`, for advantages that differ by token."""
    log_ratio_T = (inputs.logprobs_T - inputs.old_logprobs_T).detach()
    log_ratio_S = sequence_mean(log_ratio_T, inputs.sequence_T, inputs.n_sequences)
    own_gradient_T = inputs.logprobs_T - inputs.logprobs_T.detach()
    return _clip(inputs, log_ratio_S[inputs.sequence_T] + own_gradient_T, clip_low, clip_high)


def _clip(inputs: LossInputs, log_ratio_T: torch.Tensor, clip_low: float, clip_high: float) -> TokenLoss:
    by_sequence = replace(inputs, logprobs_T=log_ratio_T, old_logprobs_T=torch.zeros_like(log_ratio_T))
    return clipped(by_sequence, clip_low=clip_low, clip_high=clip_high)
