"""The clipped surrogate of grpo, bnpo, dr_grpo and dapo.

    loss_t = max(-rho_t A_t, -clip(rho_t, 1 - low, 1 + high) A_t),    rho_t = pi(t) / pi_old(t)

PPO, arXiv 1707.06347, eq. 7; low < high is DAPO's clip-higher (arXiv 2503.14476). The names that share it
differ in their normaliser. `clip_max` is the two-sided clip of INTELLECT-2 (arXiv 2505.07291; TRL's delta):
rho is at most clip_max in the first term too, so that a negative advantage cannot push a token without bound.

Degenerate: at pi = pi_old nothing is clipped, loss_t = -A_t and its gradient is REINFORCE's.
"""

from __future__ import annotations

import torch

from grpo.losses.types import LossInputs, TokenLoss


def clipped(inputs: LossInputs, *, clip_low: float, clip_high: float, clip_max: float | None = None) -> TokenLoss:
    """`clipped_T`: tokens whose ratio the clip holds, so that they have no gradient."""
    ratio_T = torch.exp(inputs.logprobs_T - inputs.old_logprobs_T)
    bounded_T = ratio_T if clip_max is None else ratio_T.clamp(max=clip_max)
    unclipped_T = -bounded_T * inputs.advantage_T
    clipped_T = -ratio_T.clamp(1 - clip_low, 1 + clip_high) * inputs.advantage_T
    held_T = clipped_T > unclipped_T
    if clip_max is not None:
        held_T = held_T | ((ratio_T > clip_max) & (inputs.advantage_T < 0))
    return TokenLoss(torch.maximum(unclipped_T, clipped_T), held_T)
